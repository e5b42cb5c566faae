//! Commands that need the learning core: they run in `perennial-worker`, which replaces this process.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::failure::Failure;
use super::output::Output;
use crate::spawn;

const NOUNS: [&str; 4] = ["bench", "demo", "pretrain", "sample"];

#[derive(clap::Args)]
pub struct Args {
    /// Passed on as they are; see `--help` after the command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

impl Args {
    /// Reached only where global flags came first; of those, the worker knows `-o`.
    pub fn exec(self, noun: &str, output: Option<Output>) -> Failure {
        let mut args = self.args;
        if let Some(output) = output {
            args.extend(["-o".into(), output.name().into()]);
        }
        exec(OsStr::new(noun), &args)
    }
}

/// The command and what follows it, untouched, so that the worker's own flags and `--help` reach it.
pub fn wanted(args: &[OsString]) -> Option<(&OsStr, &[OsString])> {
    let (noun, rest) = args.get(1..)?.split_first()?;
    NOUNS.iter().any(|known| noun == known).then_some((noun, rest))
}

/// Returns only if it could not be started.
pub fn exec(noun: &OsStr, args: &[OsString]) -> Failure {
    let worker = match spawn::find_worker() {
        Ok(worker) => worker,
        Err(missing) => return Failure::Failed(missing.to_string()),
    };
    let error = Command::new(&worker).arg(noun).args(args).exec();
    Failure::file("start", &worker)(error)
}
