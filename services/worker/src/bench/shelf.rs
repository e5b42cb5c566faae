//! Shards on the local disk: what the store is to a daemon, for one process.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use domain::chunk::{ObjectRef, PUSHED, Row, Shard, Split};
use domain::evalset::{EvalSet, Part};
use domain::id::{ChunkId, TaskName};
use domain::manifest::ChunkData;
use sha2::{Digest, Sha256};

pub struct Shelf {
    folder: PathBuf,
    /// By SHA-256.
    pub files: BTreeMap<String, PathBuf>,
}

impl Shelf {
    /// `folder` exists.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, files: BTreeMap::new() }
    }

    /// A chunk's training rows.
    pub fn train(&mut self, rows: &[Row], task: &TaskName) -> anyhow::Result<ChunkData> {
        let shard = self.put(rows, task)?;
        Ok(ChunkData { id: chunk_id(&shard, task, Split::Train), task: task.clone(), train: vec![shard] })
    }

    /// A task's held-out rows, all of them.
    pub fn held_out(&mut self, rows: &[Row], task: &TaskName) -> anyhow::Result<EvalSet> {
        let shard = self.put(rows, task)?;
        let chunk = chunk_id(&shard, task, Split::HeldOut);
        let part = Part { chunk, rows: shard.rows, shards: vec![shard] };
        Ok(EvalSet { task: task.clone(), number: 1, parts: vec![part] })
    }

    fn put(&mut self, rows: &[Row], task: &TaskName) -> anyhow::Result<Shard> {
        let bytes = store::examples::write_shard(rows, task, PUSHED)?;
        let sha256 = hex::encode(Sha256::digest(&bytes));
        let file = self.folder.join(format!("{sha256}.parquet"));
        std::fs::write(&file, &bytes).with_context(|| format!("cannot write `{}`", file.display()))?;
        let object = ObjectRef { path: file.display().to_string(), sha256: sha256.clone(), bytes: bytes.len() as u64 };
        self.files.insert(sha256, file);
        Ok(Shard::new(object, rows.len() as u64))
    }
}

/// As ingest names a push of the shard with `image` as its input: remembered rows are ordered by their
/// chunk's name, so joint training sees the same order here and there.
fn chunk_id(shard: &Shard, task: &TaskName, split: Split) -> ChunkId {
    ChunkId::of(&shard.object.sha256, task, split, Some("image"), "label")
}
