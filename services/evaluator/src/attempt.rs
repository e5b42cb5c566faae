//! One evaluation on this worker: fetch, score each model in a child process.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use domain::chunk::{ObjectRef, Shard};
use domain::evalset::EvalSet;
use domain::manifest::{Candidate, Manifest};
use domain::pipeline::Model;
use domain::report::Score;
use domain::shift::Shift;
use learn::data::images::PREPROCESSOR;
use serde::{Deserialize, Serialize};
use store::Kind;
use store::fetch::Fetcher;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::measure::{self, MeasureJob};
use crate::score::{EvalJob, Fault};

/// What an evaluation needs of the machine it runs on.
pub struct Node<'a> {
    pub fetcher: &'a Fetcher,
    /// The binary that is started to score.
    pub program: PathBuf,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Longest silence of the child.
    pub stall: Duration,
}

/// A model to score and the EvalSets to score it on. No files: the base with its initial head.
pub struct Subject {
    pub files: Vec<ObjectRef>,
    /// What the files have to be, if they are a run's candidate.
    pub candidate: Option<Candidate>,
    pub sets: Vec<EvalSet>,
}

impl Subject {
    /// Rows to score.
    pub fn items(&self) -> u64 {
        self.sets.iter().map(EvalSet::items).sum()
    }
}

/// What the child writes to its standard output, a line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// Rows scored so far.
    Progress(u64),
    Scores(Vec<Score>),
    Shifts(Vec<Shift>),
    Failed {
        reason: String,
        fault: Fault,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("cannot write `{path}`")]
    Scratch { path: PathBuf, source: std::io::Error },
    #[error("cannot start `{program}`")]
    Spawn { program: PathBuf, source: std::io::Error },
    #[error("the candidate is not what was trained")]
    Spoiled(#[source] store::Error),
    #[error("the evaluation {reason}")]
    Failed { reason: String, fault: Fault },
}

impl Error {
    pub fn fault(&self) -> Fault {
        match self {
            Self::Failed { fault, .. } => *fault,
            Self::Spoiled(_) => Fault::Spoiled,
            Self::Store(error) if error.kind() != store::Kind::Unavailable => Fault::Permanent,
            _ => Fault::Passing,
        }
    }

    /// Whether the store could not be reached, which says nothing about the run.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Store(error) if error.kind() == store::Kind::Unavailable)
    }

    fn ended(reason: String) -> Self {
        Self::Failed { reason, fault: Fault::Passing }
    }
}

/// Scores the subjects one after another; `done` counts the rows scored so far. Dropping the future kills the child.
pub async fn run(
    node: &Node<'_>,
    manifest: &Manifest,
    subjects: &[Subject],
    scratch: PathBuf,
    done: &mut (dyn FnMut(u64) + Send),
) -> Result<Vec<Vec<Score>>, Error> {
    let (mut scores, mut before) = (Vec::new(), 0);
    for (position, subject) in subjects.iter().enumerate() {
        let folder = scratch.join(position.to_string());
        let mut job = prepare(node, manifest, subject, &folder).await?;
        if subject.files.is_empty() {
            job.preprocessor = preprocessor(node, subjects).await?;
        }
        match child(node, "score", &job, folder.join("job.json"), &mut |rows| done(before + rows)).await? {
            Line::Scores(found) => scores.push(found),
            other => return Err(Error::ended(format!("said {other:?} in place of its scores"))),
        }
        before += subject.items();
    }
    Ok(scores)
}

/// Compares the manifest's chunk with its parent's memory and with its EvalSets. `scratch` exists.
pub async fn measure(
    node: &Node<'_>,
    manifest: &Manifest,
    scratch: PathBuf,
    done: &mut (dyn FnMut(u64) + Send),
) -> Result<Vec<Shift>, Error> {
    let sets = manifest.eval_sets.clone();
    let files = manifest.parent.as_ref().map(|parent| parent.files.clone()).unwrap_or_default();
    let mut model = prepare(node, manifest, &Subject { files, candidate: None, sets }, &scratch).await?;
    let snapshot = match &manifest.snapshot {
        Some(snapshot) => Some(node.fetcher.file(&snapshot.object).await?),
        None => None,
    };
    let wanted = measure::shards(manifest, snapshot.as_deref());
    let wanted = wanted.map_err(|error| Error::Failed { reason: format!("failed: {error}"), fault: error.fault() })?;
    model.shards.extend(node.fetcher.shards(wanted).await?);
    match child(node, "measure", &MeasureJob { model, snapshot }, scratch.join("job.json"), done).await? {
        Line::Shifts(shifts) => Ok(shifts),
        other => Err(Error::ended(format!("said {other:?} in place of what it found"))),
    }
}

async fn prepare(node: &Node<'_>, manifest: &Manifest, subject: &Subject, folder: &PathBuf) -> Result<EvalJob, Error> {
    tokio::fs::create_dir_all(folder).await.map_err(|source| Error::Scratch { path: folder.clone(), source })?;
    let base_model = match &manifest.pipeline.model {
        Model::Folder(model) => Some(node.fetcher.model(model).await?),
        Model::Scratch(_) => None,
    };
    let files = folder.join("files");
    let laid_out = node.fetcher.lay_out(&subject.files, &files).await;
    laid_out.map_err(|error| match error.kind() {
        Kind::NotFound | Kind::Damaged if subject.candidate.is_some() => Error::Spoiled(error),
        _ => Error::Store(error),
    })?;
    Ok(EvalJob {
        manifest: manifest.clone(),
        base_model,
        subject: (!subject.files.is_empty()).then_some(files),
        candidate: subject.candidate.clone(),
        preprocessor: None,
        sets: subject.sets.clone(),
        shards: node.fetcher.shards(shards(&subject.sets)).await?,
        device: node.device.clone(),
        threads: manifest.pipeline.resources.threads_per_rank.get(),
    })
}

