//! What happens to chunks, and to the labels they bring.

use super::{Inapplicable, PipelineState};
use crate::chunk::{Chunk, ChunkState};
use crate::id::ChunkId;

impl PipelineState {
    pub(crate) fn chunk(&mut self, id: &ChunkId) -> Result<&mut Chunk, Inapplicable> {
        self.chunks.get_mut(id).ok_or_else(|| Inapplicable::UnknownChunk(id.clone()))
    }

    pub(super) fn release(&mut self, id: &ChunkId) -> Result<(), Inapplicable> {
        let chunk = self.chunk(id)?;
        chunk.state = ChunkState::Sealed;
        let labels = chunk.bad.as_mut().map(|bad| {
            bad.settled = true;
            bad.new_labels.clone()
        });
        self.append_labels(&labels.unwrap_or_default());
        Ok(())
    }

    pub(super) fn drop_chunk(&mut self, id: &ChunkId) -> Result<(), Inapplicable> {
        let chunk = self.chunk(id)?;
        let why = chunk.state.reason().unwrap_or_default();
        chunk.state = ChunkState::Quarantined { reason: format!("dropped: {why}") };
        chunk.dropped = true;
        (chunk.train, chunk.held_out) = (Vec::new(), Vec::new());
        Ok(())
    }

    pub(crate) fn append_labels(&mut self, labels: &[String]) {
        for label in labels {
            if !self.labels.contains(label) {
                self.labels.push(label.clone());
            }
        }
    }

    pub(super) fn receive(&mut self, chunk: &Chunk) {
        if self.chunks.insert(chunk.id.clone(), chunk.clone()).is_none() {
            self.arrivals.push(chunk.id.clone());
        }
    }

    pub(super) fn set_chunks(&mut self, ids: &[ChunkId], state: &ChunkState) -> Result<(), Inapplicable> {
        if let Some(unknown) = ids.iter().find(|id| !self.chunks.contains_key(*id)) {
            return Err(Inapplicable::UnknownChunk(unknown.clone()));
        }
        for id in ids {
            self.chunk(id)?.state = state.clone();
        }
        Ok(())
    }
}
