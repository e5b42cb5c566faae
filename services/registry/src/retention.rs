//! Removes the files of versions that a pipeline's retention lets go of.
//!
//! Recorded first, removed next: from the record on nobody is given the files, so that no reader meets a version that lacks
//! some. A process that dies in between leaves files that nothing names, and whoever has the log next removes them: what is
//! retired and not yet recorded as removed. Of a folder the manifest goes first, since a folder that has one is whole. A
//! retired version never comes back, so that not even a process that lost the log can remove too much.

use std::sync::Arc;
use std::time::Duration;

use domain::chunk::ObjectRef;
use domain::id::{PipelineId, Version};
use domain::planning::{self, Refusal};
use domain::state::{Event, EventKind, State};
use object_store::ObjectStore;
use perennial_proto::status::chain;
use store::journal::Journal;
use store::objects;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::error::Error;

/// Versions whose removal one record tells of.
const BATCH: usize = 64;
/// After a store that did not answer.
const AGAIN: Duration = Duration::from_secs(1);

pub struct Retention {
    journal: Arc<Journal>,
    store: Arc<dyn ObjectStore>,
}

/// Retired versions of a pipeline, and the files of theirs that may still be there.
struct Left {
    pipeline: PipelineId,
    versions: Vec<Version>,
    files: Vec<ObjectRef>,
}

impl Retention {
    pub fn new(journal: Arc<Journal>, store: Arc<dyn ObjectStore>) -> Self {
        Self { journal, store }
    }

    /// Retires and removes whatever is due, at every change of the log and again after a failure, and first what earlier
    /// processes left.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut changed = self.journal.watch();
        loop {
            let settled = self.settle().await;
            if let Err(error) = &settled {
                warn!(error = chain(error), "old versions not removed");
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                closed = changed.changed() => if closed.is_err() { return },
                () = tokio::time::sleep(AGAIN), if settled.is_err() => {}
            }
        }
    }

    /// Until nothing is due.
    pub async fn settle(&self) -> Result<(), Error> {
        for pipeline in self.journal.read(due) {
            // Decided on the newest state: what has come to be held or named meanwhile stays.
            let decide = move |state: &State, _at| Ok::<_, Refusal>((planning::retire(state, &pipeline)?, ()));
            self.journal.commit(decide).await?;
        }
        while let Some(left) = self.journal.read(left) {
            for file in &left.files {
                objects::delete(&*self.store, &file.path).await.map_err(Error::Store)?;
            }
            info!(pipeline = %left.pipeline, versions = ?left.versions, "files of retired versions removed");
            let kind = EventKind::FilesRemoved { versions: left.versions };
            let events = vec![Event { pipeline: left.pipeline, kind }];
            self.journal.commit(move |_, _| Ok::<_, Refusal>((events, ()))).await?;
        }
        Ok(())
    }
}

fn due(state: &State) -> Vec<PipelineId> {
    let due = state.pipelines.iter().filter(|(_, current)| !planning::expired(current).is_empty());
    due.map(|(id, _)| id.clone()).collect()
}

/// Of the first pipeline that has some; manifests first.
fn left(state: &State) -> Option<Left> {
    state.pipelines.iter().find_map(|(id, current)| {
        let versions: Vec<Version> = current.leaving.iter().take(BATCH).copied().collect();
        let files = versions.iter().filter_map(|version| current.versions.get(version));
        let files = files.flat_map(|version| version.files.iter().rev().cloned()).collect();
        (!versions.is_empty()).then(|| Left { pipeline: id.clone(), versions, files })
    })
}
