//! What becomes of chunks that were set aside.

use super::{Refusal, event, pipeline};
use crate::chunk::ChunkState;
use crate::id::{ChunkId, PipelineId};
use crate::state::{Event, EventKind, State};

/// Makes refused chunks trainable again, and the good rows of quarantined ones.
pub fn release(state: &State, id: &PipelineId, chunks: &[ChunkId]) -> Result<Vec<Event>, Refusal> {
    let current = pipeline(state, id)?;
    let one = |chunk: &ChunkId| {
        let known = current.chunks.get(chunk).ok_or_else(|| Refusal::UnknownChunk(chunk.clone()))?;
        match &known.state {
            ChunkState::Quarantined { .. } if known.train.is_empty() && known.held_out.is_empty() => {
                Err(if known.dropped { Refusal::Dropped(chunk.clone()) } else { Refusal::Unsealed(chunk.clone()) })
            }
            ChunkState::Refused { .. } | ChunkState::Quarantined { .. } => {
                Ok(event(id, EventKind::ChunkReleased { chunk: chunk.clone() }))
            }
            state => Err(Refusal::NotReleasable { chunk: chunk.clone(), state: state.name() }),
        }
    };
    chunks.iter().map(one).collect()
}

/// Gives up chunks that wait in quarantine: they can be neither released nor sealed any more.
pub fn drop_chunks(state: &State, id: &PipelineId, chunks: &[ChunkId]) -> Result<Vec<Event>, Refusal> {
    let current = pipeline(state, id)?;
    let one = |chunk: &ChunkId| {
        let known = current.chunks.get(chunk).ok_or_else(|| Refusal::UnknownChunk(chunk.clone()))?;
        match &known.state {
            // One that trained before may be wanted again by a version that is rolled back to.
            ChunkState::Quarantined { .. } if known.can_be_sealed() => {
                Ok(event(id, EventKind::ChunkDropped { chunk: chunk.clone() }))
            }
            state => Err(Refusal::NotDroppable { chunk: chunk.clone(), state: state.name() }),
        }
    };
    chunks.iter().map(one).collect()
}
