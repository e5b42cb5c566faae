//! Tasks and their frozen held-out items.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::chunk::Shard;
use crate::id::{ChunkId, TaskName};

/// The set that the oldest tasks merge into beyond `evaluation.max_tasks`.
pub const ARCHIVE: &str = "archive";

/// Frozen held-out items of one task. A task's items change by opening the next number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvalSet {
    pub task: TaskName,
    /// From 1 within the task.
    pub number: u64,
    pub parts: Vec<Part>,
}

/// The first `rows` held-out rows of a chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub chunk: ChunkId,
    pub rows: u64,
    /// The shards that hold them, in order.
    pub shards: Vec<Shard>,
}

impl EvalSet {
    pub fn items(&self) -> u64 {
        self.parts.iter().map(|part| part.rows).sum()
    }

    /// SHA-256 over what the items are, whatever the set is called.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for part in &self.parts {
            hash.update(format!("{} {}\n", part.chunk, part.rows));
            // What changed since the chunk was sealed.
            for shard in part.shards.iter().filter(|shard| shard.labels.is_some() || shard.erased > 0) {
                hash.update(shard.objects().map(|object| format!(" {}\n", object.sha256)).collect::<String>());
            }
        }
        hex::encode(hash.finalize())
    }
}
