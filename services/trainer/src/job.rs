//! What a rank process is told, and what it tells back. JSON on disk and on its pipes.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::PathBuf;

use domain::evalset::EvalSet;
use domain::id::ChunkId;
use domain::manifest::{Cost, Manifest, Preprocessing};
use serde::{Deserialize, Serialize};

/// One update, with everything the manifest names fetched to local files.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrainJob {
    pub manifest: Manifest,
    /// The folder of a `model: {uri, sha256}`.
    pub base_model: Option<PathBuf>,
    /// A folder with the parent version's files.
    pub parent: Option<PathBuf>,
    /// A folder with the files of the manifest's import.
    pub import: Option<PathBuf>,
    /// The parent's snapshot, as JSON.
    pub snapshot: Option<PathBuf>,
    /// By SHA-256: every shard of the manifest's chunks and of the snapshot's.
    pub shards: BTreeMap<String, PathBuf>,
    /// Where rank 0 leaves the version's files.
    pub out: PathBuf,
    /// Where rank 0 leaves checkpoints, each in a folder named by its number of steps.
    pub checkpoints: PathBuf,
    pub resume: Option<PathBuf>,
    /// `cpu` or `cuda:N`.
    pub device: String,
    #[serde(default)]
    pub probe: Option<Probe>,
}

/// Accuracies to be taken while the update trains. Changes no bit of what it leaves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Probe {
    /// Steps from one to the next.
    pub every: NonZeroU64,
    /// Their shards are among the job's.
    pub sets: Vec<EvalSet>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Reading rows and weights.
    Load,
    Train,
    /// Writing the version's files.
    Write,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub phase: Phase,
    /// Steps done, out of `total`.
    pub step: u64,
    pub total: u64,
    pub epoch: u64,
    /// None before the first step, and if it is not finite.
    pub loss: Option<f64>,
}

/// What a trained candidate is. Rank 0's account; the others' agree but for `files` and `golden`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    /// Names within [`TrainJob::out`], sorted.
    pub files: Vec<String>,
    pub weights_sha256: String,
    pub finite: bool,
    pub preprocessing: Preprocessing,
    /// As a candidate has them. Rank 0's.
    #[serde(default)]
    pub golden: Vec<Vec<Option<f32>>>,
    /// Of the new snapshot: rows held, rows ever offered, chunks referred to.
    pub items: u64,
    pub seen: u64,
    pub chunks: Vec<ChunkId>,
    pub cost: Cost,
    #[serde(default)]
    pub probed: Probed,
}

/// What a [`Probe`] found; nothing without one. Rank 0's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Probed {
    pub points: Vec<Point>,
    /// What it took, which is no part of the cost's `train_seconds`.
    pub seconds: f64,
}

/// Accuracies after a step that is not the last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub step: u64,
    /// In the order of the probe's sets.
    pub accuracies: Vec<f64>,
}
