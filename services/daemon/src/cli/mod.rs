//! The command line: parse, one call, print. Results go to stdout, everything else to stderr.

mod buffer;
mod cache;
mod chunk;
mod client;
mod completion;
mod config;
mod erase;
mod eval;
mod failure;
mod folder;
mod hand_over;
mod header;
mod import;
mod labels;
mod model;
mod output;
mod pipeline;
mod predict;
mod producer;
mod progress;
mod pull;
mod push;
mod quarantine;
mod reference;
mod run;
mod shift;
mod upload;
mod version;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use client::Context;
use failure::Failure;

const TOUR: &str = "\
A first update, with perenniald running:
  perennial pipeline apply -f configs/pipelines/mlp.yaml
  perennial chunk push clothes rows.parquet --task tops --wait
  perennial run start clothes --watch
  perennial version ls clothes

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused by the gate, 4 server not available";

/// Keeps models up to date as data arrives, without forgetting what they knew.
#[derive(Parser)]
#[command(name = "perennial", version, after_help = TOUR, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    globals: client::Globals,
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Subcommand)]
enum Noun {
    /// What is trained, on what, how, and when a result may be published
    #[command(subcommand)]
    Pipeline(pipeline::Verb),
    /// Data, as it arrives
    #[command(subcommand)]
    Chunk(chunk::Verb),
    /// Updates of a pipeline
    #[command(subcommand)]
    Run(run::Verb),
    /// What was published, and which of it is the champion
    #[command(subcommand)]
    Version(version::Verb),
    /// What is remembered for rehearsal
    #[command(subcommand)]
    Buffer(buffer::Verb),
    /// What evaluations found
    #[command(subcommand)]
    Eval(eval::Verb),
    /// Whether a chunk's rows look like, and are labelled like, those before
    Shift(shift::Args),
    /// Base models
    #[command(subcommand)]
    Model(model::Verb),
    /// Label rows by a published version, on this machine
    Predict(predict::Args),
    /// Print the JSON schema of pipeline files
    #[command(after_help = "Example:\n  perennial schema > pipeline.schema.json")]
    Schema,
    /// The daemon's configuration
    #[command(subcommand)]
    Config(config::Verb),
    /// Print a shell's completion script
    #[command(after_help = "Example:\n  perennial completion bash > /etc/bash_completion.d/perennial")]
    Completion { shell: clap_complete::Shell },
    /// Train and measure on a stream file, without a server (in perennial-worker)
    #[command(disable_help_flag = true)]
    Bench(hand_over::Args),
    /// See the whole flow in minutes, without a server (in perennial-worker)
    #[command(disable_help_flag = true)]
    Demo(hand_over::Args),
    /// Train a small base model (in perennial-worker)
    #[command(disable_help_flag = true)]
    Pretrain(hand_over::Args),
    /// Write drawn glyphs to a file, to have rows to push (in perennial-worker)
    #[command(disable_help_flag = true)]
    Sample(hand_over::Args),
}

pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let outcome = match hand_over::wanted(&args) {
        Some((noun, rest)) => block_on(async { Err(hand_over::exec(noun, rest.to_vec()).await) }),
        None => block_on(dispatch(Cli::parse_from(args))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit_code()
        }
    }
}

fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = command => outcome,
            // Dropping the call removes what it had half written.
            _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
        }
    });
    runtime.shutdown_background();
    outcome
}

async fn dispatch(cli: Cli) -> Result<(), Failure> {
    let output = cli.globals.output;
    let ctx = Context::new(cli.globals);
    match cli.noun {
        Noun::Pipeline(verb) => verb.run(&ctx).await,
        Noun::Chunk(verb) => verb.run(&ctx).await,
        Noun::Run(verb) => verb.run(&ctx).await,
        Noun::Version(verb) => verb.run(&ctx).await,
        Noun::Buffer(verb) => verb.run(&ctx).await,
        Noun::Eval(verb) => verb.run(&ctx).await,
        Noun::Shift(args) => args.run(&ctx).await,
        Noun::Model(verb) => verb.run(&ctx).await,
        Noun::Predict(args) => args.run(&ctx, output).await,
        Noun::Schema => pipeline::schema(),
        Noun::Config(verb) => verb.run(&ctx),
        Noun::Completion { shell } => completion::print(shell),
        Noun::Bench(args) => Err(args.exec("bench", output).await),
        Noun::Demo(args) => Err(args.exec("demo", output).await),
        Noun::Pretrain(args) => Err(args.exec("pretrain", output).await),
        Noun::Sample(args) => Err(args.exec("sample", None).await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_says_what_it_does_and_shows_how() {
        for noun in Cli::command().get_subcommands() {
            assert!(noun.get_about().is_some(), "{}", noun.get_name());
            for verb in noun.get_subcommands() {
                let name = format!("{} {}", noun.get_name(), verb.get_name());
                assert!(verb.get_about().is_some(), "{name}");
                let example = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(example.contains(&format!("perennial {name}")), "{name}: {example}");
            }
        }
    }
}
