//! The commit log: numbered records in the object store, one writer at a time.
//!
//! Record n is created with put-if-absent, so whoever creates it owns it. A writer takes over by
//! creating the record after the head with the next epoch; no clock and no lease is involved. The old
//! writer notices when a number it wants is taken.
//!
//! A writer may also sleep between choosing a number and creating it, for so long that the number
//! was used *and retired* meanwhile: then its create succeeds. So may a request that the network repeats. So
//! retention removes records by blocks, and before anything of a block is removed, a mark that stays for good says that
//! the block is retired. Whoever has created a record, or found none or another's, looks for the mark of its number next:
//! without one, what it saw is the log. With one, the writer is fenced, and a record may be a stray. Strays stay: one may also
//! be a record that a successor has already built upon, and they lie below the snapshots, where nobody reads and retention
//! sweeps.

mod encoding;
mod files;
mod follow;
mod recover;

use std::sync::Arc;
use std::time::Duration;

use domain::Timestamp;
use domain::state::{Event, Inapplicable, State};
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};

use crate::unique;
pub use encoding::Damage;
use files::{Claim, Files};
pub use follow::Follower;
use recover::Recovered;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("another writer (`{by}`) owns the commit log; this one stops")]
    Fenced { by: String },
    #[error("commit log record {record} is missing")]
    Missing { record: u64 },
    #[error("commit log record {record} cannot be read")]
    Undecodable { record: u64, source: Damage },
    #[error("commit log record {record} does not apply to the state before it")]
    Inapplicable { record: u64, source: Inapplicable },
    #[error("cannot {action} the commit log")]
    Store { action: &'static str, source: object_store::Error },
    #[error("cannot {action} the commit log: no answer within {} s", .after.as_secs_f32())]
    Timeout { action: &'static str, after: Duration },
    #[error("the commit log was closed by an earlier error")]
    Closed,
}

/// One append: everything that happened at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub epoch: u64,
    /// Unique to one writer's life.
    pub writer: String,
    pub at: Timestamp,
    /// Empty where a writer took over.
    pub events: Vec<Event>,
}

#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The longest wait for one append, its retries included.
    pub op_timeout: Duration,
    /// Records between snapshots.
    pub snapshot_every: u64,
    /// Numbers that retire together. A mark counts in them: it is the same for everybody, over a log's whole life.
    pub block: u64,
    /// A writer that has nothing to append looks this often whether the log is still its own.
    pub check_every: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            op_timeout: Duration::from_secs(30),
            snapshot_every: 512,
            block: 512,
            check_every: Duration::from_secs(1),
        }
    }
}

/// The newest record that this writer knows of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Head {
    number: u64,
    epoch: u64,
    writer: String,
    at: Timestamp,
}

impl Head {
    fn of(number: u64, record: &Record) -> Self {
        Self { number, epoch: record.epoch, writer: record.writer.clone(), at: record.at }
    }
}

/// The state after a record.
#[derive(Serialize, Deserialize)]
struct Snapshot<S> {
    head: Head,
    state: S,
}

/// The right to append, until somebody else takes over.
pub struct CommitLog {
    files: Files,
    options: Options,
    writer: String,
    epoch: u64,
    head: Head,
    /// Number of the newest snapshot.
    snapshot: u64,
    /// After an error the fate of a record is unknown; its number must not be used for another.
    failed: bool,
}

