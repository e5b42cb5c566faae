//! A sealed chunk's rows as objects of the store.

use bytes::Bytes;
use domain::chunk::{Row, Shard};
use domain::id::TaskName;
use object_store::ObjectStore;
use sha2::{Digest, Sha256};
use store::examples::write_shard;
use store::objects;

use crate::Error;
use crate::seal::Sealed;

const SHARD_ROWS: usize = 10_000;

/// Canonical Parquet files, not written yet.
pub struct Shards {
    train: Vec<Encoded>,
    held_out: Vec<Encoded>,
}

struct Encoded {
    bytes: Bytes,
    rows: u64,
    unlabelled: u64,
}

/// Where the rows of a chunk lie.
#[derive(Debug, Default)]
pub struct Stored {
    pub train: Vec<Shard>,
    pub held_out: Vec<Shard>,
}

impl Shards {
    /// Blocks.
    pub fn encode(sealed: &Sealed, task: &TaskName) -> Result<Self, Error> {
        Ok(Self { train: encode(&sealed.train, task, "train")?, held_out: encode(&sealed.held_out, task, "held_out")? })
    }

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
            shards.iter().for_each(|shard| hash.update(Sha256::digest(&shard.bytes)));
        }
        hex::encode(&hash.finalize()[..8])
    }
}

fn encode(rows: &[Row], task: &TaskName, split: &str) -> Result<Vec<Encoded>, Error> {
    let one = |rows: &[Row]| {
        let bytes = write_shard(rows, task, split)?.into();
        let unlabelled = rows.iter().filter(|row| row.label.is_empty()).count() as u64;
        Ok(Encoded { bytes, rows: rows.len() as u64, unlabelled })
    };
    rows.chunks(SHARD_ROWS).map(one).collect()
}

async fn write(store: &dyn ObjectStore, prefix: &str, shards: Vec<Encoded>) -> Result<Vec<Shard>, Error> {
    let mut written = Vec::with_capacity(shards.len());
    for (number, Encoded { bytes, rows, unlabelled }) in shards.into_iter().enumerate() {
        let object = objects::put(store, &format!("{prefix}-{number:05}.parquet"), bytes).await?;
        written.push(Shard { unlabelled, ..Shard::new(object, rows) });
    }
    Ok(written)
}
