//! What benchmarks share that compare with others: processes that take turns, rows of Fashion-MNIST, and figures.

#![allow(dead_code)] // each benchmark uses its part

pub mod fashion;
mod process;

pub use process::Process;

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// What `make reference` left.
pub fn staged() -> Option<Value> {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    serde_json::from_slice(&std::fs::read(cache.join("perennial/reference.json")).ok()?).ok()
}

/// The reference's interpreter on a script in `benches`. What `PYTHONPATH` names comes after what is staged.
pub fn python(reference: &Value, script: &str, threads: i32) -> Command {
    let own = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/benches"));
    let mut command = Command::new(reference["python"].as_str().expect("an interpreter"));
    let more = std::env::var("PYTHONPATH").unwrap_or_default();
    let path = format!("{}:{more}", reference["newest"].as_str().expect("a path"));
    command.arg("-B").arg(own.join(script)).env("PYTHONPATH", path).env("HF_HUB_OFFLINE", "1");
    command.env("OPENBLAS_NUM_THREADS", threads.to_string()).env("OMP_NUM_THREADS", threads.to_string());
    command
}

/// This program, as the process that does our part.
pub fn ours() -> Command {
    Command::new(std::env::current_exe().expect("this program"))
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

/// The lowest, the median and the highest.
pub fn spread(values: Vec<f64>) -> [f64; 3] {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(0.0, f64::max);
    [low, median(values), high].map(rounded)
}

/// To four digits.
pub fn rounded(value: f64) -> f64 {
    let scale = 10f64.powf(3.0 - value.abs().max(1e-9).log10().floor());
    (value * scale).round() / scale
}

/// This process's largest resident set so far; 0 where the kernel does not say.
pub fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}
