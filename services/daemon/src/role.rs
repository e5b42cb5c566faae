//! What a process does. Each role is a list of services on one port; nothing is decided here.

use std::future::Future;
use std::io;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use domain::Timestamp;
use ingest::{Allowance, Ingest, Limits, Record, Watcher};
use object_store::ObjectStore;
use perennial_proto::limits::MAX_MESSAGE_BYTES;
use perennial_proto::v1;
use registry::{Evaluations, ModelLimits, Pipelines, Publisher, Registry, Retention};
use rehearsal::{Eraser, Rehearsal};
use scheduler::{Moment, Runs, Scheduler, Terms, Workers};
use store::journal::Journal;
use store::log::{Follower, Options};
use store::roots::Roots;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdin};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::service::RoutesBuilder;
use tonic::transport::server::{Connected, TcpIncoming};
use tonic::transport::{Channel, Endpoint};
use tracing::{error, info, warn};

use crate::config::{self, Config, reachable};
use crate::serve::serve;
use crate::spawn;
use crate::standby::Standby;
use crate::tidy;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// The log, the schedule, the registry
    Control,
    /// Takes chunks in; any number may run side by side
    Ingest,
    /// Both, and a worker on this machine
    All,
}

/// The services of a role, and their names for the health service.
#[derive(Default)]
pub(crate) struct Services {
    pub(crate) routes: RoutesBuilder,
    pub(crate) names: Vec<&'static str>,
}

/// Adds a service of `v1` under the wire's message limits. Clients may compress.
macro_rules! add {
    ($services:expr, $module:ident::$server:ident, $service:expr) => {
        let server = v1::$module::$server::new($service)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd)
            .send_compressed(CompressionEncoding::Zstd)
            .send_compressed(CompressionEncoding::Gzip);
        $services.routes.add_service(server);
        $services.names.push(v1::$module::SERVICE_NAME);
    };
}

/// What a process takes from the machine it runs on. A simulation has machines of its own.
#[derive(Clone)]
pub struct Machine {
    pub now: fn() -> Timestamp,
    pub moment: fn() -> Moment,
    /// A connection that is made when it is first used.
    pub dial: Arc<dyn Fn(Endpoint) -> Channel + Send + Sync>,
}

/// What every role needs.
pub struct Node {
    pub config: Config,
    pub store: Arc<dyn ObjectStore>,
    /// Where this process is reached from this machine.
    pub url: String,
    pub machine: Machine,
    pub log: Options,
    pub shutdown: CancellationToken,
}

/// What the control role lives by.
struct Control {
    journal: Arc<Journal>,
    /// Schedule, publish, retire, sweep. Each ends with the shutdown and not before.
    tasks: JoinSet<()>,
}

/// Serves until shutdown, or until the process may not go on.
///
/// With `standby` it first waits until no other process has the control role.
pub async fn run(config: Config, role: Role, standby: bool, shutdown: CancellationToken) -> anyhow::Result<()> {
    if role == Role::Ingest && config.control.is_none() {
        // It would ask itself, and refuse every push.
        bail!("the role `ingest` alone needs `control`, the URL of the control role (--control http://HOST:7420)");
    }
    if standby && role != Role::Control {
        bail!("only the control role has a standby: --role control --standby");
    }
    let store = store::open(&config.store)?;
    if role != Role::Ingest {
        store::probe::check(&store).await?;
        tidy::in_background(config.store.clone(), now());
    }
    let machine = Machine { now, moment, dial: Arc::new(|endpoint| endpoint.connect_lazy()) };
    let ready = ready(&config, &store, &machine, standby, &shutdown).await?;
    let Some((follower, listener)) = ready else { return Ok(()) };
    let url = reachable(listener.local_addr()?);
    // Small answers must not wait for the acknowledgement of those before them.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let node = Node { config, store, url, machine, log: Options::default(), shutdown };
    node.run(role, follower, incoming).await
}

impl Node {
    /// Serves whoever comes in. A control role takes the log over: the one that was followed, if one was.
    pub async fn run<I>(
        self,
        role: Role,
        follower: Option<Follower>,
        incoming: impl Stream<Item = io::Result<I>>,
    ) -> anyhow::Result<()>
    where
        I: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let mut services = Services::default();
        let (mut control_role, mut worker, mut tasks) = (None, None, JoinSet::new());
        match role {
            Role::Control => control_role = Some(control(&self, follower, &mut services).await?),
            Role::Ingest => ingest(&self, &mut services, &mut tasks)?,
            Role::All => {
                control_role = Some(control(&self, follower, &mut services).await?);
                ingest(&self, &mut services, &mut tasks)?;
                worker = keep_worker(&self);
            }
        }
        info!(?role, url = self.url, store = self.config.store, "serving");
        let served = async {
            tokio::select! {
                served = serve(incoming, services, self.shutdown.clone()) => served,
                error = ended_early(tasks, &self.shutdown) => Err(error.context("this process may not go on")),
            }
        };
        let outcome = match control_role {
            None => served.await,
            Some(control) => control.alongside(served, &self.shutdown).await,
        };
        // However it came to the end, the worker is given its time to stop.
        self.shutdown.cancel();
        let kept = match worker {
            Some(worker) => worker.await.context("the task that keeps the worker broke"),
            None => Ok(()),
        };
        outcome.and(kept)
    }
}

