//! Rows that must be forgotten: what the record of it changes at once, and what it leaves to be removed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Timestamp;
use crate::chunk::{Chunk, ObjectRef, Shard};
use crate::evalset::EvalSet;
use crate::id::{ChunkId, RunNumber, Version};
use crate::manifest::{ChunkData, LateRows};
use crate::state::{Inapplicable, PipelineState};

/// Which rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Those about somebody, whose name is not kept: SHA-256, lower-case hex.
    Subject {
        sha256: String,
    },
    /// Those that came from below a URI.
    Source {
        uri: String,
    },
    Chunk {
        chunk: ChunkId,
    },
    /// Those of chunks that are older than the pipeline keeps.
    Expired {
        chunk: ChunkId,
    },
}

impl Erasure {
    /// Versions that learnt from what it erased of a chunk.
    pub fn witnesses(&self, current: &PipelineState) -> BTreeSet<Version> {
        let trained = self.chunks.iter().filter(|erased| !erased.train_rows.is_empty());
        trained.flat_map(|erased| current.saw(&erased.chunk, self.run, self.reissued)).collect()
    }

    /// Training rows and held-out rows.
    pub fn rows(&self) -> (u64, u64) {
        let train = self.chunks.iter().map(|chunk| chunk.train_rows.len() as u64).sum();
        (train, self.chunks.iter().map(|chunk| chunk.held_out_rows).sum())
    }
}

impl Scope {
    pub fn subject(name: &str) -> Self {
        Self::Subject { sha256: hex::encode(Sha256::digest(name)) }
    }
}

/// One request, once it is recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Erasure {
    /// From 1 within the pipeline.
    pub number: u64,
    pub scope: Scope,
    pub at: Timestamp,
    pub chunks: Vec<ErasedChunk>,
    /// Paths of objects that hold what was erased.
    pub garbage: Vec<String>,
    /// And their SHA-256, as far as workers may have copies.
    pub copies: Vec<String>,
    /// EvalSets that lost items, such as `june#2`.
    pub eval_sets: Vec<String>,
    /// The last run that had begun.
    pub run: RunNumber,
    /// The run that was begun anew without it.
    #[serde(default)]
    pub reissued: Option<RunNumber>,
    /// When the last of `garbage` was removed.
    #[serde(default)]
    pub finished_at: Option<Timestamp>,
}

/// A chunk without the rows. Its shards have new names; the other rows stand where they stood.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErasedChunk {
    pub chunk: ChunkId,
    pub train: Vec<Shard>,
    pub held_out: Vec<Shard>,
    /// As [`Chunk::trained_under`], without the rows.
    #[serde(default)]
    pub trained_under: Option<Vec<Option<ObjectRef>>>,
    /// Rows per label, training rows only.
    pub labels: BTreeMap<String, u64>,
    /// Places of the training rows among all training rows, ascending.
    pub train_rows: Vec<u32>,
    pub held_out_rows: u64,
}

/// By chunk.
type Left<'a> = BTreeMap<&'a ChunkId, &'a ErasedChunk>;

impl PipelineState {
    pub(crate) fn erase(&mut self, erasure: &Erasure, at: Timestamp) -> Result<(), Inapplicable> {
        if let Some(unknown) = erasure.chunks.iter().find(|erased| !self.chunks.contains_key(&erased.chunk)) {
            return Err(Inapplicable::UnknownChunk(unknown.chunk.clone()));
        }
        for erased in &erasure.chunks {
            let chunk = self.chunk(&erased.chunk)?;
            chunk.train.clone_from(&erased.train);
            chunk.held_out.clone_from(&erased.held_out);
            chunk.trained_under.clone_from(&erased.trained_under);
            chunk.labels.clone_from(&erased.labels);
            chunk.erased = true;
        }
        let left: Left = erasure.chunks.iter().map(|erased| (&erased.chunk, erased)).collect();
        for task in &mut self.tasks {
            task.sets.iter_mut().for_each(|set| set.leave(&left));
            task.sets.retain(|set| !set.parts.is_empty());
        }
        if let Some(run) = self.runs.values_mut().rev().find(|run| !run.state.is_terminal()) {
            let (manifest, opened) = (&mut run.manifest, &mut run.opened);
            let remembered = manifest.snapshot.iter_mut().flat_map(|snapshot| &mut snapshot.chunks);
            manifest.chunks.iter_mut().chain(remembered).for_each(|data| data.leave(&left));
            manifest.late.iter_mut().for_each(|late| late.leave(&left));
            manifest.eval_sets.iter_mut().chain(opened).for_each(|set| set.leave(&left));
            manifest.eval_sets.retain(|set| !set.parts.is_empty());
            if erasure.reissued == Some(run.number) {
                run.begin_anew(at);
            }
        }
        self.erasures.push(erasure.clone());
        Ok(())
    }

