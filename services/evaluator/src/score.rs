//! One model on a run's EvalSets. Meant for a child process, like a rank.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use domain::chunk::{ObjectRef, Row, Shard};
use domain::evalset::EvalSet;
use domain::manifest::{Candidate, Manifest};
use domain::report::Score;
use learn::assemble::{self, Assembled, Sources};
use learn::evaluate;
use learn::verify::{self, Flaw};
use serde::{Deserialize, Serialize};
use store::examples::read_shard;

/// Rows scored at once. Bounds memory; does not change what is right or wrong.
pub(crate) const BATCH: usize = 128;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EvalJob {
    pub manifest: Manifest,
    /// The folder of a `model: {uri, sha256}`.
    pub base_model: Option<PathBuf>,
    /// A folder with the version's files. None: the base with its initial head.
    pub subject: Option<PathBuf>,
    /// What the subject has to be, if it is a run's candidate: verified before it is scored.
    #[serde(default)]
    pub candidate: Option<Candidate>,
    /// What says how images become numbers, in place of the subject's own file: the base is measured as the first
    /// version sees the data.
    pub preprocessor: Option<PathBuf>,
    pub sets: Vec<EvalSet>,
    /// By SHA-256: every shard of the sets.
    pub shards: BTreeMap<String, PathBuf>,
    /// `cpu` or `cuda:N`.
    pub device: String,
    pub threads: u32,
}

/// Whose fault a failed evaluation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Another try may succeed.
    Passing,
    /// The same job would fail again.
    Permanent,
    /// The candidate in the store is not what was trained: it has to be trained again.
    Spoiled,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Learn(#[from] learn::Error),
    #[error(transparent)]
    Shard(#[from] store::Error),
    #[error("shard {0} was not fetched")]
    NoShard(String),
    #[error("chunk {chunk} holds {found} held-out rows, and the EvalSet of `{task}` names {rows}")]
    TooFew { chunk: String, task: String, rows: u64, found: u64 },
    #[error("a row of chunk {chunk} cannot be read: {reason}")]
    Unreadable { chunk: String, reason: String },
    #[error("the snapshot cannot be read: {0}")]
    Snapshot(String),
    #[error("`{0}` is not a device: expected `cpu` or `cuda:N`")]
    Device(String),
    #[error("the candidate cannot be loaded")]
    Unloadable(#[source] learn::Error),
    #[error("the candidate is not what was trained")]
    Flawed(#[source] Flaw),
    #[error(transparent)]
    Untrained(Flaw),
}

impl From<Flaw> for Error {
    fn from(flaw: Flaw) -> Self {
        if flaw.is_trained() { Self::Untrained(flaw) } else { Self::Flawed(flaw) }
    }
}

impl Error {
    /// What another try can do about it.
    pub fn fault(&self) -> Fault {
        let permanent = match self {
            Self::Unloadable(_) | Self::Flawed(_) => return Fault::Spoiled,
            Self::Learn(error) => error.is_permanent(),
            Self::Shard(error) => error.kind() != store::Kind::Unavailable,
            Self::NoShard(_) => false,
            _ => true,
        };
        if permanent { Fault::Permanent } else { Fault::Passing }
    }
}

/// Scores in the order of the job's sets. `done` counts the rows scored so far.
pub fn evaluate(job: &EvalJob, done: &mut dyn FnMut(u64)) -> Result<Vec<Score>, Error> {
    let device = assemble::device(&job.device).ok_or_else(|| Error::Device(job.device.clone()))?;
    tch::set_num_threads(job.threads as i32);
    let rows: Vec<Vec<Row>> = job.sets.iter().map(|set| read(job, set)).collect::<Result<_, _>>()?;
    let first = rows.iter().flatten().next();
    if first.is_none() && job.candidate.is_none() {
        return Ok(job.sets.iter().map(|set| score(set, evaluate::Scored::default())).collect());
    }
    let sources = Sources {
        pipeline: &job.manifest.pipeline,
        labels: &job.manifest.labels,
        base: job.base_model.as_deref(),
        version: job.subject.as_deref(),
        preprocessor: job.preprocessor.as_deref(),
        device,
        precision: job.manifest.pipeline.training.precision,
    };
    let Assembled { net, reader, .. } = load(job, sources, first)?;
    let (mut scores, mut before) = (Vec::new(), 0);
    for (set, rows) in job.sets.iter().zip(rows) {
        let place = format!("EvalSet {} of task `{}`", set.number, set.task);
        let dataset = reader.decode(&rows, &place, &job.manifest.labels)?.to_device(device);
        let scored = evaluate::evaluate(&net, &dataset, &reader, Some(set.task.as_str()), BATCH, &mut |rows| {
            done(before + rows)
        });
        before += scored.items;
        scores.push(score(set, scored));
    }
    Ok(scores)
}

/// The subject; a candidate is verified.
fn load(job: &EvalJob, sources: Sources, sample: Option<&Row>) -> Result<Assembled, Error> {
    let loaded = match sample {
        Some(row) => assemble::assemble(sources, row),
        None => assemble::assemble_version(sources),
    };
    let Some(candidate) = &job.candidate else { return Ok(loaded?) };
    let loaded = loaded.map_err(|error| match sources.version {
        Some(folder) if error.lies_in(folder) => Error::Unloadable(error),
        _ => Error::Learn(error),
    })?;
    verify::verify(&loaded, sources.precision, candidate)?;
    Ok(loaded)
}

fn score(set: &EvalSet, scored: evaluate::Scored) -> Score {
    Score {
        task: set.task.clone(),
        eval_set: set.number,
        digest: set.digest(),
        items: scored.items,
        correct: scored.correct,
        // JSON has no infinity, and a diverged model has no other loss.
        loss: if scored.loss.is_finite() { scored.loss } else { f64::MAX },
        calibration: scored.calibration,
        right: Some(scored.right.into_iter().collect()),
    }
}

/// The rows each part names, in order.
pub(crate) fn read(job: &EvalJob, set: &EvalSet) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for part in &set.parts {
        let mut found: Vec<Row> = Vec::new();
        for shard in &part.shards {
            if found.len() as u64 >= part.rows {
                break;
            }
            let (file, labels) = fetched(job, shard)?;
            // What nobody has labelled yet is no item.
            found.extend(read_shard(file, labels)?.into_iter().map(|(_, row)| row).filter(|row| !row.label.is_empty()));
        }
        if (found.len() as u64) < part.rows {
            return Err(Error::TooFew {
                chunk: part.chunk.to_string(),
                task: set.task.to_string(),
                rows: part.rows,
                found: found.len() as u64,
            });
        }
        rows.extend(found.into_iter().take(part.rows as usize));
    }
    Ok(rows)
}

/// The shard's file, and that of its late labels.
pub(crate) fn fetched<'a>(job: &'a EvalJob, shard: &Shard) -> Result<(&'a Path, Option<&'a Path>), Error> {
    let file = |object: &ObjectRef| {
        let path = job.shards.get(&object.sha256).map(PathBuf::as_path);
        path.ok_or_else(|| Error::NoShard(object.sha256.clone()))
    };
    Ok((file(&shard.object)?, shard.labels.as_ref().map(file).transpose()?))
}

#[cfg(test)]
mod tests;
