//! Forgets rows on request. In this order: shards without them are written, the record makes those the only ones that anything
//! reads from then on, and what held the rows is removed.

mod report;
mod rewrite;
mod sweep;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use domain::chunk::{Chunk, ChunkState, Shard};
use domain::erasure::{ErasedChunk, Erasure, Scope};
use domain::id::{ChunkId, PipelineId};
use domain::planning::{self, Refusal};
use domain::state::{Event, EventKind, PipelineState, State};
use object_store::ObjectStore;
use perennial_proto::convert::{Invalid, pipeline_id};
use perennial_proto::v1;
use perennial_proto::v1::erase_rows_request::Scope as Wire;
use store::journal::Journal;
use store::{layout, objects};

use self::rewrite::{Rewritten, rewrite};
use crate::error::Error;

/// Rows may come, or get labels, while they are looked through.
const TRIES: usize = 10;

/// Carries out erasures: those that are asked for, and those that time brings.
#[derive(Clone)]
pub struct Eraser {
    journal: Arc<Journal>,
    store: Arc<dyn ObjectStore>,
}

/// Which rows to erase.
#[derive(Clone, Debug)]
enum Target {
    /// By the name that the record does not keep.
    Subject(String),
    Source(String),
    Chunk(ChunkId),
    Expired(ChunkId),
}

impl Target {
    fn read(wire: Option<Wire>, pipeline: &PipelineId) -> Result<Self, Invalid> {
        let given = |field, text: String| match text.is_empty() {
            true => Err(Invalid::new(field, "empty; say whose rows, which source's or which chunk's")),
            false => Ok(text),
        };
        match wire {
            Some(Wire::Subject(name)) => given("subject", name).map(Self::Subject),
            Some(Wire::SourceUri(uri)) => given("source_uri", uri).map(Self::Source),
            Some(Wire::Chunk(name)) => {
                let folder = format!("{pipeline}/chunks/");
                given("chunk", name)
                    .map(|name| Self::Chunk(ChunkId(name.strip_prefix(&folder).unwrap_or(&name).to_owned())))
            }
            None => Err(Invalid::new("scope", "missing; say whose rows, which source's or which chunk's")),
        }
    }

    fn scope(&self) -> Scope {
        match self {
            Self::Subject(name) => Scope::subject(name),
            Self::Source(uri) => Scope::Source { uri: uri.clone() },
            Self::Chunk(chunk) => Scope::Chunk { chunk: chunk.clone() },
            Self::Expired(chunk) => Scope::Expired { chunk: chunk.clone() },
        }
    }

    /// Chunks that may hold such rows.
    fn candidates(&self, current: &PipelineState) -> Result<Vec<ChunkId>, Refusal> {
        let those = |may: &dyn Fn(&Chunk) -> bool| {
            current.chunks.values().filter(|chunk| may(chunk)).map(|chunk| chunk.id.clone()).collect()
        };
        match self {
            Self::Subject(_) => Ok(those(&|chunk| chunk.names_subjects)),
            Self::Source(uri) => Ok(those(&|chunk| came_from(chunk, uri))),
            Self::Chunk(id) | Self::Expired(id) => match current.chunks.contains_key(id) {
                true => Ok(vec![id.clone()]),
                false => Err(Refusal::UnknownChunk(id.clone())),
            },
        }
    }
}

