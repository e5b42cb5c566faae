//! The rehearsal buffer as stored data. Which rows are kept is decided in `perennial-buffer`.

use serde::{Deserialize, Serialize};

use crate::id::ChunkId;
use crate::pipeline::Policy;

/// A rehearsal buffer at one moment: what a run reads, and what its successor grows from.
///
/// Rows are referred to by (chunk, row); their payload stays in the chunk's immutable shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub policy: Policy,
    /// Rows held at most. Ignored by `infinite`.
    pub capacity: u64,
    pub seed: u64,
    /// Rows ever offered; with `seed`, the whole state of the policy's random draws.
    pub seen: u64,
    /// The chunks that slots refer to, in order of first use.
    pub chunks: Vec<ChunkId>,
    pub slots: Vec<Slot>,
}

/// One remembered row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    /// Position in [`Snapshot::chunks`].
    pub chunk: u32,
    /// Position among the chunk's training rows.
    pub row: u32,
}

impl Snapshot {
    pub fn empty(policy: Policy, capacity: u64, seed: u64) -> Self {
        Self { policy, capacity, seed, seen: 0, chunks: Vec::new(), slots: Vec::new() }
    }
}