    pub(crate) fn finish_erasure(&mut self, number: u64, at: Timestamp) -> Result<(), Inapplicable> {
        let known = self.erasures.iter_mut().find(|erasure| erasure.number == number);
        known.ok_or(Inapplicable::UnknownErasure(number))?.finished_at = Some(at);
        Ok(())
    }

    /// The run under way that would read rows of these chunks and can still be kept from it.
    pub fn meets(&self, chunks: &[ErasedChunk]) -> Option<RunNumber> {
        let run = self.active_run().filter(|run| run.can_be_reissued())?;
        let manifest = &run.manifest;
        let remembered = manifest.snapshot.iter().flat_map(|snapshot| &snapshot.chunks);
        let data = manifest.chunks.iter().chain(manifest.late.iter().map(|late| &late.data)).chain(remembered);
        let read = data.map(|data| &data.id);
        let scored = manifest.eval_sets.iter().flat_map(|set| &set.parts).map(|part| &part.chunk);
        let mut all = read.chain(scored);
        all.any(|id| chunks.iter().any(|erased| erased.chunk == *id)).then_some(run.number)
    }

    /// EvalSets with items of these chunks.
    pub fn measured_on(&self, chunks: &[ErasedChunk]) -> Vec<String> {
        let lost = |erased: &ErasedChunk| erased.held_out_rows > 0;
        let named = |set: &&EvalSet| {
            set.parts.iter().any(|part| chunks.iter().any(|erased| lost(erased) && erased.chunk == part.chunk))
        };
        let sets = self.tasks.iter().flat_map(|task| &task.sets).filter(named);
        sets.map(|set| format!("{}#{}", set.task, set.number)).collect()
    }

    /// Chunks that are older than the pipeline keeps, and hold rows.
    pub fn expired(&self, now: Timestamp) -> Vec<ChunkId> {
        let rows = |chunk: &Chunk| chunk.train.iter().chain(&chunk.held_out).any(|shard| shard.erased < shard.rows);
        // What was pushed holds rows even where none was sealed.
        let holds = |chunk: &Chunk| !chunk.erased || rows(chunk);
        let expired = |chunk: &&Chunk| self.pipeline.data.has_expired(chunk, now) && holds(chunk);
        self.chunks.values().filter(expired).map(|chunk| chunk.id.clone()).collect()
    }
}

impl ChunkData {
    fn leave(&mut self, left: &Left) {
        if let Some(erased) = left.get(&self.id) {
            self.train.clone_from(&erased.train);
        }
    }
}

impl LateRows {
    fn leave(&mut self, left: &Left) {
        if let Some(erased) = left.get(&self.data.id) {
            self.data.leave(left);
            self.before = erased.trained_under.clone().unwrap_or_else(|| vec![None; erased.train.len()]);
        }
    }
}

impl EvalSet {
    /// Parts keep the items that are left; one of which none is left goes.
    fn leave(&mut self, left: &Left) {
        for part in &mut self.parts {
            if let Some(erased) = left.get(&part.chunk) {
                part.shards.clone_from(&erased.held_out);
                part.rows = part.rows.min(erased.held_out.iter().map(Shard::usable).sum());
            }
        }
        self.parts.retain(|part| part.rows > 0);
    }
}