/// Whether the chunk's object is this one, or lies below it.
fn came_from(chunk: &Chunk, uri: &str) -> bool {
    let rest = chunk.source.as_ref().and_then(|source| source.uri.strip_prefix(uri.trim_end_matches('/')));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Chunks as they were looked through, and what of them goes.
struct Plan {
    looked_at: Vec<(ChunkId, Print)>,
    rewritten: Vec<Rewritten>,
    garbage: Vec<String>,
}

/// Tells whether a chunk has other shards by now.
type Print = u64;

fn print(chunk: &Chunk) -> Print {
    let mut hasher = DefaultHasher::new();
    let objects = chunk.train.iter().chain(&chunk.held_out).flat_map(Shard::objects);
    let objects = objects.chain(chunk.trained_under.iter().flatten().flatten());
    objects.for_each(|object| object.sha256.hash(&mut hasher));
    hasher.finish()
}

impl Eraser {
    pub fn new(journal: Arc<Journal>, store: Arc<dyn ObjectStore>) -> Self {
        Self { journal, store }
    }

    /// When it returns, nothing that begins reads the rows any more; what held them is removed right after. None: there are
    /// no such rows.
    pub(crate) async fn erase_rows(&self, request: v1::EraseRowsRequest) -> Result<Option<v1::Erasure>, Error> {
        let pipeline = pipeline_id("pipeline", &request.pipeline)?;
        let target = Target::read(request.scope, &pipeline)?;
        match self.erase(&pipeline, &target).await? {
            Some(erasure) => Ok(Some(self.describe(&pipeline, &erasure).await?)),
            None => Ok(None),
        }
    }

    async fn erase(&self, pipeline: &PipelineId, target: &Target) -> Result<Option<Erasure>, Error> {
        match target {
            Target::Subject(_) | Target::Source(_) => self.journal.rows_checked(pipeline, None).await,
            Target::Chunk(chunk) => self.journal.rows_checked(pipeline, Some(chunk)).await,
            // It was received long ago.
            Target::Expired(_) => Ok(()),
        }
        .map_err(Error::Unchecked)?;
        for _ in 0..TRIES {
            let plan = self.plan(pipeline, target).await?;
            if plan.rewritten.is_empty() {
                return Ok(None);
            }
            if let Some(erasure) = self.record(pipeline, target, plan).await? {
                return Ok(Some(erasure));
            }
        }
        Err(Error::Moving)
    }

    /// Writes shards without the rows; nothing refers to them yet.
    async fn plan(&self, pipeline: &PipelineId, target: &Target) -> Result<Plan, Error> {
        let (candidates, run) = self.journal.read(|state| {
            let current = planning::pipeline(state, pipeline)?;
            let run = current.active_run().map(|run| run.number);
            Ok::<_, Error>((target.candidates(current)?, run))
        })?;
        let (mut looked_at, mut rewritten, mut garbage) = (Vec::new(), Vec::new(), Vec::new());
        for id in candidates {
            let chunk = self.journal.read(|state| state.pipelines.get(pipeline)?.chunks.get(&id).cloned());
            let Some(chunk) = chunk else { continue };
            // It came meanwhile: of a subject, this erasure does not speak of it.
            match (&chunk.state, target) {
                (ChunkState::Received, Target::Chunk(_) | Target::Expired(_)) => return Err(Error::Unchecked(id)),
                (ChunkState::Received, _) => continue,
                _ => {}
            }
            let folder = layout::chunk(pipeline, &chunk.id);
            // Before anything is written: what is there now is what may hold the rows.
            let there = objects::list(&*self.store, &folder).await?;
            looked_at.push((id, print(&chunk)));
            let Some(one) = rewrite(&self.store, &folder, &chunk, target).await? else { continue };
            garbage.extend(there.into_iter().filter(|path| !one.keeps(path)));
            rewritten.push(one);
        }
        if let Some(run) = run.filter(|_| !rewritten.is_empty()) {
            // Checkpoints and candidates, if the run turns out to have read the rows.
            garbage.extend(objects::list(&*self.store, &layout::run(pipeline, run)).await?);
        }
        Ok(Plan { looked_at, rewritten, garbage })
    }

    /// None if a chunk came or changed since it was looked through.
    async fn record(&self, pipeline: &PipelineId, target: &Target, plan: Plan) -> Result<Option<Erasure>, Error> {
        let (of, target) = (pipeline.clone(), target.clone());
        let decide = move |state: &State, at| {
            let current = planning::pipeline(state, &of)?;
            let looked_at: BTreeMap<ChunkId, Print> = plan.looked_at.into_iter().collect();
            let stands = |id: &ChunkId| looked_at.get(id) == current.chunks.get(id).map(print).as_ref();
            if !target.candidates(current)?.iter().all(stands) {
                return Ok::<_, Error>((Vec::new(), None));
            }
            let copies = plan.rewritten.iter().flat_map(|one| one.copies.clone()).collect();
            let chunks: Vec<ErasedChunk> = plan.rewritten.into_iter().map(|one| one.chunk).collect();
            let reissued = current.meets(&chunks);
            let runs = format!("{}/", layout::runs(&of));
            let garbage = plan.garbage.into_iter().filter(|path| reissued.is_some() || !path.starts_with(&runs));
            let erasure = Erasure {
                number: current.erasures.last().map_or(1, |last| last.number + 1),
                scope: target.scope(),
                at,
                garbage: garbage.collect(),
                copies,
                eval_sets: current.measured_on(&chunks),
                run: current.last_run(),
                reissued,
                finished_at: None,
                chunks,
            };
            let kind = EventKind::RowsErased { erasure: Box::new(erasure.clone()) };
            Ok((vec![Event { pipeline: of.clone(), kind }], Some(erasure)))
        };
        Ok(self.journal.commit(decide).await?)
    }
}
