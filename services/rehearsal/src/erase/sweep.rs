//! Removes what held erased rows, and erases what has been kept for long enough.

use std::time::Duration;

use domain::erasure::Erasure;
use domain::id::{ChunkId, PipelineId};
use domain::planning;
use domain::state::{Event, EventKind, State};
use perennial_proto::status::chain;
use store::objects;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Eraser, Target};
use crate::error::Error;

/// The longest that garbage of a store which was away, and rows that expire, wait.
const PATROL: Duration = Duration::from_secs(60);

impl Eraser {
    /// Sweeps whenever something was erased, and first what earlier processes left, until shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut changed = self.journal.watch();
        loop {
            self.patrol().await;
            tokio::select! {
                () = shutdown.cancelled() => return,
                closed = changed.changed() => if closed.is_err() { return },
                () = tokio::time::sleep(PATROL) => {}
            }
        }
    }

    async fn patrol(&self) {
        for (pipeline, erasure) in self.journal.read(unfinished) {
            let number = erasure.number;
            match self.finish(&pipeline, erasure).await {
                Ok(objects) => info!(%pipeline, erasure = number, objects, "erased rows are gone"),
                // The next patrol tries again.
                Err(error) => warn!(%pipeline, erasure = number, error = %chain(&error), "erased rows not removed"),
            }
        }
        for (pipeline, chunk) in self.expired().await {
            match self.erase(&pipeline, &Target::Expired(chunk.clone())).await {
                Ok(_) => info!(%pipeline, %chunk, "expired rows erased"),
                Err(error) => warn!(%pipeline, %chunk, error = %chain(&error), "expired rows not erased"),
            }
        }
    }

    async fn expired(&self) -> Vec<(PipelineId, ChunkId)> {
        let look = |state: &State, at| {
            let of = |(id, current): (&PipelineId, &domain::state::PipelineState)| {
                current.expired(at).into_iter().map(|chunk| (id.clone(), chunk)).collect::<Vec<_>>()
            };
            Ok::<_, Error>((Vec::new(), state.pipelines.iter().flat_map(of).collect()))
        };
        if !self.journal.read(|state| state.pipelines.values().any(|current| current.pipeline.data.ttl_days.is_some()))
        {
            return Vec::new();
        }
        // The journal's clock: the same that dates what it records.
        self.journal.commit(look).await.unwrap_or_default()
    }

    /// Removes everything that held the rows, then says so. Safe to repeat.
    async fn finish(&self, pipeline: &PipelineId, erasure: Erasure) -> Result<usize, Error> {
        for path in &erasure.garbage {
            objects::delete(&*self.store, path).await?;
        }
        let (of, number) = (pipeline.clone(), erasure.number);
        let decide = move |state: &State, _| {
            let current = planning::pipeline(state, &of)?;
            let open = current.erasures.iter().any(|one| one.number == number && one.finished_at.is_none());
            let kind = EventKind::ErasureFinished { erasure: number };
            let events = open.then(|| Event { pipeline: of.clone(), kind }).into_iter().collect();
            Ok::<_, Error>((events, ()))
        };
        self.journal.commit(decide).await?;
        Ok(erasure.garbage.len())
    }
}

fn unfinished(state: &State) -> Vec<(PipelineId, Erasure)> {
    let of = |(id, current): (&PipelineId, &domain::state::PipelineState)| {
        let open = current.erasures.iter().filter(|erasure| erasure.finished_at.is_none());
        open.map(|erasure| (id.clone(), erasure.clone())).collect::<Vec<_>>()
    };
    state.pipelines.iter().flat_map(of).collect()
}
