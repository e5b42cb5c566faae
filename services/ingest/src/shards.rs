//! A sealed chunk's rows as objects of the store: written to disk as they come, so that a chunk may be larger than memory.

use std::fs::File;
use std::io::Write;

use domain::chunk::{Row, Shard};
use domain::id::TaskName;
use object_store::ObjectStore;
use sha2::{Digest, Sha256};
use store::examples::write_shard;
use store::objects;

use crate::Error;
use crate::spill::{Key, Spill};

const SHARD_ROWS: usize = 10_000;

/// Takes rows in data order.
pub struct Writer {
    train: Side,
    held_out: Spill,
    /// Where those go when all have come.
    sorted: Side,
}

/// One side of the split.
struct Side {
    task: TaskName,
    split: &'static str,
    rows: Vec<Row>,
    /// Of those.
    bytes: u64,
    /// At which they become a shard, if they are not many before.
    most: u64,
    done: Vec<Encoded>,
}

/// Canonical Parquet files, on disk without a name.
pub struct Shards {
    train: Vec<Encoded>,
    held_out: Vec<Encoded>,
}

struct Encoded {
    file: File,
    sha256: [u8; 32],
    rows: u64,
    unlabelled: u64,
}

/// Where the rows of a chunk lie.
#[derive(Debug, Default)]
pub struct Stored {
    pub train: Vec<Shard>,
    pub held_out: Vec<Shard>,
}

impl Writer {
    /// Holds about `memory` bytes at a time, and a digest a row.
    pub fn new(task: &TaskName, memory: u64) -> Result<Self, Error> {
        // The rows of a shard are in memory three times: as they came, as columns, and encoded.
        let side =
            |split| Side { task: task.clone(), split, rows: Vec::new(), bytes: 0, most: memory / 4, done: Vec::new() };
        Ok(Self { train: side("train"), held_out: Spill::new()?, sorted: side("held_out") })
    }

    pub fn train(&mut self, row: Row) -> Result<(), Error> {
        self.train.push(row)
    }

    /// For the held-out side, where rows are in the order of their keys.
    pub fn hold_out(&mut self, key: Key, row: Row) -> Result<(), Error> {
        self.held_out.push(key, row)
    }

    pub fn finish(self) -> Result<Shards, Error> {
        let Self { train, held_out, mut sorted } = self;
        held_out.drain(|row| sorted.push(row))?;
        Ok(Shards { train: train.finish()?, held_out: sorted.finish()? })
    }
}

impl Side {
    fn push(&mut self, row: Row) -> Result<(), Error> {
        self.bytes += row.bytes();
        self.rows.push(row);
        match self.rows.len() == SHARD_ROWS || self.bytes >= self.most {
            true => self.cut(),
            false => Ok(()),
        }
    }

    fn cut(&mut self) -> Result<(), Error> {
        let bytes = write_shard(&self.rows, &self.task, self.split)?;
        let mut file = tempfile::tempfile()?;
        file.write_all(&bytes)?;
        let unlabelled = self.rows.iter().filter(|row| row.label.is_empty()).count() as u64;
        let (sha256, rows) = (Sha256::digest(&bytes).into(), self.rows.len() as u64);
        self.done.push(Encoded { file, sha256, rows, unlabelled });
        self.rows.clear();
        self.bytes = 0;
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Encoded>, Error> {
        if !self.rows.is_empty() {
            self.cut()?;
        }
        Ok(self.done)
    }
}

impl Shards {
    /// Writes everything below `folder`, in a folder named by content: a spec that changes between
    /// a crash and the next push seals other rows, and neither may overwrite what the other recorded.
    pub async fn write(self, store: &dyn ObjectStore, folder: &str) -> Result<Stored, Error> {
        let folder = format!("{folder}/{}", self.digest());
        Ok(Stored {
            train: write(store, &format!("{folder}/train"), self.train).await?,
            held_out: write(store, &format!("{folder}/held_out"), self.held_out).await?,
        })
    }

    fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for shards in [&self.train, &self.held_out] {
            hash.update((shards.len() as u64).to_be_bytes());
            shards.iter().for_each(|shard| hash.update(shard.sha256));
        }
        hex::encode(&hash.finalize()[..8])
    }
}

async fn write(store: &dyn ObjectStore, prefix: &str, shards: Vec<Encoded>) -> Result<Vec<Shard>, Error> {
    let mut written = Vec::with_capacity(shards.len());
    for (number, Encoded { file, rows, unlabelled, .. }) in shards.into_iter().enumerate() {
        let object = objects::put_open(store, &format!("{prefix}-{number:05}.parquet"), file).await?;
        written.push(Shard { unlabelled, ..Shard::new(object, rows) });
    }
    Ok(written)
}
