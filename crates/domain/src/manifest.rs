//! What an attempt is given: everything by immutable name, nothing by "latest".

use serde::{Deserialize, Serialize};

use crate::chunk::{Chunk, ObjectRef, Shard};
use crate::evalset::EvalSet;
use crate::id::{ChunkId, RunNumber, TaskName, Version};
use crate::pipeline::{Pipeline, Precision};

/// The inputs of one run. The data order is a pure function of this, its seed and the step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub run: RunNumber,
    /// How many updates the parent's lineage holds: 0 for a first run. Keys the run's random draws,
    /// so that a refused run does not change what follows it.
    pub update: u64,
    pub pipeline: Pipeline,
    /// Label names pinned for the run; their number is the head's width.
    pub labels: Vec<String>,
    pub parent: Option<Parent>,
    pub chunks: Vec<ChunkData>,
    /// Of chunks that the parent's lineage absorbed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub late: Vec<LateRows>,
    /// The parent's rehearsal buffer. None for a first run.
    pub snapshot: Option<SnapshotData>,
    pub eval_sets: Vec<EvalSet>,
    /// What the run publishes as it is, in place of training. None: it trains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<Import>,
}

/// An adapter that was trained elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Import {
    pub files: Vec<ObjectRef>,
}

/// The version a run continues from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parent {
    pub version: Version,
    pub files: Vec<ObjectRef>,
}

/// The training rows of one chunk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChunkData {
    pub id: ChunkId,
    pub task: TaskName,
    pub train: Vec<Shard>,
}

impl ChunkData {
    pub fn of(chunk: &Chunk) -> Self {
        Self { id: chunk.id.clone(), task: chunk.task.clone(), train: chunk.train.clone() }
    }
}

/// Rows whose label came after their chunk had trained: they train now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LateRows {
    pub data: ChunkData,
    /// Shard by shard, the late labels under which the chunk trained.
    pub before: Vec<Option<ObjectRef>>,
}

impl Manifest {
    /// Every shard of a row that may train or be replayed.
    pub fn shards(&self) -> impl Iterator<Item = Shard> {
        let remembered = self.snapshot.iter().flat_map(|snapshot| &snapshot.chunks);
        let chunks = self.chunks.iter().chain(self.late.iter().map(|late| &late.data)).chain(remembered);
        let before = self.late.iter().flat_map(|late| late.data.train.iter().zip(&late.before));
        let before = before.map(|(shard, labels)| Shard { labels: labels.clone(), ..shard.clone() });
        chunks.flat_map(|chunk| &chunk.train).cloned().chain(before)
    }
}

/// A rehearsal-buffer snapshot and the rows it refers to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotData {
    pub object: ObjectRef,
    pub chunks: Vec<ChunkData>,
}

/// What a trained attempt leaves: files in the store, and what it cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    pub files: Vec<ObjectRef>,
    /// SHA-256 over the trained tensors in name order; equal at any world size on CPU.
    pub weights_sha256: String,
    pub finite: bool,
    /// None: from before it was recorded.
    #[serde(default)]
    pub preprocessing: Option<Preprocessing>,
    /// The logits of a few fixed rows that are nobody's data, by the weights in memory; None where one is not finite. Whoever
    /// loads the files has to get them, too. Empty: from before they were recorded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub golden: Vec<Vec<Option<f32>>>,
    pub snapshot: SnapshotMeta,
    pub cost: Cost,
}

/// How a row becomes what the model reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Preprocessing {
    /// Brought to `size × size` pixels, then `(x / 255 − mean) / std`, channel by channel.
    Image { channels: i64, size: i64, mean: Vec<f64>, std: Vec<f64> },
    /// By the base model's own tokenizer, cut to so many tokens.
    Text { max_length: i64 },
}

/// A snapshot's place and size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotMeta {
    pub object: ObjectRef,
    pub chunks: Vec<ChunkId>,
    pub items: u64,
    pub seen: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    pub steps: u64,
    /// From before the first step to after the last.
    pub train_seconds: f64,
    /// Of those, what the rehearsal buffer's draws and offers took.
    #[serde(default)]
    pub rehearsal_seconds: f64,
    pub world_size: u64,
    pub device: String,
    /// Of frozen linear layers: what `auto` came to.
    #[serde(default)]
    pub precision: Precision,
    /// Largest resident set of a rank: host memory, on a GPU too.
    pub peak_memory_bytes: u64,
    pub final_loss: Option<f64>,
    /// Rows left out of a step because the net's answers to them were no numbers.
    #[serde(default)]
    pub dropped_rows: u64,
    /// Rows of the chunks, and slots of the parent's memory, left out because they are held-out items.
    #[serde(default)]
    pub contaminated_rows: u64,
    /// Where rows were set aside: the epoch whose weights these are, from 1.
    #[serde(default)]
    pub best_epoch: Option<u64>,
    /// Of memory's gradient, where it is measured: its distance from that of everything ever offered, as a share of it.
    #[serde(default)]
    pub memory_residual: Option<f64>,
}
