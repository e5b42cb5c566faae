//! Commands that need the learning core: they run in `perennial-worker`, which replaces this process.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::process::Command;

use hub::Source;

use super::failure::Failure;
use super::model::hub_model;
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
    pub async fn exec(self, noun: &str, output: Option<Output>) -> Failure {
        let mut args = self.args;
        if let Some(output) = output {
            args.extend(["-o".into(), output.name().into()]);
        }
        exec(OsStr::new(noun), args).await
    }
}

/// The command and what follows it, untouched, so that the worker's own flags and `--help` reach it.
pub fn wanted(args: &[OsString]) -> Option<(&OsStr, &[OsString])> {
    let (noun, rest) = args.get(1..)?.split_first()?;
    NOUNS.iter().any(|known| noun == known).then_some((noun, rest))
}

/// Returns only if it could not be started.
pub async fn exec(noun: &OsStr, mut args: Vec<OsString>) -> Failure {
    if let Err(failure) = bring_models(&mut args).await {
        return failure;
    }
    let worker = match spawn::find_worker() {
        Ok(worker) => worker,
        Err(missing) => return Failure::Failed(missing.to_string()),
    };
    let error = Command::new(&worker).arg(noun).args(args).exec();
    Failure::file("start", &worker)(error)
}

/// The worker knows folders. A model of the Hub is brought to one first.
async fn bring_models(args: &mut [OsString]) -> Result<(), Failure> {
    for at in 0..args.len() {
        let Some(given) = args[at].to_str() else { continue };
        if let Some(model) = given.strip_prefix("--model=").filter(|model| Source::is_meant(model)) {
            let mut whole = OsString::from("--model=");
            whole.push(hub_model(model).await?);
            args[at] = whole;
        } else if Source::is_meant(given) && at > 0 && args[at - 1] == "--model" {
            args[at] = hub_model(given).await?.into();
        }
    }
    Ok(())
}
