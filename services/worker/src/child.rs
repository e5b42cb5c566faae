//! The processes a worker starts: one rank of an attempt, or one evaluation.
//!
//! They speak JSON lines on standard output and die with their parent, whose end of their standard
//! input then closes.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use collective::{Collective, Gloo, Nccl, Rendezvous, Solo};
use serde::Serialize;
use serde::de::DeserializeOwned;
use trainer::gang::{Failure, Line};
use trainer::job::{Phase, TrainJob};
use trainer::rank;

#[derive(clap::Args)]
pub struct RankArgs {
    #[arg(long)]
    job: PathBuf,
    #[arg(long)]
    rank: usize,
    #[arg(long)]
    world: usize,
    /// The worker's slot: on GPUs, the device's number
    #[arg(long)]
    slot: u32,
    /// `HOST:PORT` of the rendezvous store; needed beyond one rank
    #[arg(long, default_value = "127.0.0.1:0")]
    store: String,
    #[arg(long, default_value = "")]
    prefix: String,
    /// This machine's address, as the other ranks reach it
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Of one collective operation
    #[arg(long, default_value_t = 30_000)]
    timeout_ms: u64,
    /// Longest wait for the other ranks to come
    #[arg(long, default_value_t = 600_000)]
    patience_ms: u64,
}

/// Progress lines are at least this far apart.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Lets something happen at most once a period.
struct Every {
    period: Duration,
    last: Option<Instant>,
}

impl Every {
    fn new(period: Duration) -> Self {
        Self { period, last: None }
    }

    fn is_due(&mut self) -> bool {
        let now = now();
        let due = self.last.is_none_or(|last| now - last >= self.period);
        if due {
            self.last = Some(now);
        }
        due
    }
}

pub fn rank(args: &RankArgs) -> ExitCode {
    die_with_parent();
    match train(args) {
        Ok(trained) => say(&Line::Trained(Box::new(trained))),
        Err(failure) => say(&Line::Failed(failure)),
    }
}

fn train(args: &RankArgs) -> Result<trainer::job::Trained, Failure> {
    let text = std::fs::read(&args.job).map_err(|e| format!("cannot read {}: {e}", args.job.display()))?;
    let mut job: TrainJob = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    if job.device == "cuda" {
        job.device = format!("cuda:{}", args.slot);
    }
    let group = join(args, &job.device)?;
    let (clock, mut every, mut phase) = (started(), Every::new(PROGRESS_EVERY), Phase::Load);
    let mut progress = |at: trainer::job::Progress| {
        if every.is_due() | (phase != at.phase) {
            phase = at.phase;
            say(&Line::Progress(at));
        }
    };
    let trained = rank::train(&job, &*group, &clock, &mut progress);
    trained.map_err(|error| Failure { reason: chain(&error), permanent: error.is_permanent() })
}

fn join(args: &RankArgs, device: &str) -> Result<Box<dyn Collective>, String> {
    if args.world == 1 {
        return Ok(Box::new(Solo));
    }
    let (host, port) = args.store.rsplit_once(':').ok_or("--store is not HOST:PORT")?;
    let port = port.parse().map_err(|_| "--store is not HOST:PORT")?;
    let patience = Duration::from_millis(args.patience_ms);
    let meeting = Rendezvous { host: host.to_owned(), port, prefix: args.prefix.clone(), patience };
    let timeout = Duration::from_millis(args.timeout_ms);
    let joined: Result<Box<dyn Collective>, _> = match device.strip_prefix("cuda:") {
        Some(number) => {
            let number = number.parse().map_err(|_| format!("`{device}` is not a device"))?;
            Nccl::join(&meeting, args.rank, args.world, number, timeout).map(|group| Box::new(group) as _)
        }
        None => Gloo::join(&meeting, args.rank, args.world, &args.host, timeout).map(|group| Box::new(group) as _),
    };
    joined.map_err(|error| chain(&error))
}

pub fn score(job: &Path) -> ExitCode {
    evaluation(job, |job, done| evaluator::score::evaluate(job, done).map(evaluator::attempt::Line::Scores))
}

pub fn measure(job: &Path) -> ExitCode {
    evaluation(job, |job, done| evaluator::measure::measure(job, done).map(evaluator::attempt::Line::Shifts))
}

/// Does what the job in this file asks for, and says what came of it.
fn evaluation<J: DeserializeOwned>(
    job: &Path,
    work: impl FnOnce(&J, &mut dyn FnMut(u64)) -> Result<evaluator::attempt::Line, evaluator::score::Error>,
) -> ExitCode {
    use evaluator::attempt::Line;
    use evaluator::score::Fault;
    die_with_parent();
    let text = std::fs::read(job).map_err(|e| format!("cannot read {}: {e}", job.display()));
    let job = match text.and_then(|text| serde_json::from_slice(&text).map_err(|e| e.to_string())) {
        Ok(job) => job,
        Err(reason) => return say(&Line::Failed { reason, fault: Fault::Passing }),
    };
    let mut every = Every::new(PROGRESS_EVERY);
    let mut done = |rows| {
        if every.is_due() {
            say(&Line::Progress(rows));
        }
    };
    match work(&job, &mut done) {
        Ok(line) => say(&line),
        Err(error) => say(&Line::Failed { reason: chain(&error), fault: error.fault() }),
    }
}

/// An error and its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    perennial_proto::status::chain(error)
}

fn say(line: &impl Serialize) -> ExitCode {
    let mut text = serde_json::to_string(line).expect("lines are plain JSON");
    text.push('\n');
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Ends the process when the pipe to the parent closes: a rank stuck in a collective cannot end itself.
fn die_with_parent() {
    std::thread::spawn(|| {
        let mut byte = [0];
        while matches!(std::io::stdin().read(&mut byte), Ok(read) if read > 0) {}
        std::process::abort();
    });
}

#[expect(clippy::disallowed_methods, reason = "the rank's shell is where its time is read")]
fn now() -> Instant {
    Instant::now()
}

fn started() -> impl Fn() -> f64 {
    let start = now();
    move || (now() - start).as_secs_f64()
}
