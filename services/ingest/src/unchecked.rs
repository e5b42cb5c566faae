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

/// A payload that is still on this process's disk.
pub struct Held {
    pub payload: Payload,
    /// To hold one.
    pub place: OwnedSemaphorePermit,
}

/// A chunk as it was received.
struct Waiting {
    chunk: Chunk,
    /// None: it is fetched when its turn comes.
    held: Option<Held>,
}

/// The chunks that this process will look at.
#[derive(Default)]
pub struct Lines(Mutex<HashMap<PipelineId, Line>>);

#[derive(Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    /// Those, and the one at whose rows somebody looks.
    chunks: HashSet<ChunkId>,
}

impl Lines {
    fn with<T>(&self, change: impl FnOnce(&mut HashMap<PipelineId, Line>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many chunks there are.
    pub fn len(&self) -> usize {
        self.with(|lines| lines.values().map(|line| line.chunks.len()).sum())
    }

    fn has(&self, pipeline: &PipelineId, chunk: &ChunkId) -> bool {
        self.with(|lines| lines.get(pipeline).is_some_and(|line| line.chunks.contains(chunk)))
    }

    /// Whether nobody is at the pipeline's line, so that somebody has to be. A chunk that stands in it already does not again.
    fn join(&self, pipeline: &PipelineId, waiting: Waiting) -> bool {
        self.with(|lines| {
            let is_new = !lines.contains_key(pipeline);
            let line = lines.entry(pipeline.clone()).or_default();
            if line.chunks.insert(waiting.chunk.id.clone()) {
                line.waiting.push_back(waiting);
            }
            is_new
        })
    }

    fn next(&self, pipeline: &PipelineId, done: Option<&ChunkId>) -> Option<Waiting> {
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
    /// Puts a chunk that was received into its pipeline's line.
    pub(crate) fn check_later(&self, pipeline: &PipelineId, chunk: Chunk, held: Option<Held>) {
        if self.lines.join(pipeline, Waiting { chunk, held }) {
            let (ingest, pipeline) = (self.clone(), pipeline.clone());
            tokio::spawn(async move { ingest.check_all(&pipeline).await });
        }
    }

    async fn check_all(&self, pipeline: &PipelineId) {
        let mut done = None;
        while let Some(waiting) = self.lines.next(pipeline, done.as_ref()) {
            let chunk = waiting.chunk.id.clone();
            if let Err(error) = self.check(pipeline, waiting).await {
                // Its payload is durable: a patrol finds it.
                warn!(%pipeline, %chunk, error = chain(&error), "rows not checked");
            }
            done = Some(chunk);
        }
    }

    async fn check(&self, pipeline: &PipelineId, Waiting { chunk, held }: Waiting) -> Result<(), Error> {
        let known = self.control.known(pipeline, &chunk.id).await?;
        if known.is_none_or(|known| !known.checked_again) {
            return Ok(());
        }
        let header = Header::of(pipeline.clone(), &chunk).map_err(Error::Answer)?;
        let (payload, _place) = match held {
            Some(Held { payload, place }) => (payload, Some(place)),
            None => (self.fetch_received(&chunk.raw).await?, None),
        };
        let Chunk { id, task, raw, .. } = chunk;
        let job = Job { header, id, task, name: raw.path.clone(), payload, source: None, raw: Some(raw) };
        self.seal(job).await.map(drop)
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
                if self.lines.has(&id, &chunk.id) {
                    continue;
                }
                let name = (id.clone(), chunk.id.clone());
                if seen.contains(&name) {
                    info!(pipeline = %id, chunk = %chunk.id, "taken over: its rows were not checked");
                    self.check_later(&id, chunk, None);
                } else {
                    found.insert(name);
                }
            }
        }
        Ok(found)
    }
}