/// How the base's pixels become numbers: as those of the candidate beside it, which may have measured its data.
async fn preprocessor(node: &Node<'_>, subjects: &[Subject]) -> Result<Option<PathBuf>, Error> {
    let mut files = subjects.iter().flat_map(|subject| &subject.files);
    match files.find(|file| file.path.rsplit('/').next() == Some(PREPROCESSOR)) {
        Some(file) => Ok(Some(node.fetcher.file(file).await?)),
        None => Ok(None),
    }
}

fn shards(sets: &[EvalSet]) -> Vec<Shard> {
    sets.iter().flat_map(|set| &set.parts).flat_map(|part| part.shards.clone()).collect()
}

/// The last line of a process that does `what` with the job.
async fn child(
    node: &Node<'_>,
    what: &str,
    job: &impl Serialize,
    path: PathBuf,
    done: &mut (dyn FnMut(u64) + Send),
) -> Result<Line, Error> {
    let text = serde_json::to_vec(job).expect("a job is plain JSON");
    tokio::fs::write(&path, text).await.map_err(|source| Error::Scratch { path: path.clone(), source })?;
    let mut command = Command::new(&node.program);
    command.arg(what).arg("--job").arg(&path);
    // The open pipe is the child's sign that its parent lives.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().map_err(|source| Error::Spawn { program: node.program.clone(), source })?;
    attend(child, node.stall, done).await
}

/// Lines of a child's stderr that explain its end.
const LAST_WORDS: usize = 8;

/// Reads the child to its end, or kills it when it says nothing for `stall`.
async fn attend(mut child: Child, stall: Duration, done: &mut (dyn FnMut(u64) + Send)) -> Result<Line, Error> {
    let _alive = child.stdin.take();
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut errors = child.stderr.take().expect("piped");
    let words = tokio::spawn(async move {
        let mut words = Vec::new();
        // What cannot be read is not there.
        let _ = errors.read_to_end(&mut words).await;
        String::from_utf8_lossy(&words).into_owned()
    });
    let mut last = None;
    loop {
        match timeout(stall, lines.next_line()).await {
            Ok(Ok(Some(line))) => match serde_json::from_str(&line) {
                Ok(Line::Progress(rows)) => done(rows),
                Ok(end) => last = Some(end),
                Err(_) => tracing::debug!(line, "an evaluation said"),
            },
            Ok(_) => break,
            Err(_) => {
                // It may have ended meanwhile.
                let _ = child.kill().await;
                return Err(Error::ended(format!("said nothing for {} s and was killed", stall.as_secs())));
            }
        }
    }
    let status = child.wait().await.map_err(|e| Error::ended(e.to_string()))?;
    match last {
        Some(Line::Failed { reason, fault }) => Err(Error::Failed { reason: format!("failed: {reason}"), fault }),
        Some(line) if status.success() => Ok(line),
        _ => {
            let words = words.await.unwrap_or_default();
            let end = words.lines().count().saturating_sub(LAST_WORDS);
            // A panic says first what happened, and then for long where.
            let start = words.lines().position(|line| line.contains("panicked at")).unwrap_or(end);
            let last: Vec<&str> = words.lines().skip(start).take(LAST_WORDS).collect();
            Err(Error::ended(format!("ended with {status}: {}", last.join(" | "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said(script: &str, stall: Duration) -> (Result<Line, Error>, Vec<u64>) {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut heard = Vec::new();
        let ended = attend(command.spawn().unwrap(), stall, &mut |rows| heard.push(rows)).await;
        (ended, heard)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn progress_is_passed_on_and_scores_end_it() {
        let (ended, heard) = said(r#"echo '{"progress":128}'; echo noise; echo '{"scores":[]}'"#, LONG).await;
        assert!(matches!(ended.unwrap(), Line::Scores(scores) if scores.is_empty()));
        assert_eq!(heard, [128]);
    }

    #[tokio::test]
    async fn a_child_that_says_nothing_is_killed() {
        let (ended, _) = said("exec sleep 600", Duration::from_millis(50)).await;
        let error = ended.unwrap_err();
        assert!(error.to_string().contains("said nothing for") && error.fault() == Fault::Passing, "{error}");
    }

    #[tokio::test]
    async fn a_failure_keeps_its_kind_and_a_death_its_last_words() {
        let (failed, _) = said(r#"echo '{"failed":{"reason":"bad row","fault":"spoiled"}}'; exit 1"#, LONG).await;
        assert_eq!(failed.unwrap_err().fault(), Fault::Spoiled);
        let (died, _) = said("echo why >&2; exit 3", LONG).await;
        let error = died.unwrap_err();
        assert!(error.to_string().contains("exit status: 3: why") && error.fault() == Fault::Passing, "{error}");
        let (panicked, _) =
            said("echo early >&2; echo panicked at x >&2; echo why >&2; seq 50 >&2; exit 101", LONG).await;
        let error = panicked.unwrap_err().to_string();
        assert!(error.contains("101: panicked at x | why | 1 |"), "{error}");
    }
}
