//! Payloads that were acknowledged before their rows were checked: each pipeline's in the order in which they came.
//!
//! A process that dies leaves some that are recorded and in nobody's line. Whoever patrols next to it takes them over when it has
//! seen them twice: until then the process that received them may be at it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use domain::chunk::{Chunk, ObjectRef, SourceObject};
use domain::id::{ChunkId, PipelineId, TaskName};
use perennial_proto::status::chain;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Interval;
use tracing::{info, warn};

use crate::header::Header;
use crate::spool::Payload;
use crate::{Error, Ingest};

/// A payload whose rows are to be checked and sealed.
pub struct Job {
    pub header: Header,
    pub id: ChunkId,
    pub task: TaskName,
    /// What the payload is called where its content does not tell its format.
    pub name: String,
    pub payload: Payload,
    /// Where it was watched.
    pub source: Option<SourceObject>,
    /// Where it is durable. None: nowhere yet.
    pub raw: Option<ObjectRef>,
}

/// The jobs of this process that nobody waits for.
#[derive(Default)]
pub struct Lines(Mutex<HashMap<PipelineId, Line>>);

#[derive(Default)]
struct Line {
    waiting: VecDeque<(Job, OwnedSemaphorePermit)>,
    /// Those, and the one at whose rows somebody looks.
    chunks: HashSet<ChunkId>,
}

impl Lines {
    fn with<T>(&self, change: impl FnOnce(&mut HashMap<PipelineId, Line>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn holds(&self, pipeline: &PipelineId, chunk: &ChunkId) -> bool {
        self.with(|lines| lines.get(pipeline).is_some_and(|line| line.chunks.contains(chunk)))
    }

    /// Whether nobody is at the pipeline's line, so that somebody has to be. A chunk that stands in it already does not again.
    fn join(&self, job: Job, place: OwnedSemaphorePermit) -> bool {
        self.with(|lines| {
            let is_new = !lines.contains_key(&job.header.pipeline);
            let line = lines.entry(job.header.pipeline.clone()).or_default();
            if line.chunks.insert(job.id.clone()) {
                line.waiting.push_back((job, place));
            }
            is_new
        })
    }

    fn next(&self, pipeline: &PipelineId, done: Option<&ChunkId>) -> Option<(Job, OwnedSemaphorePermit)> {
        self.with(|lines| {
            let line = lines.get_mut(pipeline)?;
            done.map(|chunk| line.chunks.remove(chunk));
            let next = line.waiting.pop_front();
            if next.is_none() {
                lines.remove(pipeline);
            }
            next
        })
    }
}

impl Ingest {
    /// Puts a job into its pipeline's line.
    pub(crate) fn check_later(&self, job: Job, place: OwnedSemaphorePermit) {
        let pipeline = job.header.pipeline.clone();
        if self.lines.join(job, place) {
            let ingest = self.clone();
            tokio::spawn(async move { ingest.check_all(&pipeline).await });
        }
    }

    async fn check_all(&self, pipeline: &PipelineId) {
        let mut done = None;
        while let Some((job, _place)) = self.lines.next(pipeline, done.as_ref()) {
            let chunk = job.id.clone();
            if let Err(error) = self.check(job).await {
                // Its payload is durable: a patrol finds it.
                warn!(%pipeline, %chunk, error = chain(&error), "rows not checked");
            }
            done = Some(chunk);
        }
    }

    async fn check(&self, job: Job) -> Result<(), Error> {
        let (pipeline, id) = (job.header.pipeline.clone(), job.id.clone());
        match self.control.known(&pipeline, &id).await? {
            Some(chunk) if chunk.checked_again => self.seal(job).await.map(drop),
            _ => Ok(()),
        }
    }

    /// Takes chunks over that were received and are in nobody's line. One round at each tick; never returns.
    pub async fn patrol(self, mut ticks: Interval) {
        let mut seen = HashSet::new();
        loop {
            ticks.tick().await;
            match self.look_around(&seen).await {
                Ok(found) => seen = found,
                Err(error) => warn!(error = chain(&error), "nobody looked for rows to check"),
            }
        }
    }

    /// What is in nobody's line here and has not been seen before; the others are taken over.
    async fn look_around(
        &self,
        seen: &HashSet<(PipelineId, ChunkId)>,
    ) -> Result<HashSet<(PipelineId, ChunkId)>, Error> {
        let mut found = HashSet::new();
        for pipeline in self.control.pipelines().await? {
            let id = pipeline.id();
            for chunk in self.control.unchecked(&id).await? {
                let name = (id.clone(), chunk.id.clone());
                if self.lines.holds(&name.0, &name.1) {
                    continue;
                }
                // Where there is no place, the next round may find one.
                let place = if seen.contains(&name) { self.places.clone().try_acquire_owned().ok() } else { None };
                match place {
                    Some(place) => self.take_over(&id, chunk, place).await,
                    None => drop(found.insert(name)),
                }
            }
        }
        Ok(found)
    }

    async fn take_over(&self, pipeline: &PipelineId, chunk: Chunk, place: OwnedSemaphorePermit) {
        let id = chunk.id.clone();
        match self.job_of(pipeline, chunk).await {
            Ok(job) => {
                info!(%pipeline, chunk = %id, "taken over: its rows were not checked");
                self.check_later(job, place);
            }
            Err(error) => warn!(%pipeline, chunk = %id, error = chain(&error), "not taken over"),
        }
    }

    async fn job_of(&self, pipeline: &PipelineId, chunk: Chunk) -> Result<Job, Error> {
        let header = Header::of(pipeline.clone(), &chunk).map_err(Error::Answer)?;
        let payload = self.fetch_received(&chunk.raw).await?;
        let Chunk { id, task, raw, .. } = chunk;
        Ok(Job { header, id, task, name: raw.path.clone(), payload, source: None, raw: Some(raw) })
    }
}