/// A place to serve at, and for a standby the log that it may take over. None: shutdown came first.
async fn ready(
    config: &Config,
    store: &Arc<dyn ObjectStore>,
    machine: &Machine,
    standby: bool,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<(Option<Follower>, TcpListener)>> {
    let (listen, heartbeat) = (config.listen, config.recovery_budget.timeouts().heartbeat);
    let bind = || async move { TcpListener::bind(listen).await.with_context(|| format!("cannot listen at {listen}")) };
    if !standby {
        return Ok(Some((None, bind().await?)));
    }
    let (store, machine, log) = (store.clone(), machine.clone(), Options::default());
    let standby = Standby { store, machine, log, listen, heartbeat, shutdown: shutdown.clone() };
    while let Some(follower) = standby.wait().await? {
        match bind().await {
            Ok(listener) => return Ok(Some((Some(follower), listener))),
            // A process that hangs still holds its port.
            Err(error) => warn!(error = format!("{error:#}"), "still standing by"),
        }
    }
    Ok(None)
}

async fn control(node: &Node, follower: Option<Follower>, services: &mut Services) -> anyhow::Result<Control> {
    // Where a standby finds out whether this process serves.
    let writer = node.config.advertise.clone().unwrap_or_else(|| node.url.clone());
    let journal = match follower {
        Some(follower) => Journal::take_over(follower, &writer, node.machine.now).await?,
        None => Journal::open_with(node.store.clone(), &writer, node.machine.now, node.log).await?,
    };
    let journal = Arc::new(journal);
    let timeouts = node.config.recovery_budget.timeouts();
    let terms = Terms {
        heartbeat: timeouts.heartbeat,
        lease: timeouts.lease,
        collective: timeouts.collective,
        stall: timeouts.stall,
    };
    let scheduler = Scheduler::new(journal.clone(), terms, node.machine.moment, node.shutdown.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(scheduler.clone().run());
    tasks.spawn(Publisher::new(journal.clone(), node.store.clone()).run(node.shutdown.clone()));
    tasks.spawn(Retention::new(journal.clone(), node.store.clone()).run(node.shutdown.clone()));
    tasks.spawn(scheduler::sweep::run(journal.clone(), node.store.clone(), node.shutdown.clone()));
    tasks.spawn(Eraser::new(journal.clone(), node.store.clone()).run(node.shutdown.clone()));
    let (log, store) = (|| journal.clone(), || node.store.clone());
    let limits = &node.config.limits;
    let models =
        ModelLimits { max_model_bytes: limits.max_model_bytes.0, max_frame_bytes: limits.max_frame_bytes.0 as usize };
    let registry = Registry::new(log(), store(), node.config.store.clone(), models, roots(node)?);
    add!(
        services,
        pipeline_service_server::PipelineServiceServer,
        Pipelines::new(log(), roots(node)?, Roots::new(&node.config.roots)?)
    );
    add!(services, chunk_service_server::ChunkServiceServer, Record::new(log(), store()));
    add!(services, rehearsal_service_server::RehearsalServiceServer, Rehearsal::new(log(), store()));
    add!(services, run_service_server::RunServiceServer, Runs(scheduler.clone()));
    add!(services, worker_service_server::WorkerServiceServer, Workers(scheduler));
    add!(services, evaluation_service_server::EvaluationServiceServer, Evaluations(log()));
    add!(services, registry_service_server::RegistryServiceServer, registry);
    Ok(Control { journal, tasks })
}

/// The service, the watch over prefixes, and the patrol.
fn ingest(node: &Node, services: &mut Services, tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
    let control = node.config.control.clone().unwrap_or_else(|| node.url.clone());
    // A control role that vanishes with its machine breaks no connection.
    let timeouts = node.config.recovery_budget.timeouts();
    let silence = timeouts.lease;
    let endpoint = Endpoint::from_shared(control)?.connect_timeout(Duration::from_secs(5));
    let endpoint = endpoint.http2_keep_alive_interval(silence).keep_alive_timeout(silence).keep_alive_while_idle(true);
    let channel = (node.machine.dial)(endpoint);
    let limits = Limits {
        max_chunk_bytes: node.config.limits.max_chunk_bytes.0,
        decode_memory: node.config.limits.decode_memory.0,
        max_frame_bytes: node.config.limits.max_frame_bytes.0 as usize,
        client: allowance(&node.config.limits.client),
        namespace: allowance(&node.config.limits.namespace),
        ..Limits::default()
    };
    let ingest = Ingest::new(node.store.clone(), roots(node)?, channel, limits, node.machine.now);
    let watcher = Watcher::new(ingest.clone(), Roots::new(&node.config.roots)?, &node.config.store);
    let mut ticks = tokio::time::interval(node.config.watch_interval.0);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let shutdown = node.shutdown.clone();
    tasks.spawn(async move { shutdown.run_until_cancelled(watcher.run(ticks)).await.unwrap_or(()) });
    // Whoever received a chunk is at its rows for about as long before another one is.
    let mut ticks = tokio::time::interval(timeouts.collective);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (shutdown, patrol) = (node.shutdown.clone(), ingest.clone().patrol(ticks));
    tasks.spawn(async move { shutdown.run_until_cancelled(patrol).await.unwrap_or(()) });
    add!(services, ingest_service_server::IngestServiceServer, ingest);
    Ok(())
}

fn allowance(given: &config::Allowance) -> Allowance {
    Allowance { pushes: given.pushes.get(), bytes_per_second: given.bytes_per_second.map(|bytes| bytes.0) }
}

/// The configured roots, and the store itself.
fn roots(node: &Node) -> anyhow::Result<Roots> {
    let urls: Vec<&String> = node.config.roots.iter().chain([&node.config.store]).collect();
    Ok(Roots::new(&urls)?)
}

/// Starts a worker, and again whenever it ends, until shutdown. The task ends when the worker has.
fn keep_worker(node: &Node) -> Option<JoinHandle<()>> {
    if !node.config.worker.spawn {
        return None;
    }
    let worker = match spawn::find_worker() {
        Ok(worker) => worker,
        Err(missing) => {
            error!(%missing, "no worker started: chunks are taken in, but nothing trains");
            return None;
        }
    };
    let (url, config, shutdown) = (node.url.clone(), node.config.clone(), node.shutdown.clone());
    Some(tokio::spawn(async move {
        while !shutdown.is_cancelled() {
            match spawn::command(&worker, &url, &config).spawn() {
                Err(error) => error!(worker = %worker.display(), %error, "worker not started"),
                Ok(mut child) => {
                    // Held here, since waiting for a child closes its standard input.
                    let alive = child.stdin.take();
                    tokio::select! {
                        ended = child.wait() => error!(?ended, "worker ended"),
                        () = shutdown.cancelled() => return stop(child, alive).await,
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }))
}

/// Closes the worker's standard input, which asks it to stop, and waits for it a while.
async fn stop(mut child: Child, alive: Option<ChildStdin>) {
    drop(alive);
    let _ = tokio::time::timeout(Duration::from_secs(5), child.wait()).await;
}

impl Control {
    /// Serves, unless there is nothing left to serve: a process that lost the log must not answer from a state that
    /// grows old, nor take in chunks that nothing schedules.
    async fn alongside(
        self,
        served: impl Future<Output = anyhow::Result<()>>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        let broken = tokio::select! {
            served = served => return served,
            reason = self.journal.closed(), if !shutdown.is_cancelled() => anyhow::Error::new(reason),
            error = ended_early(self.tasks, shutdown) => error,
        };
        Err(broken.context("this process may not go on"))
    }
}

/// Waits for a task that ends while there is no shutdown.
async fn ended_early(mut tasks: JoinSet<()>, shutdown: &CancellationToken) -> anyhow::Error {
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Err(panic) => return anyhow::Error::new(panic).context("a task of this process broke"),
            Ok(()) if !shutdown.is_cancelled() => return anyhow!("a task of this process ended"),
            Ok(()) => {}
        }
    }
    std::future::pending().await
}

#[expect(clippy::disallowed_methods, reason = "the daemon is where time is read")]
fn moment() -> Moment {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    Moment { at: now(), ticks: START.elapsed().as_millis() as u64 }
}

#[expect(clippy::disallowed_methods, reason = "the daemon is where time is read")]
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_breaks_or_stops_ends_the_process_and_a_shutdown_does_not() {
        let shutdown = CancellationToken::new();
        let with = |task: fn()| {
            let mut tasks = JoinSet::new();
            tasks.spawn(std::future::pending());
            tasks.spawn(async move { task() });
            tasks
        };
        let error = ended_early(with(|| panic!("on purpose")), &shutdown).await;
        assert!(format!("{error:#}").contains("a task of this process broke: task"), "{error:#}");
        let error = ended_early(with(|| ()), &shutdown).await;
        assert_eq!(error.to_string(), "a task of this process ended");
        shutdown.cancel();
        let mut tasks = JoinSet::new();
        tasks.spawn(async {});
        let waiting = ended_early(tasks, &shutdown);
        tokio::pin!(waiting);
        tokio::task::yield_now().await;
        assert!(futures::poll!(&mut waiting).is_pending());
    }
}
