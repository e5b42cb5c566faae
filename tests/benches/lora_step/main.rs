//! A LoRA step of ours against PEFT's, and ours with a frozen prefix against ours without: the same base, adapter, head,
//! rows and optimiser, in two processes that take turns.
//!
//! ```text
//! make bench
//! cargo bench -p perennial-tests --bench lora_step -- --steps 8 --pairs 5 --only minilm-f32
//! ```
//!
//! One line of JSON a comparison. `ratio` is the median over pairs of their median step divided by ours.

// A benchmark is made to read the clock.
#![allow(clippy::disallowed_methods)]

mod case;
mod ours;
mod runner;
#[path = "../shared/mod.rs"]
mod shared;

use std::path::Path;
use std::time::Instant;

use case::{Case, Precision};
use clap::Parser;
use runner::Block;
use serde_json::{Value, json};
use shared::{median, rounded};
use tch::{Device, Kind, Tensor};

/// Of libtorch, in every process.
const THREADS: i32 = 2;

#[derive(Parser)]
struct Args {
    /// Steps a turn
    #[arg(long, default_value_t = 8)]
    steps: usize,
    /// Turns of each
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// One comparison alone
    #[arg(long)]
    only: Option<String>,
    /// Be the process that takes our steps
    #[arg(long, hide = true, num_args = 2, value_names = ["CASE", "FOLDER"])]
    serve: Option<Vec<String>>,
    /// Cargo gives it to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let args = Args::parse();
    tch::set_num_threads(THREADS);
    let Some(reference) = shared::staged() else {
        println!("SKIPPED: no PEFT to compare with; `make reference` stages it");
        return;
    };
    let cases = case::all(Path::new(reference["minilm"].as_str().expect("a folder")));
    if let Some(serve) = &args.serve {
        let case = cases.iter().find(|case| case.name == serve[0]).expect("a case of this name");
        ours::serve(case, Path::new(&serve[1]));
        return;
    }
    for case in cases.iter().filter(|case| args.only.as_ref().is_none_or(|only| *only == case.name)) {
        println!("{}", compare(&reference, case, &args));
    }
}

fn compare(reference: &Value, case: &Case, args: &Args) -> Value {
    let folder = tempfile::tempdir().expect("a temporary folder");
    ours::prepare(case, folder.path());
    let mut ours = runner::ours(case.name, folder.path());
    let mut theirs = match case.against {
        None => runner::peft(reference, case, folder.path()),
        Some(other) => runner::ours(other, folder.path()),
    };
    let mut turn = || (theirs.ask(args.steps), ours.ask(args.steps));
    let _: (Block, Block) = turn();
    let pairs: Vec<(Block, Block)> = (0..args.pairs).map(|_| turn()).collect();
    let of = |figure: fn(&(Block, Block)) -> f64| median(pairs.iter().map(figure).collect());
    let (ours, theirs) = (of(|pair| median(pair.1.ms.clone())), of(|pair| median(pair.0.ms.clone())));
    let last = pairs.last().expect("at least one pair");
    let (gflop, peak) = (case.gigaflop(), peak(case.precision));
    // Of a step that leaves blocks out, this would be no share.
    let share = |ms: f64| case.adapted.is_none().then(|| rounded(gflop / ms * 1e3 / peak));
    json!({
        "case": case.name, "threads": THREADS, "pairs": pairs.len(), "steps": args.steps,
        "against": case.against.unwrap_or("peft"), "ours_ms": rounded(ours), "theirs_ms": rounded(theirs),
        "ratio": rounded(of(|pair| median(pair.0.ms.clone()) / median(pair.1.ms.clone()))),
        "gflop": rounded(gflop), "peak_gflops": rounded(peak),
        "share_of_peak": share(ours), "their_share": share(theirs),
        "our_loss": rounded(last.1.loss), "their_loss": rounded(last.0.loss),
    })
}

/// The best of several large matrix products, in GFLOP/s.
fn peak(precision: Precision) -> f64 {
    const SIDE: i64 = 2048;
    let kind = if precision == Precision::F32 { Kind::Float } else { Kind::BFloat16 };
    let [a, b] = [(); 2].map(|()| Tensor::ones([SIDE, SIDE], (kind, Device::Cpu)));
    let product = || {
        let start = Instant::now();
        let _product = a.mm(&b);
        2.0 * (SIDE as f64).powi(3) / start.elapsed().as_secs_f64() / 1e9
    };
    (0..8).map(|_| product()).fold(0.0, f64::max)
}
