//! A process that answers each number of steps with their times and loss.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::THREADS;
use crate::case::{Case, Precision};
use crate::shared::{self, Process};

#[derive(Deserialize)]
pub struct Block {
    /// Milliseconds of each step.
    pub ms: Vec<f64>,
    /// Of the last step.
    pub loss: f64,
}

pub fn ours(case: &str, folder: &Path) -> Process {
    let mut command = shared::ours();
    command.args(["--serve", case]).arg(folder);
    Process::start(command)
}

pub fn peft(reference: &Value, case: &Case, folder: &Path) -> Process {
    let mut command = shared::python(reference, "lora_step/peft_step.py", THREADS);
    command.arg(folder);
    command.arg(if case.precision == Precision::F32 { "float32" } else { "bfloat16" }).arg(THREADS.to_string());
    Process::start(command)
}
