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
    /// Of those, how many of each label; labels that were never offered may be missing at the end.
    pub seen_by_label: Vec<u64>,
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
    /// Position in the pipeline's labels.
    pub label: u32,
    /// How many rows this one stands for in the replay loss, relative to the others.
    #[serde(default = "Slot::default_weight", skip_serializing_if = "Slot::is_default_weight")]
    pub weight: f32,
}

impl Slot {
    const fn default_weight() -> f32 {
        1.0
    }

    fn is_default_weight(weight: &f32) -> bool {
        *weight == Self::default_weight()
    }
}

impl Snapshot {
    pub fn empty(policy: Policy, capacity: u64, seed: u64) -> Self {
        Self { policy, capacity, seed, seen: 0, seen_by_label: Vec::new(), chunks: Vec::new(), slots: Vec::new() }
    }
}
