//! Leases work from the control role and keeps the lease by heartbeats.
//!
//! A lost connection costs nothing: work goes on, and the next lease says what still runs.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use collective::{CudaState, StoreServer};
use perennial_proto::limits::MAX_MESSAGE_BYTES;
use perennial_proto::v1;
use perennial_proto::v1::lease_response::Instruction;
use perennial_proto::v1::worker_service_client::WorkerServiceClient;
use store::fetch::Fetcher;
use store::objects::Cache;
use store::roots::Roots;
use tokio::io::AsyncReadExt;
use tokio::task::{self, AbortHandle, JoinError, JoinSet};
use tonic::transport::Channel;
use tracing::{info, warn};

use crate::assignment;
use crate::scratch::Home;

#[derive(clap::Args)]
pub struct Args {
    /// The control role's address
    #[arg(long, env = "PERENNIAL_SERVER", default_value = "http://127.0.0.1:7420")]
    server: String,
    /// The store, as perenniald's `store` names it, written as a URL
    #[arg(long, value_name = "URL", env = "PERENNIAL_STORE")]
    store: Option<String>,
    /// Places that base models may come from, besides the store
    #[arg(long = "root")]
    roots: Vec<String>,
    #[arg(long, value_enum, default_value_t = Role::All)]
    role: Role,
    /// Ranks this worker runs at once. Default: one a GPU, or one a CPU core where there is none
    #[arg(long)]
    slots: Option<u32>,
    /// Where fetched objects are kept
    #[arg(long, default_value = "perennial-cache")]
    cache: PathBuf,
    /// This machine's address, as other workers reach it
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// A name unique among workers. Default: made up
    #[arg(long)]
    name: Option<String>,
    /// How logs look, on standard error; RUST_LOG says which
    #[arg(long, value_enum, default_value_t = Log::Json)]
    log: Log,
    /// Stop when standard input closes
    #[arg(long)]
    die_with_parent: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Log {
    Json,
    Text,
}

impl Log {
    fn init(self) {
        let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let logs = tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_env_filter(filter)
            .with_ansi(!plain && std::io::stderr().is_terminal());
        match self {
            Self::Json => logs.json().init(),
            Self::Text => logs.init(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Role {
    Trainer,
    Evaluator,
    All,
}

impl Role {
    fn names(self) -> Vec<String> {
        let names: &[&str] = match self {
            Self::Trainer => &["trainer"],
            Self::Evaluator => &["evaluator", "measurer"],
            Self::All => &["trainer", "evaluator", "measurer"],
        };
        names.iter().map(ToString::to_string).collect()
    }
}

/// Exit code of a command line that cannot be used, as clap's.
const USAGE: u8 = 2;

/// Waits between attempts to reach the control role double from the first to the longest.
const RECONNECT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_millis(800);
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);

pub type Client = WorkerServiceClient<Channel>;

/// What this worker is, and how it reaches the control role.
pub struct Worker {
    pub name: String,
    pub host: String,
    pub node: trainer::attempt::Node,
    pub home: Home,
    pub client: Client,
}

/// An assignment under way.
struct Running {
    id: v1::AssignmentId,
    task: AbortHandle,
    slots: Vec<u32>,
    progress: assignment::Shared,
}

pub fn main(args: Args, cuda: &CudaState) -> ExitCode {
    // Not clap's to ask for: the subcommands have no store.
    let Some(store) = args.store.clone() else {
        eprintln!(
            "perennial-worker: --store is missing: give the URL of the daemon's `store`, such as file:///srv/perennial-data \
             (perenniald logs it when it starts), or set PERENNIAL_STORE"
        );
        return ExitCode::from(USAGE);
    };
    args.log.init();
    let runtime = tokio::runtime::Runtime::new().expect("the system allows threads");
    let served = runtime.block_on(serve(args, &store, cuda));
    // A read of standard input cannot be cancelled; do not wait for it.
    runtime.shutdown_background();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: Args, store: &str, cuda: &CudaState) -> anyhow::Result<()> {
    let device = if *cuda == CudaState::Loaded && tch::Cuda::is_available() { "cuda" } else { "cpu" };
    if let CudaState::Absent(reason) = cuda {
        info!(reason, "no CUDA: training on the CPU");
    }
    let meeting = StoreServer::start(&args.host, 0, ANSWER_WITHIN)?;
    let worker = Arc::new(worker(&args, store, device)?);
    let lease = v1::LeaseRequest {
        worker: worker.name.clone(),
        roles: args.role.names(),
        slots: args.slots.unwrap_or_else(|| default_slots(device)),
        rendezvous_host: args.host.clone(),
        rendezvous_port: u32::from(meeting.port()),
        device: device.to_owned(),
        running: Vec::new(),
    };
    tokio::select! {
        never = Agent { worker: worker.clone(), lease, running: Vec::new(), tasks: JoinSet::new(), started: 0 }.run() => match never {},
        () = asked_to_stop(args.die_with_parent) => {}
    }
    Ok(())
}

fn default_slots(device: &str) -> u32 {
    match device {
        "cuda" => tch::Cuda::device_count() as u32,
        _ => std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
    }
}

fn worker(args: &Args, store_url: &str, device: &str) -> anyhow::Result<Worker> {
    let store = store::open(store_url)?;
    let roots: Vec<&str> = args.roots.iter().map(String::as_str).chain([store_url]).collect();
    let cache = Cache::new(store.clone(), args.cache.join("objects"));
    let fetcher = Fetcher::new(cache, Roots::new(&roots)?, args.cache.clone());
    let name = args.name.clone().unwrap_or_else(|| made_up(&args.host));
    let endpoint = Channel::from_shared(args.server.clone()).context("--server is not a URL")?;
    let endpoint = endpoint.connect_timeout(ANSWER_WITHIN).http2_keep_alive_interval(ANSWER_WITHIN);
    let client = WorkerServiceClient::new(endpoint.connect_lazy());
    let client = client.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES);
    let program = std::env::current_exe().context("cannot find this binary")?;
    Ok(Worker {
        home: Home::claim(&args.cache, &name).with_context(|| format!("cannot use `{}`", args.cache.display()))?,
        node: trainer::attempt::Node { store, fetcher, program, device: device.to_owned() },
        host: args.host.clone(),
        client,
        name,
    })
}

/// Process numbers repeat on other machines, and after restarts.
fn made_up(host: &str) -> String {
    use std::hash::{BuildHasher, Hasher};
    let random = std::hash::RandomState::new().build_hasher().finish();
    format!("{host}-{}-{:08x}", std::process::id(), random as u32)
}

async fn asked_to_stop(with_parent: bool) {
    let mut terminate =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("signals can be watched");
    let parent_gone = async {
        let mut byte = [0];
        while matches!(tokio::io::stdin().read(&mut byte).await, Ok(read) if read > 0) {}
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
        () = parent_gone, if with_parent => {}
    }
}

struct Agent {
    worker: Arc<Worker>,
    lease: v1::LeaseRequest,
    running: Vec<Running>,
    /// Each says whether the control role knows how it ended.
    tasks: JoinSet<bool>,
    /// Assignments started: names their scratch folders.
    started: u64,
}

impl Agent {
    /// Leases again whenever the lease breaks.
    async fn run(mut self) -> std::convert::Infallible {
        let mut wait = RECONNECT;
        loop {
            match self.hold_lease().await {
                Ok(()) => wait = RECONNECT,
                Err(status) => warn!(server_says = status.message(), "no lease"),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Works until the control role goes away. An error means that no lease was had.
    async fn hold_lease(&mut self) -> Result<(), tonic::Status> {
        self.reap();
        self.lease.running = self.running.iter().map(|running| running.id.clone()).collect();
        let mut client = self.worker.client.clone();
        let mut stream = client.lease(self.lease.clone()).await?.into_inner();
        let Some(Instruction::Terms(terms)) = stream.message().await?.and_then(|first| first.instruction) else {
            return Err(tonic::Status::internal("the lease did not begin with its terms"));
        };
        info!(worker = self.worker.name, "leased");
        let mut beat = tokio::time::interval(Duration::from_millis(terms.heartbeat_ms.max(1)));
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = stream.message() => match message {
                    Ok(Some(v1::LeaseResponse { instruction: Some(instruction) })) => self.follow(instruction, &terms),
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return Ok(()),
                },
                // A new lease says what still runs, and so that this does not.
                Some(ended) = self.tasks.join_next_with_id() => if !self.forget(ended) { return Ok(()) },
                _ = beat.tick() => if self.heartbeat().await.is_err() { return Ok(()) },
            }
        }
    }

    fn follow(&mut self, instruction: Instruction, terms: &v1::LeaseTerms) {
        match instruction {
            Instruction::Assignment(assignment) => self.start(assignment, terms),
            Instruction::Cancel(id) => self.stop(&id),
            Instruction::Erased(erased) => {
                info!(objects = erased.sha256.len(), "copies of erased rows removed");
                erased.sha256.iter().for_each(|sha256| self.worker.node.fetcher.discard(sha256));
            }
            Instruction::Terms(_) => {}
        }
    }

    fn start(&mut self, assignment: v1::Assignment, terms: &v1::LeaseTerms) {
        let Some(id) = assignment.id.clone() else { return };
        info!(pipeline = id.pipeline, run = id.run, attempt = id.attempt, stage = id.stage, "assigned");
        let progress = Arc::new(Mutex::new(assignment::At::default()));
        self.started += 1;
        let scratch = self.worker.home.folder.join(self.started.to_string());
        let limits = assignment::Limits {
            collective_ms: terms.collective_timeout_ms,
            stall: Duration::from_millis(terms.stall_timeout_ms),
        };
        let slots = self.free_slots(ranks(&assignment));
        let means = assignment::Means { slots: slots.clone(), limits };
        let work = assignment::work(self.worker.clone(), assignment, scratch, means, progress.clone());
        let task = self.tasks.spawn(work);
        self.running.push(Running { id, task, slots, progress });
    }

    /// The lowest slots that nothing under way uses. The control role gives no more work than there are slots; where it
    /// knows less than this worker, as after its restart, slots are shared.
    fn free_slots(&self, wanted: u32) -> Vec<u32> {
        let used = |slot: &u32| self.running.iter().any(|running| running.slots.contains(slot));
        let all = 0..self.lease.slots.max(1);
        let (used, free): (Vec<u32>, Vec<u32>) = all.partition(used);
        free.into_iter().chain(used).cycle().take(wanted as usize).collect()
    }

    /// Aborting the task drops, and so kills, its child processes.
    fn stop(&mut self, id: &v1::AssignmentId) {
        for stopped in self.running.iter().filter(|running| running.id == *id) {
            info!(pipeline = id.pipeline, run = id.run, attempt = id.attempt, stage = id.stage, "stopped");
            stopped.task.abort();
        }
        self.running.retain(|running| running.id != *id);
    }

    /// False if the control role still believes that the work goes on.
    fn forget(&mut self, ended: Result<(task::Id, bool), JoinError>) -> bool {
        let (id, settled) = match ended {
            Ok((id, settled)) => (id, settled),
            Err(error) => (error.id(), error.is_cancelled()),
        };
        self.running.retain(|running| running.task.id() != id);
        settled
    }

    fn reap(&mut self) {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.forget(ended);
        }
    }

    async fn heartbeat(&mut self) -> Result<(), tonic::Status> {
        let mut beats: Vec<v1::HeartbeatRequest> =
            self.running.iter().map(|running| beat(&self.worker.name, running)).collect();
        if beats.is_empty() {
            beats.push(v1::HeartbeatRequest { worker: self.worker.name.clone(), ..Default::default() });
        }
        for request in beats {
            let id = request.id.clone();
            let mut request = tonic::Request::new(request);
            request.set_timeout(ANSWER_WITHIN);
            let answer = self.worker.client.clone().heartbeat(request).await?.into_inner();
            if let Some(id) = id.filter(|_| answer.stop) {
                self.stop(&id);
            }
        }
        Ok(())
    }
}

/// How many slots an assignment takes.
fn ranks(assignment: &v1::Assignment) -> u32 {
    match &assignment.work {
        Some(v1::assignment::Work::Train(work)) => work.ranks,
        _ => 1,
    }
}

fn beat(worker: &str, running: &Running) -> v1::HeartbeatRequest {
    let at = running.progress.lock().expect("no holder panics").clone();
    v1::HeartbeatRequest {
        worker: worker.to_owned(),
        id: Some(running.id.clone()),
        estimated_remaining_seconds: at.remaining_seconds(),
        stage: at.stage,
        step: at.step,
        total_steps: at.total,
        loss: at.loss,
        progressed: at.progressed,
    }
}
