//! This worker's ranks of one attempt, as child processes.
//!
//! A rank that dies takes the attempt with it: the others are killed at once, since a hung
//! all-reduce cannot be woken.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::job::{Progress, Trained};

/// What a rank process writes to its standard output, a line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    Progress(Progress),
    Trained(Box<Trained>),
    Failed(Failure),
}

/// Why a rank left nothing.
#[derive(Debug, Serialize, Deserialize)]
pub struct Failure {
    pub reason: String,
    /// The same job would fail again.
    pub permanent: bool,
}

impl From<String> for Failure {
    /// It may go better next time.
    fn from(reason: String) -> Self {
        Self { reason, permanent: false }
    }
}

/// Where the ranks of all workers meet.
#[derive(Clone, Debug)]
pub struct Meeting {
    pub host: String,
    pub port: u16,
    pub prefix: String,
    /// This machine's address, as others reach it.
    pub own_host: String,
    /// Longest wait for the other workers' ranks to come.
    pub patience_ms: u64,
    /// Of one collective operation.
    pub timeout_ms: u64,
}

/// Ranks of a gang on this worker.
#[derive(Clone, Debug)]
pub struct Ranks {
    pub first: u32,
    /// The worker's slot of each rank from `first` on: on a GPU, the device's number.
    pub slots: Vec<u32>,
    pub world: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot start `{program}`")]
    Spawn { program: PathBuf, source: std::io::Error },
    #[error("rank {rank}: {reason}")]
    Rank { rank: u32, reason: String, permanent: bool },
}

/// Lines of standard error kept to explain a death.
const LAST_WORDS: usize = 12;

