//! Labels that come after their rows: what they change, and what they cannot change any more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::chunk::{Chunk, ChunkState, Correction, Shard};
use crate::id::{ChunkId, PipelineId, RunNumber, Version};
use crate::manifest::{ChunkData, LateRows};
use crate::state::{Event, EventKind, Inapplicable, PipelineState, State};
use crate::version::{AdapterVersion, from_there_on};

/// A chunk with the labels that came for rows of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Labelled {
    pub chunk: ChunkId,
    pub train: Vec<Shard>,
    pub held_out: Vec<Shard>,
    /// Rows per label, training rows only.
    pub labels: BTreeMap<String, u64>,
    /// Appended where they are not known yet.
    pub new_labels: Vec<String>,
    /// Rows that had another label before.
    pub changed: u64,
}

impl PipelineState {
    pub(crate) fn label(&mut self, labelled: &Labelled, at: Timestamp) -> Result<(), Inapplicable> {
        let run = self.last_run();
        let absorbed = self.versions.values().any(|version| version.chunks.contains(&labelled.chunk));
        let chunk = self.chunk(&labelled.chunk)?;
        let trained = absorbed || matches!(chunk.state, ChunkState::InRun { .. } | ChunkState::Absorbed { .. });
        if trained && labelled.changed > 0 {
            chunk.corrections.push(Correction { at, rows: labelled.changed, run });
        }
        chunk.train.clone_from(&labelled.train);
        chunk.held_out.clone_from(&labelled.held_out);
        chunk.labels.clone_from(&labelled.labels);
        self.append_labels(&labelled.new_labels);
        Ok(())
    }

    /// Remembers under which labels a run that is published has trained.
    pub(crate) fn note_labels(&mut self, run: RunNumber) {
        let manifest = &self.runs[&run].manifest;
        let trained = manifest.chunks.iter().chain(manifest.late.iter().map(|late| &late.data));
        let labels = |data: &ChunkData| data.train.iter().map(|shard| shard.labels.clone()).collect::<Vec<_>>();
        let noted: Vec<_> = trained.map(|data| (data.id.clone(), labels(data))).collect();
        for (id, labels) in noted {
            if let Some(chunk) = self.chunks.get_mut(&id) {
                chunk.trained_under = labels.iter().any(Option::is_some).then_some(labels);
            }
        }
    }

    /// 0 before the first.
    pub fn last_run(&self) -> RunNumber {
        self.runs.keys().next_back().copied().unwrap_or(0)
    }

    /// Absorbed chunks whose labels are others than those they trained under.
    pub fn late_rows(&self) -> Vec<LateRows> {
        let late = |chunk: &Chunk| {
            let now = chunk.late_labels();
            let before = chunk.trained_under.clone().unwrap_or_else(|| vec![None; now.len()]);
            let absorbed = matches!(chunk.state, ChunkState::Absorbed { .. });
            (absorbed && before != now).then(|| LateRows { data: ChunkData::of(chunk), before })
        };
        self.chunks_in_order().filter_map(late).collect()
    }

    /// The versions that learnt from what a chunk was up to a run: those that trained it until then, and those that continue from
    /// them. `anew` is the run that began anew without it.
    pub fn saw(&self, chunk: &ChunkId, up_to: RunNumber, anew: Option<RunNumber>) -> Vec<Version> {
        let trained = |version: &AdapterVersion| {
            version.chunks.contains(chunk) && version.run <= up_to && Some(version.run) != anew
        };
        from_there_on(&self.versions, trained).into_iter().map(|version| version.number).collect()
    }
}

/// Chunks that have waited for labels for as long as they may.
pub fn overdue(state: &State, now: Timestamp) -> Vec<(PipelineId, ChunkId)> {
    let waited = |chunk: &&Chunk| matches!(chunk.state, ChunkState::Labelling { until } if until <= now);
    let of = |(id, current): (&PipelineId, &PipelineState)| {
        current.chunks.values().filter(waited).map(|chunk| (id.clone(), chunk.id.clone())).collect::<Vec<_>>()
    };
    state.pipelines.iter().flat_map(of).collect()
}

/// Ends the chunk's wait, if it still waits.
pub fn seal(state: &State, id: &PipelineId, chunk: &ChunkId) -> Vec<Event> {
    let known = state.pipelines.get(id).and_then(|current| current.chunks.get(chunk));
    let waits = known.is_some_and(|chunk| matches!(chunk.state, ChunkState::Labelling { .. }));
    let kind = EventKind::ChunkSealed { chunk: chunk.clone(), new_labels: Vec::new() };
    waits.then(|| Event { pipeline: id.clone(), kind }).into_iter().collect()
}

/// What a chunk becomes once its labels are these. `Sealed` once enough of its rows have one.
pub fn events(current: &PipelineState, labelled: Labelled) -> Vec<EventKind> {
    let seals = current.chunks.get(&labelled.chunk).is_some_and(|chunk| {
        let (train, held_out) = (labelled.train.clone(), labelled.held_out.clone());
        let labelled = Chunk { train, held_out, ..chunk.clone() };
        let waits = matches!(chunk.state, ChunkState::Labelling { .. });
        waits && current.pipeline.data.labelling_until(&labelled).is_none()
    });
    let chunk = labelled.chunk.clone();
    let sealed = seals.then_some(EventKind::ChunkSealed { chunk, new_labels: Vec::new() });
    std::iter::once(EventKind::LabelsPushed { labelled: Box::new(labelled) }).chain(sealed).collect()
}
