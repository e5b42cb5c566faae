//! `perennial-worker`: the one binary that links libtorch.
//!
//! Without a subcommand it leases work; `rank`, `score` and `measure` are the child processes it starts; `bench`,
//! `demo`, `predict` and `pretrain` are what `perennial` hands over.

mod agent;
mod assignment;
mod bench;
mod child;
mod demo;
mod glyphs;
mod predict;
mod pretrain;
mod report;
mod sample;
mod scores;
mod scratch;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "perennial-worker", version, about = "Trains and evaluates for perenniald")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    agent: agent::Args,
}

#[derive(Subcommand)]
enum Command {
    /// One rank of an attempt; started by the worker
    #[command(hide = true)]
    Rank(child::RankArgs),
    /// One evaluation; started by the worker
    #[command(hide = true)]
    Score {
        #[arg(long)]
        job: PathBuf,
    },
    /// One comparison of a chunk with what was known; started by the worker
    #[command(hide = true)]
    Measure {
        #[arg(long)]
        job: PathBuf,
    },
    /// Run the learning core alone on a stream file: accuracy matrix, forgetting, cost
    Bench(Box<bench::Args>),
    /// See the whole flow: new domains, a gate that refuses, a rollback
    Demo(Box<demo::Args>),
    /// Label rows by a version that lies in a folder
    Predict(predict::Args),
    /// Train a small base model from scratch and save it as a Hugging Face folder
    Pretrain(Box<pretrain::Args>),
    /// Write drawn glyphs to a file, to have rows to push
    Sample(sample::Args),
}

/// libgomp reads this as it loads, before `main`. Its default lets idle threads spin: two ranks of two
/// threads on two cores were ten times slower for it.
const OMP_WAIT_POLICY: &str = "OMP_WAIT_POLICY";

/// Starts over in this process with the policy set. Returns if it is set, or if that fails.
fn wait_passively() {
    use std::os::unix::process::CommandExt;
    if std::env::var_os(OMP_WAIT_POLICY).is_some() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        let mut again = std::process::Command::new(program);
        let error = again.args(std::env::args_os().skip(1)).env(OMP_WAIT_POLICY, "passive").exec();
        eprintln!("{OMP_WAIT_POLICY} could not be set: {error}");
    }
}

fn main() -> std::process::ExitCode {
    wait_passively();
    // Before anything else asks libtorch for CUDA.
    let cuda = collective::load_cuda();
    collective::quiet_native_logs();
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Rank(args)) => child::rank(&args),
        Some(Command::Score { job }) => child::score(&job),
        Some(Command::Measure { job }) => child::measure(&job),
        Some(Command::Bench(args)) => bench::main(&args),
        Some(Command::Demo(args)) => demo::main(&args),
        Some(Command::Predict(args)) => predict::main(&args),
        Some(Command::Pretrain(args)) => pretrain::main(&args),
        Some(Command::Sample(args)) => sample::main(&args),
        None => agent::main(cli.agent, &cuda),
    }
}
