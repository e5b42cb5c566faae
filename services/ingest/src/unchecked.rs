//! Payloads that were acknowledged before their rows were checked: each pipeline's in the order in which they came.
//!
//! A process that dies leaves some that are recorded and in nobody's line. Whoever patrols next to it takes them over when it has
//! seen them twice: until then the process that received them may be at it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use domain::chunk::{Chunk, ObjectRef, SourceObject};
use domain::id::{ChunkId, PipelineId, TaskName};
use perennial_proto::status::chain;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Interval;
use tonic::Code;
use tracing::{info, warn};

use crate::header::Header;
use crate::spool::Payload;
use crate::take::RECEIVED;
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
pub struct Waiting {
    pub chunk: Chunk,
    /// None: it is fetched when its turn comes.
    pub held: Option<Held>,
    /// Whether this process received it.
    pub own: bool,
}

/// The chunks that this process will look at.
#[derive(Default)]
pub struct Lines(Mutex<HashMap<PipelineId, Line>>);

#[derive(Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    /// Those, and the one at whose rows somebody looks; and of each whether it is an own one.
    chunks: HashMap<ChunkId, bool>,
}

impl Lines {
    fn with<T>(&self, change: impl FnOnce(&mut HashMap<PipelineId, Line>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many chunks there are that this process received.
    pub fn own(&self) -> usize {
        self.with(|lines| lines.values().flat_map(|line| line.chunks.values()).filter(|own| **own).count())
    }

    fn is_empty(&self, pipeline: &PipelineId) -> bool {
        self.with(|lines| !lines.contains_key(pipeline))
    }

    /// Whether nobody is at the pipeline's line, so that somebody has to be. A chunk that stands in it already does not again.
    fn join(&self, pipeline: &PipelineId, waiting: Waiting) -> bool {
        self.with(|lines| {
            let is_new = !lines.contains_key(pipeline);
            let line = lines.entry(pipeline.clone()).or_default();
            if line.chunks.insert(waiting.chunk.id.clone(), waiting.own).is_none() {
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

/// Between two tries, while the store or the control role is away.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(10)];
/// Chunks of one pipeline that a round takes over at most. Who received them may live and be slow.
const TAKEN_OVER: usize = 16;

impl Ingest {
    /// Puts a chunk that was received into its pipeline's line.
    pub(crate) fn check_later(&self, pipeline: &PipelineId, waiting: Waiting) {
        if self.lines.join(pipeline, waiting) {
            let (ingest, pipeline) = (self.clone(), pipeline.clone());
            tokio::spawn(async move { ingest.check_all(&pipeline).await });
        }
    }

    async fn check_all(&self, pipeline: &PipelineId) {
        let mut done = None;
        while let Some(Waiting { chunk, mut held, .. }) = self.lines.next(pipeline, done.as_ref()) {
            let [mut pause, longest] = PAUSES;
            while let Err(error) = self.check(pipeline, &chunk, held.take()).await {
                warn!(%pipeline, chunk = %chunk.id, error = chain(&error), "rows not checked yet");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(longest);
            }
            done = Some(chunk.id);
        }
    }

    /// An error passes. What does not puts the chunk into quarantine: or nobody would ever get past it.
    async fn check(&self, pipeline: &PipelineId, chunk: &Chunk, held: Option<Held>) -> Result<(), Error> {
        let known = self.control.known(pipeline, &chunk.id).await?;
        if known.is_none_or(|known| known.state != RECEIVED) {
            return Ok(());
        }
        let header = Header::of(pipeline.clone(), chunk).map_err(Error::Answer)?;
        match self.check_rows(&header, chunk, held).await {
            Err(error) if is_final(&error) => {
                let chunk = Chunk { reading: None, ..chunk.clone() };
                self.control.record(&header, &chunk, Vec::new(), chain(&error)).await.map(drop)
            }
            outcome => outcome,
        }
    }

    async fn check_rows(&self, header: &Header, chunk: &Chunk, held: Option<Held>) -> Result<(), Error> {
        let Chunk { id, task, raw, .. } = chunk.clone();
        let (payload, _place) = match held {
            Some(Held { payload, place }) => (payload, Some(place)),
            None => (self.fetch_received(&raw).await?, None),
        };
        let (header, name) = (header.clone(), raw.path.clone());
        self.seal(Job { header, id, task, name, payload, source: None, raw: Some(raw) }).await.map(drop)
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

    /// Of each pipeline of which nothing stands in a line here: what has not been seen before. The others are taken over.
    async fn look_around(
        &self,
        seen: &HashSet<(PipelineId, ChunkId)>,
    ) -> Result<HashSet<(PipelineId, ChunkId)>, Error> {
        let mut found = HashSet::new();
        for pipeline in self.control.pipelines().await? {
            let id = pipeline.id();
            let unchecked = match self.control.unchecked(&id).await {
                Ok(unchecked) => unchecked,
                Err(error) => {
                    warn!(pipeline = %id, error = chain(&error), "nobody looked for rows to check");
                    continue;
                }
            };
            if !self.lines.is_empty(&id) {
                continue;
            }
            for chunk in unchecked.into_iter().take(TAKEN_OVER) {
                let name = (id.clone(), chunk.id.clone());
                if seen.contains(&name) {
                    info!(pipeline = %id, chunk = %chunk.id, "taken over: its rows were not checked");
                    self.check_later(&id, Waiting { chunk, held: None, own: false });
                } else {
                    found.insert(name);
                }
            }
        }
        Ok(found)
    }
}

/// Whether it would happen again and again.
fn is_final(error: &Error) -> bool {
    use Code::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OutOfRange};
    matches!(error, Error::Stopped(_))
        || matches!(error.code(), AlreadyExists | FailedPrecondition | InvalidArgument | NotFound | OutOfRange)
}
