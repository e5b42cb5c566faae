//! Rows of Parquet with images, from the file to decoded pixels: as they are taken in, against Python's `datasets` with Pillow,
//! in turns, one thread each.
//!
//! ```text
//! python3 -m pip install --target /tmp/datasets datasets==5.2.0
//! make reference && PYTHONPATH=/tmp/datasets cargo bench --workspace --bench decode
//! ```
//!
//! One line of JSON for each set of images. `ratio` is the lowest, the median and the highest over pairs of `datasets`' seconds
//! divided by ours. Its seconds begin when the file has been opened, ours with opening it.

// A benchmark is made to read the clock.
#![allow(clippy::disallowed_methods)]

#[path = "../shared/mod.rs"]
mod shared;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use serde::Deserialize;
use serde_json::json;
use shared::{Process, spread};
use store::examples::{self, Columns, Format, Unread};

#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Cargo gives it to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Deserialize)]
struct Turn {
    seconds: f64,
    rows: u64,
}

/// Small PNG and small JPEG.
const SETS: [&str; 2] = ["fashion_mnist", "cifar10"];

fn ours(path: &Path) -> Turn {
    let (start, mut rows) = (Instant::now(), 0);
    let file = File::open(path).expect("a file");
    let each = |row: Result<_, _>| {
        row.expect("a good row");
        rows += 1;
        Ok::<_, Unread>(())
    };
    examples::read(Format::Parquet, file, &Columns::default(), each).unwrap_or_else(|_| panic!("{}", path.display()));
    Turn { seconds: start.elapsed().as_secs_f64(), rows }
}

fn main() {
    let args = Args::parse();
    let (Some(reference), Some(data)) = (shared::staged(), std::env::var_os("PERENNIAL_DATA").map(PathBuf::from))
    else {
        println!("SKIPPED: needs `make reference`, and PERENNIAL_DATA");
        return;
    };
    let mut theirs = Process::start(shared::python(&reference, "decode/datasets_decode.py", 1));
    for set in SETS {
        let path = data.join(set).join("train-00000.parquet");
        let (mut ratios, mut own, mut other) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..args.pairs {
            let (a, b): (Turn, Turn) = (ours(&path), theirs.ask(path.display()));
            assert_eq!(a.rows, b.rows, "{set}");
            ratios.push(b.seconds / a.seconds);
            own.push(a.seconds);
            other.push(b.seconds);
        }
        let line = json!({"set": set, "ours_s": spread(own), "datasets_s": spread(other), "ratio": spread(ratios)});
        println!("{line}");
    }
}
