//! A process that says `ready`, and then answers each line with one line of JSON.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::de::DeserializeOwned;

pub struct Process {
    child: Child,
    input: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Process {
    pub fn start(mut command: Command) -> Self {
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.expect("the process starts");
        let input = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        let mut process = Self { child, input, answers };
        assert_eq!(process.line(), "ready");
        process
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        line.trim().to_owned()
    }

    pub fn ask<T: DeserializeOwned>(&mut self, question: impl std::fmt::Display) -> T {
        writeln!(self.input, "{question}").expect("the process listens");
        serde_json::from_str(&self.line()).expect("an answer of the agreed form")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
