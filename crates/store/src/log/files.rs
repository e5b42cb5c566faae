//! The log's objects: names, bytes, bounded retries.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::encoding;
use super::{Error, Options, Record, Snapshot};

/// Tries of one request, beside those of the store's own client.
const TRIES: u32 = 3;
const BACKOFF: Duration = Duration::from_millis(100);
/// Snapshots kept: the newest, and one to fall back to if that is torn.
const SNAPSHOTS: usize = 2;

#[derive(Clone)]
pub(super) struct Files {
    store: Arc<dyn ObjectStore>,
    timeout: Duration,
    /// Numbers that retire together.
    block: u64,
}

/// Who owns a number.
pub(super) enum Claim {
    Ours,
    Taken(Record),
}

#[derive(Default)]
pub(super) struct Listing {
    pub records: BTreeSet<u64>,
    pub snapshots: BTreeSet<u64>,
}

fn record_path(number: u64) -> Path {
    Path::from(format!("log/{number:020}.json"))
}

fn snapshot_path(number: u64) -> Path {
    Path::from(format!("log/snapshots/{number:020}.bin"))
}

/// Outside of the log's folder, whose listings would grow with the marks.
fn mark_path(block: u64) -> Path {
    Path::from(format!("retired/{block:020}"))
}

/// As they were named when they were JSON.
fn old_snapshot_path(number: u64) -> Path {
    Path::from(format!("log/snapshots/{number:020}.json"))
}

impl Files {
    pub(super) fn new(store: Arc<dyn ObjectStore>, options: &Options) -> Self {
        Self { store, timeout: options.op_timeout, block: options.block }
    }

    /// Record 1 is the first of block 0.
    fn block_of(&self, number: u64) -> u64 {
        number.saturating_sub(1) / self.block
    }

    /// Creates a record, or says whose it is.
    ///
    /// An error does not say whether the record was written, and a repeated request meets its own
    /// first try. So after any error the record is read back: the writer's unique name decides.
    /// Only the same bytes are ever tried again under one number.
    pub(super) async fn create(&self, number: u64, record: &Record) -> Result<Claim, Error> {
        let (path, bytes) = (record_path(number), encoding::record(record));
        let mut tries = 1;
        loop {
            let put = self.store.put_opts(&path, bytes.clone().into(), PutMode::Create.into());
            let Err(error) = self.within("append to", put).await else {
                return Ok(Claim::Ours);
            };
            match self.read(number).await? {
                Some(found) if found.writer == record.writer && found.epoch == record.epoch => return Ok(Claim::Ours),
                Some(found) => return Ok(Claim::Taken(found)),
                None if tries == TRIES => return Err(error),
                None => tokio::time::sleep(BACKOFF * tries).await,
            }
            tries += 1;
        }
    }

    /// Record `number`, or none if there is none.
    pub(super) async fn read(&self, number: u64) -> Result<Option<Record>, Error> {
        let Some(bytes) = self.get(&record_path(number)).await? else {
            return Ok(None);
        };
        let undecodable = |source| Error::Undecodable { record: number, source };
        encoding::read_record(&bytes).map(Some).map_err(undecodable)
    }

    /// Whether the number is used up and its record may be gone.
    pub(super) async fn is_retired(&self, number: u64) -> Result<bool, Error> {
        Ok(self.get(&mark_path(self.block_of(number))).await?.is_some())
    }

    /// A snapshot, or none if it is gone or torn.
    pub(super) async fn read_snapshot<S: DeserializeOwned>(&self, number: u64) -> Result<Option<Snapshot<S>>, Error> {
        let bytes = match self.get(&snapshot_path(number)).await? {
            Some(bytes) => Some(bytes),
            None => self.get(&old_snapshot_path(number)).await?,
        };
        let Some(bytes) = bytes else { return Ok(None) };
        match encoding::read_snapshot(&bytes) {
            Ok(snapshot) => Ok(Some(snapshot)),
            Err(error) => {
                tracing::warn!(snapshot = number, %error, "a snapshot does not decode; falling back to the one before");
                Ok(None)
            }
        }
    }

    pub(super) async fn write_snapshot<S: Serialize>(&self, number: u64, snapshot: &Snapshot<S>) -> Result<(), Error> {
        let path = snapshot_path(number);
        let put = self.store.put(&path, encoding::snapshot(snapshot).into());
        self.within("write a snapshot of", put).await.map(drop)
    }

    /// All that there is, in one listing.
    pub(super) async fn list(&self) -> Result<Listing, Error> {
        let folder = Path::from("log");
        let entries = self.within("list", self.store.list(Some(&folder)).try_collect::<Vec<_>>()).await?;
        let mut listing = Listing::default();
        for entry in entries {
            let path = entry.location.as_ref();
            let number = |prefix: &str, end: &str| path.strip_prefix(prefix)?.strip_suffix(end)?.parse().ok();
            let snapshot = |end: &str| number("log/snapshots/", end);
            if let Some(snapshot) = snapshot(".bin").or_else(|| snapshot(".json")) {
                listing.snapshots.insert(snapshot);
            } else if let Some(record) = number("log/", ".json") {
                listing.records.insert(record);
            }
        }
        Ok(listing)
    }

    /// See [`super::CommitLog::sweep`].
    pub(super) async fn sweep(&self, head: u64) -> Result<(), Error> {
        let listing = self.list().await?;
        let kept: Vec<u64> = listing.snapshots.iter().rev().take(SNAPSHOTS).copied().collect();
        let [_, oldest] = kept[..] else {
            return Ok(());
        };
        // Whole blocks, and none that whoever writes now still uses.
        let covered = oldest.min(head) / self.block * self.block;
        let records: Vec<u64> = listing.records.range(..=covered).copied().collect();
        for block in records.chunk_by(|a, b| self.block_of(*a) == self.block_of(*b)) {
            self.retire(block).await?;
        }
        for &snapshot in listing.snapshots.range(..oldest) {
            self.remove(&snapshot_path(snapshot)).await?;
            self.remove(&old_snapshot_path(snapshot)).await?;
        }
        Ok(())
    }

    /// Removes records of one block. From the mark on, that one of its numbers has no record, or has one, means nothing.
    async fn retire(&self, records: &[u64]) -> Result<(), Error> {
        let mark = mark_path(self.block_of(records[0]));
        self.within("sweep", self.store.put(&mark, PutPayload::new())).await?;
        for &record in records {
            self.remove(&record_path(record)).await?;
        }
        Ok(())
    }

    async fn remove(&self, path: &Path) -> Result<(), Error> {
        match self.within("sweep", self.store.delete(path)).await {
            Err(Error::Store { source: object_store::Error::NotFound { .. }, .. }) => Ok(()),
            other => other,
        }
    }

    async fn get(&self, path: &Path) -> Result<Option<Bytes>, Error> {
        let mut tries = 1;
        loop {
            let get = async { self.store.get(path).await?.bytes().await };
            match self.within("read", get).await {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(Error::Store { source: object_store::Error::NotFound { .. }, .. }) => return Ok(None),
                Err(error) if tries == TRIES => return Err(error),
                Err(_) => tokio::time::sleep(BACKOFF * tries).await,
            }
            tries += 1;
        }
    }

    async fn within<T>(
        &self,
        action: &'static str,
        future: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Error> {
        let after = self.timeout;
        match tokio::time::timeout(after, future).await {
            Ok(outcome) => outcome.map_err(|source| Error::Store { action, source }),
            Err(_) => Err(Error::Timeout { action, after }),
        }
    }
}
