//! Waits behind a control role that serves, and is ready to take its log over when that one is gone.
//!
//! Nothing depends on who is right about that: the log has one writer, and whoever is taken over from is shut out by it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use object_store::ObjectStore;
use perennial_proto::v1::run_service_server;
use store::log::{Error, Follower, Options};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tracing::{info, warn};

use crate::role::Machine;

/// Heartbeats without an answer until the control role counts as gone.
const MISSED: u32 = 3;

pub struct Standby {
    pub store: Arc<dyn ObjectStore>,
    pub machine: Machine,
    pub log: Options,
    /// Where it will serve.
    pub listen: SocketAddr,
    pub heartbeat: Duration,
    pub shutdown: CancellationToken,
}

impl Standby {
    /// Follows the log until its writer has not answered for some heartbeats. None: shutdown came first.
    pub async fn wait(&self) -> anyhow::Result<Option<Follower>> {
        let mut pace = interval(self.heartbeat);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut follower, mut missed, mut epoch) = (None, 0, None);
        loop {
            tokio::select! {
                _ = pace.tick() => {}
                () = self.shutdown.cancelled() => return Ok(None),
            }
            let current = match self.caught_up(follower.take()).await {
                Ok(current) => follower.insert(current),
                Err(error) => {
                    warn!(error = format!("{:#}", anyhow::Error::new(error)), "the commit log cannot be followed");
                    continue;
                }
            };
            let Some(writer) = current.writer() else { return Ok(follower) };
            if epoch.replace(current.epoch()) != Some(current.epoch()) {
                self.check(writer)?;
                info!(active = writer, epoch, "standing by");
                missed = 0;
            }
            if missed >= MISSED {
                return Ok(follower);
            }
            missed = if self.answers(writer).await { 0 } else { missed + 1 };
            if missed > 0 {
                warn!(active = writer, missed, "the control role does not answer");
            }
        }
    }

    async fn caught_up(&self, follower: Option<Follower>) -> Result<Follower, Error> {
        match follower {
            Some(mut follower) => follower.catch_up().await.map(|()| follower),
            None => Follower::open(self.store.clone(), self.log).await,
        }
    }

    /// Whether the process at `url` has the control role and serves.
    async fn answers(&self, url: &str) -> bool {
        let Ok(endpoint) = Endpoint::from_shared(url.to_owned()) else { return false };
        let request = HealthCheckRequest { service: run_service_server::SERVICE_NAME.to_owned() };
        let mut health = HealthClient::new((self.machine.dial)(endpoint));
        let asked = timeout(self.heartbeat, health.check(request)).await;
        asked.is_ok_and(|answer| answer.is_ok_and(|answer| answer.get_ref().status() == ServingStatus::Serving))
    }

    /// An address that means this machine is of no use from another.
    fn check(&self, active: &str) -> anyhow::Result<()> {
        let here = ["http://127.", "http://localhost", "http://[::1]"].iter().any(|start| active.starts_with(start));
        if here && !self.listen.ip().is_loopback() {
            bail!(
                "the active control role says that it is reached at {active}, which means another place on each machine: set \
                 `advertise` there, and here, to a URL that both reach. If no control role runs, start this one once without --standby"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;
    use scheduler::Moment;
    use store::log::CommitLog;
    use tokio::sync::watch;
    use tonic::service::InterceptorLayer;
    use tonic::transport::Server;
    use tonic::transport::server::TcpIncoming;

    async fn standby(active: &str, listen: &str) -> Standby {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        CommitLog::open(store.clone(), active, 0, Options::default()).await.unwrap();
        let listen = listen.parse().unwrap();
        let machine = Machine { now: || 0, moment: Moment::default, dial: Arc::new(|to| to.connect_lazy()) };
        let (log, heartbeat) = (Options::default(), Duration::from_millis(50));
        Standby { store, machine, log, listen, heartbeat, shutdown: CancellationToken::new() }
    }

    /// A process that serves `name`, and how often it was asked.
    async fn serving(name: &str) -> (String, watch::Receiver<u32>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (health, service) = tonic_health::server::health_reporter();
        health.set_service_status(name, tonic_health::ServingStatus::Serving).await;
        let (asked, asks) = watch::channel(0);
        let asked = Arc::new(asked);
        let count = move |request| {
            asked.send_modify(|times| *times += 1);
            Ok::<tonic::Request<()>, tonic::Status>(request)
        };
        let server = Server::builder().layer(InterceptorLayer::new(count)).add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        (url, asks)
    }

    #[tokio::test]
    async fn a_standby_leaves_alone_whoever_serves_and_takes_over_from_whoever_has_another_role() {
        let (active, mut asks) = serving(run_service_server::SERVICE_NAME).await;
        let waiting = standby(&active, "127.0.0.1:1").await;
        tokio::select! {
            _ = waiting.wait() => panic!("it takes over"),
            asked = asks.wait_for(|times| *times > 2 * MISSED) => drop(asked.unwrap()),
        }
        waiting.shutdown.cancel();
        assert!(waiting.wait().await.unwrap().is_none());
        let (ingest, _) = serving("perennial.v1.IngestService").await;
        let follower = standby(&ingest, "127.0.0.1:1").await.wait().await.unwrap().unwrap();
        assert_eq!(follower.writer(), Some(ingest.as_str()));
    }

    #[tokio::test]
    async fn an_address_that_means_this_machine_is_refused_where_it_may_be_another() {
        let Err(error) = standby("http://127.0.0.1:7420", "0.0.0.0:7420").await.wait().await else { panic!() };
        assert!(error.to_string().contains("set `advertise` there"), "{error}");
        let unnamed = standby("http://10.0.0.1:1", "0.0.0.0:7420").await;
        assert!(unnamed.check("http://10.0.0.1:1").is_ok() && unnamed.check("http://[::1]:1").is_err());
    }
}
