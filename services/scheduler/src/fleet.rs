//! The workers that are heard, and what each is working on. Plain data, kept in memory: after a
//! restart workers lease again and say what they run.

use std::collections::BTreeMap;

use domain::Timestamp;
use domain::id::{PipelineId, RunNumber};
use perennial_proto::v1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Train,
    Evaluate,
    Measure,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Evaluate => "evaluate",
            Self::Measure => "measure",
        }
    }
}

/// One stage of one attempt, or a chunk to compare with what was known: what a worker is assigned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub pipeline: PipelineId,
    /// To measure: the chunk's place among the pipeline's.
    pub run: RunNumber,
    pub attempt: u32,
    pub stage: Stage,
}

impl Key {
    /// The attempt says which state of the chunk it is.
    pub fn to_measure(pipeline: &PipelineId, place: u64, generation: u32) -> Self {
        Self { pipeline: pipeline.clone(), run: place, attempt: generation, stage: Stage::Measure }
    }
}

/// How often a chunk could not be compared, and when it is tried again, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failed {
    pub times: u32,
    pub until: u64,
}

/// Both clocks at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock's, as the log's records carry it.
    pub at: Timestamp,
    /// Milliseconds of this process, which nobody sets back: what leases run on.
    pub ticks: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Worker {
    pub trains: bool,
    pub evaluates: bool,
    /// Compares chunks, too. Older ones do not know how.
    pub measures: bool,
    /// `cpu` or `cuda`: ranks of one gang speak one language.
    pub device: String,
    pub slots: u32,
    pub rendezvous: (String, u16),
    /// In ticks.
    pub last_heard: u64,
}

/// The ranks `first..first + ranks` of a gang, on one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    pub worker: String,
    pub first: u32,
    pub ranks: u32,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Assigned {
    pub shares: Vec<Share>,
    pub progress: Option<v1::Progress>,
    /// A checkpoint newer than the attempt's start is in the store.
    pub progressed: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Fleet {
    pub workers: BTreeMap<String, Worker>,
    pub assigned: BTreeMap<Key, Assigned>,
    pub failed: BTreeMap<Key, Failed>,
}

impl Fleet {
    /// Slots of a worker that no assignment uses.
    pub fn free(&self, worker: &str) -> u32 {
        let shares = self.assigned.values().flat_map(|assigned| &assigned.shares);
        let used =
            shares.filter(|share| share.worker == worker).fold(0u32, |used, share| used.saturating_add(share.ranks));
        self.workers.get(worker).map_or(0, |known| known.slots.saturating_sub(used))
    }

    /// The first worker of `key`'s shares that is gone.
    pub fn lost_worker(&self, key: &Key) -> Option<&str> {
        let shares = &self.assigned.get(key)?.shares;
        shares.iter().map(|share| share.worker.as_str()).find(|worker| !self.workers.contains_key(*worker))
    }

    pub fn holds(&self, key: &Key, worker: &str) -> bool {
        self.assigned.get(key).is_some_and(|assigned| assigned.shares.iter().any(|share| share.worker == worker))
    }

    /// A worker that leased again says it still works on `key`; it is taken to be fully busy.
    pub fn adopt(&mut self, key: Key, worker: &str) {
        if self.holds(&key, worker) {
            return;
        }
        let share = Share { worker: worker.to_owned(), first: 0, ranks: u32::MAX };
        self.assigned.entry(key).or_default().shares.push(share);
    }

    /// Takes from `worker` what it does not say it still runs. A gang goes on without a share that has done its part; if it
    /// has not, its leader's ranks find out. Without the leader it ends.
    pub fn forget_unclaimed(&mut self, worker: &str, running: &[Key]) {
        self.assigned.retain(|key, assigned| {
            if running.contains(key) || assigned.shares.iter().all(|share| share.worker != worker) {
                return true;
            }
            assigned.shares.retain(|share| share.worker != worker);
            assigned.shares.first().is_some_and(|share| share.first == 0)
        });
    }

    /// Forgets workers not heard for longer than `silence_ms`.
    pub fn forget_silent(&mut self, ticks: u64, silence_ms: u64) {
        self.workers.retain(|_, worker| ticks.saturating_sub(worker.last_heard) <= silence_ms);
    }
}
