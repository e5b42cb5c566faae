//! Comparing a chunk with what its pipeline knew.

use super::{available, eval_sets_in_force, manifest};
use crate::chunk::{Chunk, ChunkState};
use crate::id::{PipelineId, Version};
use crate::manifest::{ChunkData, Manifest};
use crate::shift::Measured;
use crate::state::{Event, EventKind, PipelineState, State};

/// The place of the next chunk to compare, the newest first: it is the one that somebody may want to know of. None while a run is
/// under way, which needs the machines more.
pub fn next_to_measure(current: &PipelineState) -> Option<u64> {
    let is_idle = current.active_run().is_none();
    current.newest().rev().find(|&place| is_idle && measurable(current, place).is_some())
}

/// The chunk, and the version to compare it with: the one that the next run continues from, or if that has learnt the chunk, the last
/// one that had not.
fn measurable(current: &PipelineState, place: u64) -> Option<(&Chunk, Version)> {
    let chunk = current.to_measure(place)?;
    let version = match chunk.state {
        ChunkState::Absorbed { version } => current.versions.get(&version)?.parent?,
        _ => current.tip?,
    };
    available(current, version).is_ok().then_some((chunk, version))
}

/// Another one once the chunk's rows, or what they are compared with, are not what they were: what was found of the old ones is worth
/// nothing.
pub fn generation(current: &PipelineState, place: u64) -> Option<u32> {
    let (chunk, version) = measurable(current, place)?;
    let labelled = u32::from(chunk.has_labels());
    Some(((current.erasures.len() as u32) << 16) ^ ((version.0 as u32) << 1) ^ labelled)
}

/// What a run on this chunk alone would be given. Its rows are those that train, or where none do those that are held out; none of them is
/// among the items that they are compared with.
pub fn manifest_to_measure(current: &PipelineState, place: u64) -> Option<Manifest> {
    let (chunk, version) = measurable(current, place)?;
    let mut manifest = manifest(current, place, Some(version), &[], &[]);
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

/// Whether the chunk still waited, as it was, and what comes of it.
pub fn measured(state: &State, id: &PipelineId, place: u64, generation: u32, measured: Measured) -> (bool, Vec<Event>) {
    let current = state.pipelines.get(id);
    let waits = current.and_then(|current| self::generation(current, place)) == Some(generation);
    let labelled = current.and_then(|current| current.to_measure(place)).is_some_and(Chunk::has_labels);
    let kind = EventKind::ChunkMeasured { place, measured: Box::new(Measured { labelled, ..measured }) };
    let events = waits.then(|| Event { pipeline: id.clone(), kind });
    (waits, events.into_iter().collect())
}
