//! The daemon: takes data in, decides what runs, publishes versions.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use perennial::config::{Config, Flag};
use perennial::role::{self, Role};
use perennial::{shutdown, telemetry};

/// Takes chunks in, decides what runs, and publishes the versions that pass their gate.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  perenniald                                     one node, everything on, data in ./perennial-data\n  \
                  perenniald --config configs/perennial.yaml\n  perenniald --role ingest --control http://control:7420 --store s3://bucket/prefix\n\n\
                  Every key of the configuration can be set by PERENNIAL__SECTION__KEY.\n\
                  Keys and defaults: perennial config print-defaults"
)]
struct Args {
    /// What this process does; `all` also starts a worker
    #[arg(long, default_value = "all")]
    role: Role,
    /// YAML file
    #[arg(long, value_name = "FILE", env = "PERENNIAL_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    /// Address to serve gRPC at
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Object store: a path or URL
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Where an ingest role finds the control role; --role ingest needs it
    #[arg(long, value_name = "URL")]
    control: Option<String>,
    /// With --role control: wait until no other process has that role, then take over
    #[arg(long)]
    standby: bool,
    /// Any other key, such as worker.slots=2
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
    /// Stop when standard input closes
    #[arg(long)]
    die_with_parent: bool,
}

fn pair(given: &str) -> Result<(String, String), String> {
    let (key, value) = given.split_once('=').ok_or("write KEY=VALUE, such as worker.slots=2")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Args {
    fn flags(&self) -> Vec<Flag> {
        let flag =
            |key: &str, value: &str, origin: String| Flag { key: key.to_owned(), value: value.to_owned(), origin };
        let set = self.set.iter().map(|(key, value)| flag(key, value, format!("--set {key}")));
        let named = [("listen", &self.listen), ("store", &self.store), ("control", &self.control)];
        let named = named.into_iter().filter_map(|(key, value)| Some(flag(key, value.as_deref()?, format!("--{key}"))));
        set.chain(named).collect()
    }
}

fn main() -> ExitCode {
    match start(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("perenniald: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn start(args: &Args) -> anyhow::Result<()> {
    let env =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let config = Config::load(args.config.as_deref(), env, &args.flags(), &std::env::current_dir()?)?;
    telemetry::init(config.log.format, &config.log.level)?;
    let shutdown = shutdown::on_signal(shutdown::GRACE, args.die_with_parent)?;
    role::run(config, args.role, args.standby, shutdown).await
}
