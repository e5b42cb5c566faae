//! `demo`: the whole flow on one machine, with a daemon of its own.
//!
//! What is told is in `story` (drawn glyphs) and `stream` (`--data`); everything goes over gRPC, as for any client.

mod arm;
mod base;
mod client;
mod daemon;
mod outcome;
mod place;
mod progress;
mod story;
mod stream;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::bench::flags::{self, Output};
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
    stream: stream::Flags,
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
    // A stream's file may still be read; do not wait for it.
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
    let (plan, program) = (args.stream.plan()?, daemon::program()?);
    let mut place = Place::new(args.dir.as_deref(), args.report.as_deref())?;
    let progress = Progress::new();
    let told = tell(&program, plan.as_ref(), &place.folder, &progress).await;
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

async fn tell(
    program: &Path,
    plan: Option<&stream::Plan>,
    folder: &Path,
    progress: &Progress,
) -> anyhow::Result<Outcome> {
    let slots = plan.map_or(story::SLOTS, stream::Plan::slots);
    let mut daemon = Daemon::start(program, folder, slots)?;
    let client = Client(daemon.ready().await?);
    progress.say(format!("perenniald serves at {}, its log is {}", daemon.url, daemon.log.display()));
    let told = async {
        match plan {
            Some(plan) => of_stream(plan, &client, progress).await,
            None => of_glyphs(folder, &client, progress).await,
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

async fn of_glyphs(folder: &Path, client: &Client, progress: &Progress) -> anyhow::Result<Outcome> {
    let base = base::train(folder, progress).await?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn flags_do_not_collide_and_none_is_needed() {
        Cli::command().debug_assert();
        let Cli { args } = Cli::try_parse_from(["demo", "-o", "json", "--dir", "x"]).unwrap();
        assert_eq!((args.output, args.dir.as_deref()), (Output::Json, Some(Path::new("x"))));
    }
}
