//! A process that takes steps when told: it says `ready`, then answers each number of steps with their times and loss.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::Deserialize;
use serde_json::Value;

use crate::THREADS;
use crate::case::{Case, Precision};

#[derive(Deserialize)]
pub struct Block {
    /// Milliseconds of each step.
    pub ms: Vec<f64>,
    /// Of the last step.
    pub loss: f64,
}

pub struct Runner {
    process: Child,
    input: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Runner {
    pub fn ours(case: &str, folder: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--serve", case]).arg(folder);
        Self::start(command)
    }

    pub fn peft(reference: &Value, case: &Case, folder: &Path) -> Self {
        let mut command = Command::new(reference["python"].as_str().expect("an interpreter"));
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/lora_step/peft_step.py")).arg(folder);
        command.arg(if case.precision == Precision::F32 { "float32" } else { "bfloat16" }).arg(THREADS.to_string());
        command.env("PYTHONPATH", reference["newest"].as_str().expect("a path")).env("HF_HUB_OFFLINE", "1");
        Self::start(command)
    }

    fn start(mut command: Command) -> Self {
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = spawned.expect("the process starts");
        let input = process.stdin.take().expect("piped");
        let answers = BufReader::new(process.stdout.take().expect("piped"));
        let mut runner = Self { process, input, answers };
        assert_eq!(runner.line(), "ready");
        runner
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        line.trim().to_owned()
    }

    pub fn steps(&mut self, steps: usize) -> Block {
        writeln!(self.input, "{steps}").expect("the process listens");
        serde_json::from_str(&self.line()).expect("times and a loss")
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
