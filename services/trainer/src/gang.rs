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
    pub timeout_ms: u64,
}

/// Ranks `first..first + ranks` of `world`.
#[derive(Clone, Copy, Debug)]
pub struct Ranks {
    pub first: u32,
    pub ranks: u32,
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
    ranks: Ranks,
    meeting: Option<&Meeting>,
    stall: Duration,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Trained, Error> {
    let (sender, mut lines) = mpsc::channel(64);
    let mut running = JoinSet::new();
    for rank in ranks.first..ranks.first + ranks.ranks {
        let child = spawn(program, job, rank, ranks, meeting)?;
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

fn spawn(program: &Path, job: &Path, rank: u32, ranks: Ranks, meeting: Option<&Meeting>) -> Result<Child, Error> {
    let mut command = Command::new(program);
    command.arg("rank").arg("--job").arg(job);
    command.args(["--rank", &rank.to_string(), "--world", &ranks.world.to_string()]);
    command.args(["--local-rank", &(rank - ranks.first).to_string()]);
    if let Some(at) = meeting {
        command.args(["--store", &format!("{}:{}", at.host, at.port), "--prefix", &at.prefix]);
        command.args(["--host", &at.own_host, "--timeout-ms", &at.timeout_ms.to_string()]);
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
    while let Ok(Some(line)) = lines.next_line().await {
        tracing::debug!(line, "a rank said");
        kept.push_back(line);
        if kept.len() > LAST_WORDS {
            kept.pop_front();
        }
    }
    if kept.is_empty() { String::new() } else { format!(": {}", Vec::from(kept).join(" | ")) }
}
