//! A run that takes the place of versions which learnt from what was erased.

use std::collections::BTreeSet;

use super::{Refusal, available, eval_sets_to_open, event, manifest, next_run, pipeline, trains};
use crate::chunk::Chunk;
use crate::erasure::Scope;
use crate::id::{ChunkId, PipelineId, RunNumber, Version};
use crate::state::{Event, EventKind, PipelineState, State};
use crate::version::{absorbed, lineage};

/// Queues a run from the newest version in use that never saw rows about `subject`, or from the base, over everything that was
/// absorbed after it. They must have been erased before.
pub fn start_without(state: &State, id: &PipelineId, subject: &str) -> Result<(RunNumber, Vec<Event>), Refusal> {
    let current = pipeline(state, id)?;
    if let Some(run) = current.active_run() {
        return Err(Refusal::Busy(run.number));
    }
    let saw = saw(current, &Scope::subject(subject))?;
    let line = lineage(&current.versions, current.tip);
    if !line.iter().any(|version| saw.contains(version)) {
        return Err(Refusal::NothingLearnt);
    }
    let parent = line.into_iter().find(|version| !saw.contains(version));
    parent.map(|parent| available(current, parent)).transpose()?;
    let chosen = absorbed_since(current, parent);
    if !trains(&chosen) {
        return Err(Refusal::NothingToTrain { refused: 0, unchecked: 0 });
    }
    let run = next_run(current);
    let opened = eval_sets_to_open(current, &chosen);
    let manifest = Box::new(manifest(current, run, parent, &chosen, &opened));
    Ok((run, vec![event(id, EventKind::RunQueued { manifest, opened })]))
}

fn saw(current: &PipelineState, scope: &Scope) -> Result<BTreeSet<Version>, Refusal> {
    let erasures: Vec<_> = current.erasures.iter().filter(|erasure| erasure.scope == *scope).collect();
    if erasures.is_empty() {
        return Err(Refusal::NotErased);
    }
    Ok(erasures.iter().flat_map(|erasure| erasure.witnesses(current)).collect())
}

/// In order of arrival.
fn absorbed_since(current: &PipelineState, parent: Option<Version>) -> Vec<&Chunk> {
    let of = |version| absorbed(&current.versions, &lineage(&current.versions, version));
    let (all, before): (BTreeSet<ChunkId>, BTreeSet<ChunkId>) = (of(current.tip), of(parent));
    current.chunks_in_order().filter(|chunk| all.contains(&chunk.id) && !before.contains(&chunk.id)).collect()
}
