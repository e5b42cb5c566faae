//! Waits behind a control role that serves, and is ready to take its log over when that one is gone.
//!
//! Nothing depends on who is right about that: the log has one writer, and whoever is taken over from is shut out by it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use object_store::ObjectStore;
use store::log::{Follower, Options};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tracing::{info, warn};

/// Heartbeats without an answer until the control role counts as gone.
const MISSED: u32 = 3;

/// Follows the log until its writer has not answered for some heartbeats. None: shutdown came first.
pub async fn wait(
    store: Arc<dyn ObjectStore>,
    heartbeat: Duration,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<Follower>> {
    let mut follower = Follower::open(store, Options::default()).await.context("cannot follow the commit log")?;
    let mut pace = interval(heartbeat);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut missed, mut epoch) = (0, None);
    loop {
        tokio::select! {
            _ = pace.tick() => {}
            () = shutdown.cancelled() => return Ok(None),
        }
        follower.catch_up().await.context("cannot follow the commit log")?;
        let Some(writer) = follower.writer() else { return Ok(Some(follower)) };
        if epoch.replace(follower.epoch()) != Some(follower.epoch()) {
            info!(active = writer, epoch, "standing by");
            missed = 0;
        }
        if answers(writer, heartbeat).await {
            missed = 0;
            continue;
        }
        missed += 1;
        warn!(active = writer, missed, "the control role does not answer");
        if missed >= MISSED {
            return Ok(Some(follower));
        }
    }
}

/// Whether the process at `url` serves.
async fn answers(url: &str, within: Duration) -> bool {
    let Ok(endpoint) = Endpoint::from_shared(url.to_owned()) else { return false };
    let asked = async {
        let channel = endpoint.connect().await.ok()?;
        let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await.ok()?;
        Some(answer.into_inner().status() == ServingStatus::Serving)
    };
    timeout(within, asked).await.ok().flatten().unwrap_or(false)
}