impl CommitLog {
    /// Takes the log over from whoever writes it, and folds it.
    ///
    /// `name` is for people; it is made unique.
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        name: &str,
        now: Timestamp,
        options: Options,
    ) -> Result<(Self, State), Error> {
        Follower::open(store, options).await?.take_over(name, now).await
    }

    async fn take(
        files: Files,
        options: Options,
        mut found: Recovered,
        name: &str,
        now: Timestamp,
    ) -> Result<(Self, State), Error> {
        let writer = format!("{name}-{}", unique::token());
        let mut log =
            Self { files, options, writer, epoch: 0, head: found.head, snapshot: found.snapshot, failed: false };
        let after = options.op_timeout;
        let won = tokio::time::timeout(after, log.take_over(&mut found.state, now)).await;
        won.unwrap_or(Err(Error::Timeout { action: "take over", after }))?;
        Ok((log, found.state))
    }

    /// Each turn either wins or learns of one more record, so a live rival delays but never deceives.
    async fn take_over(&mut self, state: &mut State, now: Timestamp) -> Result<(), Error> {
        loop {
            self.epoch = self.head.epoch + 1;
            let (number, record) = (self.head.number + 1, self.record(now, Vec::new()));
            let Claim::Taken(rival) = self.files.create(number, &record).await? else {
                self.not_retired(number).await?;
                self.head = Head::of(number, &record);
                return Ok(());
            };
            if !self.files.is_retired(number).await? {
                recover::apply(state, number, &rival)?;
                self.head = Head::of(number, &rival);
                continue;
            }
            // The log has moved on, and what was found may be a stray over a number that was retired.
            let found = recover::recover(&self.files).await?;
            (*state, self.head, self.snapshot) = (found.state, found.head, found.snapshot);
        }
    }

    fn record(&self, now: Timestamp, events: Vec<Event>) -> Record {
        Record {
            epoch: self.epoch,
            writer: self.writer.clone(),
            // Replay must not see time run backwards when a clock was set.
            at: now.max(self.head.at),
            events,
        }
    }

    pub fn options(&self) -> Options {
        self.options
    }

    /// The number of the newest record.
    pub fn head(&self) -> u64 {
        self.head.number
    }

    /// The time a record appended now would carry.
    pub fn time(&self, now: Timestamp) -> Timestamp {
        now.max(self.head.at)
    }

    /// Appends one record and returns its number. It is durable and this writer's when this returns.
    ///
    /// After any error the log is closed: the record may or may not count, which the next to open
    /// the log will find out.
    pub async fn append(&mut self, at: Timestamp, events: Vec<Event>) -> Result<u64, Error> {
        if self.failed {
            return Err(Error::Closed);
        }
        // Set first, so that a future that is dropped half way counts as failed too.
        self.failed = true;
        let record = self.record(at, events);
        let after = self.options.op_timeout;
        let outcome = tokio::time::timeout(after, self.write(&record)).await;
        let number = outcome.unwrap_or(Err(Error::Timeout { action: "append to", after }))?;
        self.head = Head::of(number, &record);
        self.failed = false;
        Ok(number)
    }

    async fn write(&self, record: &Record) -> Result<u64, Error> {
        let number = self.head.number + 1;
        match self.files.create(number, record).await? {
            Claim::Ours => self.not_retired(number).await.map(|()| number),
            Claim::Taken(rival) => Err(Error::Fenced { by: rival.writer }),
        }
    }

    /// Asked after the number was looked at: the log moved on, and what was seen there says nothing of it.
    async fn not_retired(&self, number: u64) -> Result<(), Error> {
        match self.files.is_retired(number).await? {
            true => Err(Error::Fenced { by: "unknown: the log moved on".to_owned() }),
            false => Ok(()),
        }
    }

    /// Fails if somebody else has taken the log over: then what this writer answers from its state may be old.
    pub async fn check(&self) -> Result<(), Error> {
        let next = self.head.number + 1;
        match self.files.read(next).await? {
            Some(rival) => Err(Error::Fenced { by: rival.writer }),
            None => self.not_retired(next).await,
        }
    }

    /// Whether enough records have piled up since the last snapshot.
    pub fn snapshot_due(&self) -> bool {
        self.head.number >= self.snapshot + self.options.snapshot_every
    }

    /// Stores the state after the newest record. `state` must be that.
    pub async fn snapshot(&mut self, state: &State) -> Result<(), Error> {
        let snapshot = Snapshot { head: self.head.clone(), state };
        self.files.write_snapshot(self.head.number, &snapshot).await?;
        self.snapshot = self.head.number;
        Ok(())
    }

    /// Removes blocks of records that two snapshots cover, and all but the last two snapshots.
    ///
    /// Borrows nothing: it may run beside appends.
    pub fn sweep(&self) -> impl Future<Output = Result<(), Error>> + Send + 'static {
        let (files, head) = (self.files.clone(), self.head.number);
        async move { files.sweep(head).await }
    }
}
