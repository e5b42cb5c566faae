//! One evaluation on this worker: fetch, score each model in a child process.

use std::path::PathBuf;
use std::process::Stdio;

use domain::chunk::{ObjectRef, Shard};
use domain::evalset::EvalSet;
use domain::manifest::Manifest;
use domain::pipeline::Model;
use domain::report::Score;
use serde::{Deserialize, Serialize};
use store::fetch::Fetcher;
use tokio::process::Command;

use crate::score::EvalJob;

/// What an evaluation needs of the machine it runs on.
pub struct Node<'a> {
    pub fetcher: &'a Fetcher,
    /// The binary that is started to score.
    pub program: PathBuf,
    /// `cpu` or `cuda`.
    pub device: String,
}

/// A model to score and the EvalSets to score it on. No files: the base with its initial head.
pub struct Subject {
    pub files: Vec<ObjectRef>,
    pub sets: Vec<EvalSet>,
}

/// What the child writes to its standard output: one line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    Scores(Vec<Score>),
    Failed(String),
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("cannot write `{path}`")]
    Scratch { path: PathBuf, source: std::io::Error },
    #[error("cannot start `{program}`")]
    Spawn { program: PathBuf, source: std::io::Error },
    #[error("the evaluation {0}")]
    Failed(String),
}

/// Scores the subjects one after another; `done` counts those that are. Dropping it kills the child.
pub async fn run(
    node: &Node<'_>,
    manifest: &Manifest,
    subjects: &[Subject],
    scratch: PathBuf,
    done: &mut (dyn FnMut(usize) + Send),
) -> Result<Vec<Vec<Score>>, Error> {
    let mut scores = Vec::new();
    for (position, subject) in subjects.iter().enumerate() {
        let folder = scratch.join(position.to_string());
        let job = prepare(node, manifest, subject, &folder).await?;
        scores.push(score(node, &job, folder.join("job.json")).await?);
        done(position + 1);
    }
    Ok(scores)
}

async fn prepare(node: &Node<'_>, manifest: &Manifest, subject: &Subject, folder: &PathBuf) -> Result<EvalJob, Error> {
    tokio::fs::create_dir_all(folder).await.map_err(|source| Error::Scratch { path: folder.clone(), source })?;
    let base_model = match &manifest.pipeline.model {
        Model::Folder(model) => Some(node.fetcher.model(model).await?),
        Model::Scratch(_) => None,
    };
    let files = folder.join("files");
    node.fetcher.lay_out(&subject.files, &files).await?;
    Ok(EvalJob {
        manifest: manifest.clone(),
        base_model,
        subject: (!subject.files.is_empty()).then_some(files),
        sets: subject.sets.clone(),
        shards: node.fetcher.shards(shards(&subject.sets)).await?,
        device: node.device.clone(),
        threads: manifest.pipeline.resources.threads_per_rank.get(),
    })
}

fn shards(sets: &[EvalSet]) -> Vec<Shard> {
    sets.iter().flat_map(|set| &set.parts).flat_map(|part| part.shards.clone()).collect()
}

async fn score(node: &Node<'_>, job: &EvalJob, path: PathBuf) -> Result<Vec<Score>, Error> {
    let text = serde_json::to_vec(job).expect("a job is plain JSON");
    tokio::fs::write(&path, text).await.map_err(|source| Error::Scratch { path: path.clone(), source })?;
    let mut command = Command::new(&node.program);
    command.arg("score").arg("--job").arg(&path);
    // The open pipe is the child's sign that its parent lives.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|source| Error::Spawn { program: node.program.clone(), source })?;
    let alive = child.stdin.take();
    let output = child.wait_with_output().await.map_err(|e| Error::Failed(e.to_string()))?;
    drop(alive);
    let lines = String::from_utf8_lossy(&output.stdout);
    match lines.lines().rev().find_map(|line| serde_json::from_str(line).ok()) {
        Some(Line::Scores(scores)) if output.status.success() => Ok(scores),
        Some(Line::Failed(reason)) => Err(Error::Failed(format!("failed: {reason}"))),
        _ => {
            let words = String::from_utf8_lossy(&output.stderr);
            let last: Vec<&str> = words.lines().rev().take(8).collect();
            Err(Error::Failed(format!("ended with {}: {}", output.status, last.join(" | "))))
        }
    }
}
