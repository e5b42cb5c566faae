//! A matching coreset of ours against a pursuit in numpy on the same gradients, in two processes that take turns.
//!
//! ```text
//! make bench
//! PERENNIAL_DATA=… cargo bench -p perennial-tests --bench coreset -- --rows 20000 --atoms 1000 --pairs 3
//! ```
//!
//! One line of JSON. `ratio` is the lowest, the median and the highest over pairs of numpy's seconds divided by ours, for
//! the pursuit alone. `choice_s` is what an update spends after its last step, gradients at the initial weights included, and
//! `epoch_s` what it spends before, on one epoch of the same rows.

// A benchmark is made to read the clock.
#![allow(clippy::disallowed_methods)]

mod ours;
#[path = "../shared/mod.rs"]
mod shared;

use std::path::PathBuf;

use clap::Parser;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::{Process, median, rounded, spread};

#[derive(Parser)]
struct Args {
    /// Candidates: the first training rows of Fashion-MNIST
    #[arg(long, default_value_t = 20_000)]
    rows: usize,
    /// Rows to choose
    #[arg(long, default_value_t = 1_000)]
    atoms: usize,
    /// Turns of each
    #[arg(long, default_value_t = 3)]
    pairs: usize,
    /// Of libtorch and of numpy's BLAS
    #[arg(long, default_value_t = 2)]
    threads: i32,
    /// Be the process that does our part
    #[arg(long, hide = true, value_name = "FOLDER")]
    serve: Option<PathBuf>,
    /// Cargo gives it to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// Of the pursuit.
#[derive(Serialize, Deserialize)]
struct Turn {
    seconds: f64,
    support: Vec<usize>,
}

/// What an update takes besides, and what it keeps.
#[derive(Serialize, Deserialize)]
struct Update {
    epoch: f64,
    choice: f64,
    kept: Vec<usize>,
    peak_mib: u64,
}

fn main() {
    let args = Args::parse();
    let (Some(reference), Some(rows)) = (shared::staged(), shared::fashion::rows(args.rows)) else {
        println!("SKIPPED: needs `make reference`, and PERENNIAL_DATA with fashion_mnist in it");
        return;
    };
    if let Some(folder) = &args.serve {
        ours::serve(&rows, &args, folder);
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = shared::ours();
    command.args(["--rows", &args.rows.to_string(), "--atoms", &args.atoms.to_string()]);
    command.args(["--threads", &args.threads.to_string(), "--serve"]).arg(folder.path());
    let mut ours = Process::start(command);
    let mut command = shared::python(&reference, "coreset/numpy_omp.py", args.threads);
    command.arg(folder.path());
    let mut theirs = Process::start(command);
    let pairs: Vec<(Update, Turn, Turn)> =
        (0..args.pairs).map(|_| (ours.ask("update"), ours.ask("choose"), theirs.ask(args.atoms))).collect();
    println!("{}", figures(&pairs, &args));
}

fn figures(pairs: &[(Update, Turn, Turn)], args: &Args) -> serde_json::Value {
    let of = |figure: fn(&(Update, Turn, Turn)) -> f64| pairs.iter().map(figure).collect::<Vec<f64>>();
    let same = |(_, ours, theirs): &(Update, Turn, Turn)| ours.support == theirs.support;
    let common = |(_, ours, theirs): &(Update, Turn, Turn)| {
        theirs.support.iter().filter(|row| ours.support.contains(row)).count()
    };
    json!({
        "rows": args.rows, "atoms": args.atoms, "threads": args.threads, "pairs": pairs.len(),
        "ours_s": rounded(median(of(|pair| pair.1.seconds))), "numpy_s": rounded(median(of(|pair| pair.2.seconds))),
        "ratio": spread(of(|pair| pair.2.seconds / pair.1.seconds)),
        "same_support": pairs.iter().all(same), "in_common": pairs.iter().map(common).min(),
        "update_keeps_it": pairs.iter().all(|(update, ours, _)| update.kept == ours.support),
        "epoch_s": rounded(median(of(|pair| pair.0.epoch))), "choice_s": rounded(median(of(|pair| pair.0.choice))),
        "choice_per_epoch": spread(of(|pair| pair.0.choice / pair.0.epoch)),
        "peak_mib": pairs.iter().map(|pair| pair.0.peak_mib).max(),
    })
}
