//! `demo`: the whole flow on one machine, with a daemon of its own.
//!
//! What is told is in `story` (drawn glyphs) and `stream` (`--data`); everything goes over gRPC, as for any client.

mod arm;
mod client;
mod daemon;
mod outcome;
mod place;
mod progress;
mod story;
mod stream;

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use domain::pipeline::{Input, Normalize, OptimizerKind, Schedule, Training};
use tokio::signal::unix::{SignalKind, signal};

use crate::bench::flags::{self, Output};
use crate::bench::watch::Watch;
use crate::pretrain::{self, Recipe};
use client::Client;
use daemon::Daemon;
use outcome::Outcome;
use place::Place;
use progress::Progress;

const EXAMPLES: &str = "\
Examples:
  # Drawn glyphs: nothing to download, about two minutes
  perennial demo

  # A real stream through the daemon; `perennial bench` gives the same numbers for the same flags
  perennial demo --data streams/fashion_mnist_class_5x2.json --model mlp:100,100 --method er \\
    --batch 10 --lr 0.03 --replay-batch 10";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Keep store, log and report in this folder. Default: a temporary one, removed at the end
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where the HTML report goes. Default: report.html in --dir, else a new file in the system's temporary folder
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    stream: stream::Args,
}

/// What a signal asks for, as the exit status that says so.
const INTERRUPTED: u8 = 130;

pub fn main(args: &Args) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return flags::exit(Err(error.into())),
    };
    let code = runtime.block_on(async {
        tokio::select! {
            done = run(args) => flags::exit(done),
            // Dropping `run` ends the daemon and removes its folder.
            () = interrupted() => {
                eprintln!("interrupted");
                ExitCode::from(INTERRUPTED)
            }
        }
    });
    // Training in this process cannot be interrupted; do not wait for it.
    runtime.shutdown_background();
    code
}

async fn interrupted() {
    let [mut interrupt, mut terminate, mut hang_up] =
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .map(|kind| signal(kind).expect("signals can be watched"));
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
}

async fn run(args: &Args) -> anyhow::Result<()> {
    let plan = args.stream.plan()?;
    let mut place = Place::new(args.dir.as_deref(), args.report.as_deref())?;
    let progress = Progress::new();
    let told = tell(plan.as_ref(), &place, &progress).await;
    let outcome = match told {
        Ok(outcome) => outcome,
        Err(error) => return Err(error.context(place.keep())),
    };
    let report = outcome.page().write(&place.report)?;
    let text = match args.output {
        Output::Table => outcome.text(&report),
        Output::Json => outcome.json(&report),
    };
    place.tidy().await;
    print(&text)
}

/// A reader that has seen enough (`| head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    match writeln!(std::io::stdout(), "{}", text.trim_start_matches('\n')) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("cannot print the result"),
        _ => Ok(()),
    }
}

async fn tell(plan: Option<&stream::Plan>, place: &Place, progress: &Progress) -> anyhow::Result<Outcome> {
    let slots = plan.map_or(story::SLOTS, stream::Plan::slots);
    // Started first: while it gets ready, the base model is trained.
    let mut daemon = Daemon::start(&place.folder, slots)?;
    let base = match plan {
        Some(_) => None,
        None => Some(base_model(&place.folder, progress).await?),
    };
    let client = Client(daemon.ready().await?);
    progress.say(format!("perenniald serves at {}, its log is {}", daemon.url, daemon.log.display()));
    let told = async {
        match (plan, &base) {
            (Some(plan), _) => of_stream(plan, &client, progress).await,
            (None, Some(base)) => of_glyphs(base, &client, progress).await,
            (None, None) => unreachable!("without a stream there is a base model"),
        }
    };
    let told = tokio::select! {
        told = told => told,
        ended = daemon.ended() => Err(ended),
    };
    daemon.stop().await;
    told
}

async fn of_stream(plan: &stream::Plan, client: &Client, progress: &Progress) -> anyhow::Result<Outcome> {
    let arms = plan.learn(client, progress).await?;
    let story = "Each task arrived as one chunk, over gRPC; after each update every task was measured on its test rows. \
                 The gate reported and refused nothing.";
    Ok(Outcome { title: plan.title(), story: vec![story.to_owned()], arms, pictures: Vec::new(), moved: None })
}

async fn of_glyphs(base: &pretrain::Pretrained, client: &Client, progress: &Progress) -> anyhow::Result<Outcome> {
    let model = client.push_model(&base.folder).await?;
    let told = story::tell(client, progress, &model).await?;
    Ok(Outcome {
        title: "Perennial: five new domains, one after the other".to_owned(),
        story: story::summary(base.accuracy),
        arms: told.arms,
        pictures: told.pictures,
        moved: Some(told.moved),
    })
}

/// A small ViT that knows the plain glyphs.
async fn base_model(folder: &Path, progress: &Progress) -> anyhow::Result<pretrain::Pretrained> {
    const ROWS: usize = 3000;
    let recipe = Recipe {
        model: "vit:d=64,layers=4,heads=4,patch=4,mlp=128".to_owned(),
        input: Input { normalize: Some(Normalize::Dataset), ..Input::default() },
        training: Training {
            epochs: NonZeroU32::new(4).expect("not zero"),
            optimizer: OptimizerKind::Adamw,
            schedule: Schedule::Cosine,
            ..pretrain::training_defaults()
        },
        threads: NonZeroU32::new(2).expect("not zero"),
        seed: story::SEED,
    };
    progress.say("drawing glyphs and pretraining a small ViT on the plain ones");
    let out = folder.join("base-model");
    let training = tokio::task::spawn_blocking(move || {
        let watch = Watch::new();
        let lesson = pretrain::of_glyphs(&[0], ROWS, story::SEED);
        let done = pretrain::pretrain(&lesson, &recipe, &out, &watch);
        watch.end();
        done
    });
    let base = training.await?.context("cannot pretrain the base model")?;
    progress.say(format!("pretrained: {} of plain glyphs right", crate::report::percent(Some(base.accuracy))));
    Ok(base)
}
