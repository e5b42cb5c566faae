//! `bench`: the learning core alone on a stream file, without daemon or store.
//!
//! Each update is what a worker would run: canonical shards, a manifest, `trainer::rank`, then
//! `evaluator::score` on every task. The figures are therefore the daemon's for the same seed.

mod evaluation;
pub mod flags;
mod outcome;
mod rows;
mod seed;
pub mod settings;
pub mod shelf;
mod stability;
pub mod stream;
pub mod watch;

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use domain::pipeline::Spec;

use flags::{Output, Usage};
use outcome::Outcome;
use seed::{Gang, Setup};
use settings::Settings;
use watch::Watch;

use crate::report::{self, Arm};

const EXAMPLES: &str = "\
Examples:
  # Fine-tuning forgets: one pass over five pairs of classes
  perennial bench streams/fashion_mnist_class_5x2.json --model mlp:100,100 --method ft --batch 10 --lr 0.03

  # The same with 500 remembered rows, ten of them beside each batch
  perennial bench streams/fashion_mnist_class_5x2.json --model mlp:100,100 --method er \\
    --batch 10 --lr 0.03 --buffer-size 500 --replay-batch 10

  # A pretrained model with LoRA, 2000 training rows a task, one seed, as JSON
  perennial pretrain --glyphs plain --out vit
  perennial bench streams/fashion_mnist_rotated_5.json --model vit --adapter lora:8,alpha=16 --method er \\
    --optimizer adamw --lr 0.002 --limit-per-task 2000 --seed 0 -o json

ece, nfr and pfr are after, and of, the last update, over all test rows; -o json has them after each update, where rows of
tasks that have not trained yet count, too (with --no-future, ece is of the tasks trained so far, and nfr and pfr of those
before the last, which the parent was measured on). min-acc and wc-acc come with --eval-every; within an
update icarl is measured by its head, since its class means come at the end.

seconds.train runs from before an update's first step to after its last, without the evaluations in between;
seconds.rehearsal, a part of it, is the buffer's draws and offers. peak_memory_bytes is the largest resident set of a
rank: host memory, on a GPU too.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A stream: a JSON file that says which rows make each task
    stream: PathBuf,
    /// The folder that the stream's paths start from. Default: the parent of the stream's folder
    #[arg(long, value_name = "ROOT")]
    data: Option<PathBuf>,
    /// Evaluate only tasks trained so far. Forward transfer is then unknown
    #[arg(long)]
    no_future: bool,
    /// One update on the rows of all tasks together: what training offline reaches
    #[arg(long)]
    at_once: bool,
    /// Measure all tasks so far every N steps within updates, too: how low accuracy falls while an update trains. Changes
    /// no weight
    #[arg(long, value_name = "N")]
    eval_every: Option<NonZeroU64>,
    /// Train on the first N rows of each task; all test rows are used
    #[arg(long, value_name = "N")]
    limit_per_task: Option<usize>,
    /// Run seeds 0 to N-1
    #[arg(long, value_name = "N", default_value_t = 3, conflicts_with = "seed", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Run this seed alone
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    settings: Settings,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Write an HTML report with pictures into this folder
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
}

pub fn main(args: &Args) -> ExitCode {
    flags::exit(run(args))
}

fn run(args: &Args) -> anyhow::Result<()> {
    let (model, base_model) = flags::model(&args.settings.model)?;
    let source = stream::open(&args.stream, args.data.as_deref())?;
    let first = args.seed.unwrap_or(0);
    let spec = args.settings.spec(model, source.labels(), first).map_err(Usage::from)?;
    stream::check(&source, &spec, base_model.as_deref())?;
    let scratch = tempfile::tempdir().context("cannot create a temporary folder")?;
    let watch = Watch::new();
    let tasks = stream::load(&source, args.limit_per_task, scratch.path(), &watch)?;
    let setup = Setup {
        base_model: base_model.as_deref(),
        tasks: &tasks,
        future: !args.no_future,
        at_once: args.at_once,
        eval_every: args.eval_every,
        device: flags::device(),
        folder: scratch.path(),
        gang: Gang::for_ranks(spec.resources.ranks.get())?,
        watch: &watch,
    };
    let seeds = first..first + if args.seed.is_some() { 1 } else { args.seeds };
    let runs = seeds
        .map(|seed| seed::run(&setup, Spec { seed, ..spec.clone() }.try_into()?))
        .collect::<anyhow::Result<_>>()?;
    watch.end();
    let outcome = Outcome::new(source.name(), &spec, args, runs);
    if let Some(folder) = &args.report {
        write_report(folder, &outcome, &tasks, &watch)?;
    }
    flags::print(args.output, &outcome, |outcome| outcome.text(&tasks.names()))
}

fn write_report(folder: &Path, outcome: &Outcome, tasks: &stream::Tasks, watch: &Watch) -> anyhow::Result<()> {
    let arm = |run: &outcome::Run| Arm {
        name: format!("seed {}", run.seed),
        tasks: tasks.names(),
        matrix: run.accuracy_matrix.clone(),
        answers: run.evaluations.iter().map(|evaluation| evaluation.answers).collect(),
        within: run.stability.as_ref().map(|stability| stability.trace.clone()),
    };
    let arms: Vec<Arm> = outcome.runs.iter().map(arm).collect();
    let page = report::write(folder, &outcome.title(), &arms)?;
    watch.say(&format!("report: {}", page.display()));
    Ok(())
}
