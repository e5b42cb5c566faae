//! An epoch of online experience replay of ours against a plain PyTorch loop, and against mammoth's `er` as shipped: the same
//! rows, decoded beforehand, batch, replay batch, buffer, optimiser and threads, in processes that take turns.
//!
//! ```text
//! make bench
//! PERENNIAL_DATA=… MAMMOTH=checkout cargo bench -p perennial-tests --bench online_er -- --rows 60000 --pairs 5
//! ```
//!
//! `MAMMOTH` is a checkout of aimagelab/mammoth, whose requirements beside torch are found by `PYTHONPATH`. One line of JSON
//! a comparison; `ratio` is the lowest, the median and the highest over pairs of their seconds divided by ours.

mod ours;
#[path = "../shared/mod.rs"]
mod shared;

use std::path::PathBuf;
use std::process::Command;

use clap::Parser;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::{Process, median, rounded, spread};

#[derive(Parser)]
struct Args {
    /// The first training rows of Fashion-MNIST
    #[arg(long, default_value_t = 60_000)]
    rows: usize,
    /// Turns of each
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Of libtorch, in every process
    #[arg(long, default_value_t = 1)]
    threads: i32,
    /// Be the process that does our part
    #[arg(long, hide = true, value_name = "FOLDER")]
    serve: Option<PathBuf>,
    /// Cargo gives it to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Serialize, Deserialize)]
struct Epoch {
    seconds: f64,
    /// On the first 10,000 rows, afterwards.
    accuracy: f64,
}

fn main() {
    let args = Args::parse();
    let (Some(reference), Some(rows)) = (shared::staged(), shared::fashion::rows(args.rows)) else {
        println!("SKIPPED: needs `make reference`, and PERENNIAL_DATA with fashion_mnist in it");
        return;
    };
    if let Some(folder) = &args.serve {
        ours::serve(&rows, args.threads, folder);
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = shared::ours();
    command
        .args(["--rows", &args.rows.to_string(), "--threads", &args.threads.to_string(), "--serve"])
        .arg(folder.path());
    let mut ours = Process::start(command);
    let script = |name: &str| {
        let mut command = shared::python(&reference, name, args.threads);
        command.arg(folder.path()).arg(args.threads.to_string());
        command
    };
    println!("{}", compare("pytorch", &mut ours, script("online_er/torch_er.py"), args.pairs));
    match std::env::var_os("MAMMOTH") {
        None => println!("SKIPPED: no mammoth to compare with; MAMMOTH names a checkout of it"),
        Some(checkout) => {
            let mut command = script("online_er/mammoth_er.py");
            command.arg(checkout);
            println!("{}", compare("mammoth", &mut ours, command, args.pairs));
        }
    }
}

fn compare(against: &str, ours: &mut Process, theirs: Command, pairs: usize) -> serde_json::Value {
    let mut theirs = Process::start(theirs);
    let mut turn = || (theirs.ask("epoch"), ours.ask("epoch"));
    let _: (Epoch, Epoch) = turn();
    let pairs: Vec<(Epoch, Epoch)> = (0..pairs).map(|_| turn()).collect();
    let of = |figure: fn(&(Epoch, Epoch)) -> f64| pairs.iter().map(figure).collect::<Vec<f64>>();
    json!({
        "against": against, "pairs": pairs.len(),
        "ours_s": rounded(median(of(|pair| pair.1.seconds))), "theirs_s": rounded(median(of(|pair| pair.0.seconds))),
        "ratio": spread(of(|pair| pair.0.seconds / pair.1.seconds)),
        "our_accuracy": rounded(median(of(|pair| pair.1.accuracy))),
        "their_accuracy": rounded(median(of(|pair| pair.0.accuracy))),
    })
}
