//! What erased rows have taught, as far as anything still remembers it.

use std::collections::{BTreeMap, BTreeSet};

use domain::buffer::Snapshot;
use domain::chunk::ObjectRef;
use domain::erasure::{Erasure, Scope};
use domain::id::{ChunkId, PipelineId, Version};
use domain::planning;
use domain::state::PipelineState;
use perennial_proto::convert::{from_json, pipeline_id};
use perennial_proto::limits::page;
use perennial_proto::v1;
use store::objects;

use super::Eraser;
use crate::error::Error;

/// Among a version's files: what its method keeps of remembered rows.
const ANSWERS: &str = "/learner.safetensors";

/// A version that learnt from erased rows.
struct Witness {
    version: Version,
    snapshot: ObjectRef,
    /// Whether its memory refers to one of the chunks.
    remembers: bool,
    answers: bool,
}

impl Eraser {
    pub(crate) async fn list(&self, request: v1::ListErasuresRequest) -> Result<v1::ListErasuresResponse, Error> {
        let pipeline = pipeline_id("parent", &request.parent)?;
        let erasures = self.journal.read(|state| {
            Ok::<_, Error>(planning::pipeline(state, &pipeline)?.erasures.iter().rev().cloned().collect::<Vec<_>>())
        })?;
        let (chosen, next_page_token) = page(erasures, request.page_size, &request.page_token)?;
        let mut erasures = Vec::new();
        for erasure in chosen {
            erasures.push(self.describe(&pipeline, &erasure).await?);
        }
        Ok(v1::ListErasuresResponse { erasures, next_page_token })
    }

    pub(super) async fn describe(&self, pipeline: &PipelineId, erasure: &Erasure) -> Result<v1::Erasure, Error> {
        let witnesses = self
            .journal
            .read(|state| state.pipelines.get(pipeline).map_or_else(Vec::new, |current| witnesses(current, erasure)));
        let mut versions = Vec::new();
        for witness in witnesses {
            let slots = if witness.remembers { self.slots(&witness.snapshot, erasure).await? } else { 0 };
            let keeps_answers = witness.answers && slots > 0;
            versions.push(v1::Witness { version: witness.version.0, memory_rows: slots, keeps_answers });
        }
        let (train_rows, held_out_rows) = erasure.rows();
        let (subject_sha256, source_uri, chunk, expired) = match erasure.scope.clone() {
            Scope::Subject { sha256 } => (sha256, String::new(), String::new(), false),
            Scope::Source { uri } => (String::new(), uri, String::new(), false),
            Scope::Chunk { chunk } => (String::new(), String::new(), chunk.0, false),
            Scope::Expired { chunk } => (String::new(), String::new(), chunk.0, true),
        };
        Ok(v1::Erasure {
            number: erasure.number,
            subject_sha256,
            source_uri,
            chunk,
            expired,
            at_ms: erasure.at,
            train_rows,
            held_out_rows,
            chunks: erasure.chunks.iter().map(|erased| erased.chunk.to_string()).collect(),
            reissued_run: erasure.reissued.unwrap_or_default(),
            eval_sets: erasure.eval_sets.clone(),
            finished_at_ms: erasure.finished_at.unwrap_or_default(),
            versions,
        })
    }

    /// Slots of a snapshot that refer to erased rows.
    async fn slots(&self, snapshot: &ObjectRef, erasure: &Erasure) -> Result<u64, Error> {
        let bytes = objects::get(&*self.store, snapshot).await?;
        let snapshot: Snapshot = from_json("snapshot", &bytes)?;
        let gone = |erased: &domain::erasure::ErasedChunk| erased.train_rows.iter().copied().collect::<BTreeSet<_>>();
        let gone: BTreeMap<&ChunkId, BTreeSet<u32>> =
            erasure.chunks.iter().map(|erased| (&erased.chunk, gone(erased))).collect();
        let refers = |slot: &&domain::buffer::Slot| {
            let rows = gone.get(&snapshot.chunks[slot.chunk as usize]);
            rows.is_some_and(|rows| rows.contains(&slot.row))
        };
        Ok(snapshot.slots.iter().filter(refers).count() as u64)
    }
}

fn witnesses(current: &PipelineState, erasure: &Erasure) -> Vec<Witness> {
    let witness = |version: Version| {
        let known = &current.versions[&version];
        Witness {
            version,
            snapshot: known.snapshot.object.clone(),
            // Of a retired one nothing is left to look into.
            remembers: !current.retired.contains_key(&version)
                && erasure.chunks.iter().any(|erased| known.snapshot.chunks.contains(&erased.chunk)),
            answers: known.files.iter().any(|file| file.path.ends_with(ANSWERS)),
        }
    };
    erasure.witnesses(current).into_iter().map(witness).collect()
}
