//! `perennial config`: the daemon's configuration, without starting it.

use std::path::PathBuf;

use serde::Serialize;

use super::client::Context;
use super::failure::Failure;
use super::output::Render;
use crate::config::{Config, EXAMPLE};

#[derive(clap::Subcommand)]
pub enum Verb {
    /// Read a configuration as perenniald would, and print what it means
    #[command(after_help = "Example:\n  perennial config check configs/perennial.yaml")]
    Check {
        /// Without it: the defaults and PERENNIAL__* alone
        file: Option<PathBuf>,
    },
    /// Print every key with its default and what it is for
    #[command(after_help = "Example:\n  perennial config print-defaults > perennial.yaml")]
    PrintDefaults,
}

impl Verb {
    pub fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Check { file } => check(ctx, file),
            Self::PrintDefaults => ctx.show(&Defaults(Config::default())),
        }
    }
}

fn check(ctx: &Context, file: Option<PathBuf>) -> Result<(), Failure> {
    let here = std::env::current_dir().map_err(Failure::file("find", std::path::Path::new(".")))?;
    let env =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let config = Config::load(file.as_deref(), env, &[], &here)?;
    ctx.show(&Checked(config))
}

#[derive(Serialize)]
struct Checked(Config);

impl Render for Checked {
    fn text(&self) -> String {
        let timeouts = self.0.recovery_budget.timeouts();
        let [heartbeat, lease, collective, stall] =
            [timeouts.heartbeat, timeouts.lease, timeouts.collective, timeouts.stall].map(humantime::format_duration);
        let yaml = serde_yaml_ng::to_string(&self.0).unwrap_or_default();
        format!("# valid; heartbeat {heartbeat}, lease {lease}, collective {collective}, stall {stall}\n{yaml}")
    }
}

#[derive(Serialize)]
struct Defaults(Config);

impl Render for Defaults {
    fn text(&self) -> String {
        EXAMPLE.to_owned()
    }
}
