//! Comparing a chunk with what its pipeline knew.

use super::{eval_sets_in_force, manifest};
use crate::chunk::{Chunk, ChunkState};
use crate::id::PipelineId;
use crate::manifest::{ChunkData, Manifest};
use crate::shift::Measured;
use crate::state::{Event, EventKind, PipelineState, State};

/// The place of the next chunk to compare, the newest first: it is the one that somebody may want to know of. None while a run is
/// under way, which needs the machines more.
pub fn next_to_measure(current: &PipelineState) -> Option<u64> {
    if current.active_run().is_some() || current.tip.is_none() {
        return None;
    }
    current.unmeasured.iter().rev().copied().find(|&place| current.to_measure(place).is_some_and(has_rows))
}

fn has_rows(chunk: &Chunk) -> bool {
    let is_gone = matches!(chunk.state, ChunkState::Quarantined { .. } | ChunkState::Received);
    !is_gone && (!chunk.train.is_empty() || !chunk.held_out.is_empty())
}

/// What a run on this chunk alone would be given. Its rows are those that train, or where none do those that are held out; none of them is
/// among the items that they are compared with.
pub fn manifest_to_measure(current: &PipelineState, place: u64) -> Option<Manifest> {
    let chunk = current.to_measure(place).filter(|chunk| has_rows(chunk))?;
    let mut manifest = manifest(current, place, current.tip, &[], &[]);
    let rows = if chunk.train.is_empty() { &chunk.held_out } else { &chunk.train };
    manifest.chunks = vec![ChunkData { train: rows.clone(), ..ChunkData::of(chunk) }];
    manifest.late = Vec::new();
    manifest.eval_sets = eval_sets_in_force(current, &[]);
    for set in &mut manifest.eval_sets {
        set.parts.retain(|part| part.chunk != chunk.id);
    }
    manifest.eval_sets.retain(|set| !set.parts.is_empty());
    Some(manifest)
}

/// Whether the chunk still waited, and what comes of it.
pub fn measured(state: &State, id: &PipelineId, place: u64, measured: Measured) -> (bool, Vec<Event>) {
    let chunk = state.pipelines.get(id).and_then(|current| current.to_measure(place));
    let Some(chunk) = chunk.map(|chunk| chunk.id.clone()) else { return (false, Vec::new()) };
    let kind = EventKind::ChunkMeasured { chunk, measured: Box::new(measured) };
    (true, vec![Event { pipeline: id.clone(), kind }])
}