/// Runs the ranks to their end, passing on what rank `first` reports. A rank that says nothing for `stall` is killed.
/// Dropping the future kills them all.
pub async fn run(
    program: &Path,
    job: &Path,
    ranks: &Ranks,
    meeting: Option<&Meeting>,
    stall: Duration,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Trained, Error> {
    let (sender, mut lines) = mpsc::channel(64);
    let mut running = JoinSet::new();
    for (rank, slot) in (ranks.first..).zip(&ranks.slots) {
        let child = spawn(program, job, rank, *slot, ranks.world, meeting)?;
        let lines = (rank == ranks.first).then(|| sender.clone());
        running.spawn(async move { (rank, attend(child, lines, stall).await) });
    }
    drop(sender);
    let mut leader = None;
    loop {
        tokio::select! {
            Some(at) = lines.recv() => progress(at),
            Some(ended) = running.join_next() => {
                let (rank, outcome) = ended.expect("attending a rank does not panic");
                let failed = |Failure { reason, permanent }| Error::Rank { rank, reason, permanent };
                let trained = outcome.map_err(failed)?;
                if rank == ranks.first {
                    leader = Some(trained);
                }
            }
            else => return leader.ok_or_else(|| {
                Error::Rank { rank: ranks.first, reason: "left nothing".to_owned(), permanent: false }
            }),
        }
    }
}

fn spawn(
    program: &Path,
    job: &Path,
    rank: u32,
    slot: u32,
    world: u32,
    meeting: Option<&Meeting>,
) -> Result<Child, Error> {
    let mut command = Command::new(program);
    command.arg("rank").arg("--job").arg(job);
    command.args(["--rank", &rank.to_string(), "--world", &world.to_string(), "--slot", &slot.to_string()]);
    if let Some(at) = meeting {
        command.args(["--store", &format!("{}:{}", at.host, at.port), "--prefix", &at.prefix]);
        command.args(["--host", &at.own_host, "--timeout-ms", &at.timeout_ms.to_string()]);
        command.args(["--patience-ms", &at.patience_ms.to_string()]);
    }
    // The open pipe is the rank's sign that its parent lives.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.spawn().map_err(|source| Error::Spawn { program: program.to_owned(), source })
}

/// Reads a rank to its end; the error says why it did not finish.
async fn attend(
    mut child: Child,
    progress: Option<mpsc::Sender<Progress>>,
    stall: Duration,
) -> Result<Trained, Failure> {
    let _alive = child.stdin.take();
    let stdout = child.stdout.take().expect("piped");
    let words = tokio::spawn(last_words(child.stderr.take().expect("piped")));
    let outcome = listen(stdout, progress, stall).await;
    if outcome.is_err() {
        // It may have ended meanwhile.
        let _ = child.start_kill();
    }
    let status = child.wait().await.map_err(|e| e.to_string())?;
    match outcome {
        Ok(Some(Line::Trained(trained))) if status.success() => Ok(*trained),
        Ok(Some(Line::Failed(failure))) => Err(failure),
        Ok(_) => Err(format!("ended with {status}{}", words.await.unwrap_or_default()).into()),
        Err(Stalled) => Err(format!("said nothing for {} s and was killed", stall.as_secs()).into()),
    }
}

struct Stalled;

/// The last line that ends the rank's work, once its output has ended.
async fn listen(
    stdout: impl AsyncRead + Unpin,
    progress: Option<mpsc::Sender<Progress>>,
    stall: Duration,
) -> Result<Option<Line>, Stalled> {
    let mut lines = BufReader::new(stdout).lines();
    let mut outcome = None;
    while let Ok(Some(line)) = timeout(stall, lines.next_line()).await.map_err(|_| Stalled)? {
        match serde_json::from_str(&line) {
            Ok(Line::Progress(at)) => {
                if let Some(progress) = &progress {
                    // The attempt may have ended meanwhile.
                    let _ = progress.send(at).await;
                }
            }
            Ok(end) => outcome = Some(end),
            Err(_) => tracing::debug!(line, "a rank said"),
        }
    }
    Ok(outcome)
}

async fn last_words(stderr: impl AsyncRead + Unpin) -> String {
    let mut lines = BufReader::new(stderr).lines();
    let mut kept = std::collections::VecDeque::new();
    let mut panicked = false;
    while let Ok(Some(line)) = lines.next_line().await {
        tracing::debug!(line, "a rank said");
        if !panicked && line.contains("panicked at") {
            panicked = true;
            kept.clear();
        }
        // A panic says first what happened, and then for long where.
        if panicked && kept.len() == LAST_WORDS {
            continue;
        }
        kept.push_back(line);
        if kept.len() > LAST_WORDS {
            kept.pop_front();
        }
    }
    if kept.is_empty() { String::new() } else { format!(": {}", Vec::from(kept).join(" | ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A rank that does what `script` says.
    async fn ranks(script: &str, stall: Duration) -> Result<Trained, Error> {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("rank");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let ranks = Ranks { first: 0, slots: vec![0, 1], world: 2 };
        run(&program, &folder.path().join("job.json"), &ranks, None, stall, &mut |_| ()).await
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_rank_that_says_nothing_is_killed_and_costs_the_attempt() {
        let error = ranks("exec sleep 600", Duration::from_millis(50)).await.unwrap_err();
        assert!(error.to_string().contains("said nothing for"), "{error}");
    }

    #[tokio::test]
    async fn a_rank_that_dies_is_explained_by_its_last_words() {
        let error = ranks("echo why >&2; kill -9 $$", LONG).await.unwrap_err();
        assert!(error.to_string().contains("signal: 9") && error.to_string().contains("why"), "{error}");
    }

    #[tokio::test]
    async fn a_panic_is_explained_by_its_first_words() {
        let script =
            "echo early >&2; echo \"thread 'main' panicked at x.rs:1\" >&2; echo why >&2; seq 50 >&2; exit 101";
        let error = ranks(script, LONG).await.unwrap_err().to_string();
        assert!(error.contains("panicked at x.rs:1 | why | 1 |") && !error.contains("early"), "{error}");
    }

    #[tokio::test]
    async fn what_a_rank_says_of_its_failure_is_passed_on() {
        let said = r#"echo '{"failed":{"reason":"no such layer","permanent":true}}'; exit 1"#;
        let error = ranks(said, LONG).await.unwrap_err();
        assert!(matches!(&error, Error::Rank { reason, permanent: true, .. } if reason == "no such layer"), "{error}");
    }
}
