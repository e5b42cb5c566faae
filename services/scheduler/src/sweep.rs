//! Removes what ended runs leave in the store: checkpoints, and candidates (a published one was copied).
//!
//! An ended run never goes on, so that nothing can be removed too early, not even by a process that lost the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::id::{PipelineId, RunNumber};
use domain::state::State;
use object_store::ObjectStore;
use store::journal::Journal;
use store::{layout, objects};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// After a store that did not answer.
const AGAIN: Duration = Duration::from_secs(1);

/// Sweeps whenever a run has ended and again after a failure, and first what earlier processes left, until shutdown.
pub async fn run(journal: Arc<Journal>, store: Arc<dyn ObjectStore>, shutdown: CancellationToken) {
    let mut changed = journal.watch();
    let mut swept = BTreeMap::new();
    loop {
        let mut failed = false;
        for (pipeline, run) in journal.read(ended) {
            if swept.get(&pipeline) == Some(&run) {
                continue;
            }
            match sweep(&*store, &pipeline, run).await {
                Ok(objects) => {
                    info!(%pipeline, up_to_run = run, objects, "swept");
                    swept.insert(pipeline, run);
                }
                Err(error) => {
                    warn!(%pipeline, error = %perennial_proto::status::chain(&error), "not swept");
                    failed = true;
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            closed = changed.changed() => if closed.is_err() { return },
            () = tokio::time::sleep(AGAIN), if failed => {}
        }
    }
}

/// The last run of each pipeline that has ended. A pipeline runs one at a time, so those before it have, too.
fn ended(state: &State) -> Vec<(PipelineId, RunNumber)> {
    let last = |(id, current): (&PipelineId, &domain::state::PipelineState)| {
        let last = current.runs.values().rev().find(|run| run.state.is_terminal())?;
        Some((id.clone(), last.number))
    };
    state.pipelines.iter().filter_map(last).collect()
}

/// Removes what runs up to `last` left, and counts it. What a worker uploads later goes with the next run.
async fn sweep(store: &dyn ObjectStore, pipeline: &PipelineId, last: RunNumber) -> Result<usize, store::Error> {
    let paths = objects::list(store, &layout::runs(pipeline)).await?;
    let old = paths.iter().filter(|path| layout::run_of(pipeline, path).is_some_and(|run| run <= last));
    let mut removed = 0;
    for path in old {
        objects::delete(store, path).await?;
        removed += 1;
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ended_runs_leave_nothing_and_the_next_one_keeps_everything() {
        let store = object_store::memory::InMemory::new();
        let id: PipelineId = "namespaces/default/pipelines/tickets".parse().unwrap();
        let paths = [
            format!("{}/MANIFEST.json", layout::checkpoint(&id, 1, 10)),
            format!("{}/snapshot.json", layout::candidate(&id, 2, 1)),
            format!("{}/MANIFEST.json", layout::checkpoint(&id, 3, 10)),
            format!("{}/model.safetensors", layout::version(&id, domain::id::Version(1))),
        ];
        for path in &paths {
            objects::put(&store, path, "x".into()).await.unwrap();
        }
        assert_eq!(sweep(&store, &id, 2).await.unwrap(), 2);
        assert_eq!(objects::list(&store, &layout::runs(&id)).await.unwrap(), [paths[2].clone()]);
        assert!(objects::read(&store, &paths[3]).await.is_ok());
    }
}
