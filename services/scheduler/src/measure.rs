//! Has chunks compared with what their pipelines knew, by evaluators that have nothing else to do.

use domain::planning;
use domain::shift::Measured;
use perennial_proto::v1;
use tracing::warn;

use crate::drive::Scheduler;
use crate::error::Error;
use crate::fleet::{Failed, Key, Share};

/// Of one chunk, before it is given up.
const TRIES: u32 = 3;
/// Before the next try, milliseconds.
const PAUSE: u64 = 15_000;

impl Scheduler {
    pub(crate) fn measure(&self, key: Key, worker: String) {
        let manifest = self.journal.read(|state| {
            let current = state.pipelines.get(&key.pipeline)?;
            planning::manifest_to_measure(current, key.run)
        });
        let Some(manifest) = manifest else { return };
        let share = Share { worker, first: 0, ranks: 1 };
        self.assign(key, vec![share], &manifest, |_, _| v1::assignment::Work::Measure(v1::MeasureWork {}));
    }

    pub(crate) async fn measured(&self, key: &Key, measured: Measured) -> Result<bool, Error> {
        self.fleet().failed.remove(key);
        let key = key.clone();
        let decide = move |state: &_| Ok(planning::measured(state, &key.pipeline, key.run, key.attempt, measured));
        self.commit(decide).await
    }

    /// It is tried again after a pause, and not for ever unless it does not count.
    pub(crate) async fn not_measured(&self, key: &Key, reason: String, counts: bool) -> Result<(), Error> {
        warn!(chunk = key.run, pipeline = %key.pipeline, reason, "chunk not compared");
        let times = {
            let until = self.now().ticks + PAUSE;
            let mut fleet = self.fleet();
            let failed = fleet.failed.entry(key.clone()).or_default();
            *failed = Failed { times: failed.times + u32::from(counts), until };
            failed.times
        };
        self.unassign(key, None);
        if times < TRIES {
            return Ok(());
        }
        let tip = self.journal.read(|state| state.pipelines.get(&key.pipeline).and_then(|current| current.tip));
        match tip {
            Some(version) => self.measured(key, Measured::failed(version, reason)).await.map(drop),
            None => Ok(()),
        }
    }
}
