//! One rank of one attempt: reads the job's files, runs the update, and (rank 0) writes the candidate.
//!
//! Meant for a child process: a panic, an out-of-memory or a hung all-reduce costs the attempt only.

mod base;
mod known;
mod prober;
mod rows;

use std::fs;
use std::path::{Path, PathBuf};

use collective::Collective;
use domain::id::{ChunkId, TaskName};
use domain::manifest::{Cost, Manifest};
use domain::pipeline::{Adapter, Normalize, Pipeline, Precision};
use learn::assemble::{self, Assembled, Sources};
use learn::checkpoint::Saved;
use learn::data::Reader;
use learn::data::images::Preprocess;
use learn::model::Net;
use learn::publish::{self, Publication};
use learn::update::{self, Inputs, Moment, Outcome};
use learn::{Flat, Pool, Prefix, checkpoint, verify};
use tch::{Device, Tensor};

use self::base::Base;
use self::known::{Known, known, remembered};
use self::prober::Prober;
use crate::job::{Phase, Probed, Progress, TrainJob, Trained};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Learn(#[from] learn::Error),
    #[error(transparent)]
    Shard(#[from] store::Error),
    #[error("shard {0} was not fetched")]
    NoShard(String),
    #[error("the snapshot refers to chunk {0}, whose shards the manifest does not list")]
    NoChunk(ChunkId),
    #[error("the snapshot refers to row {row} of chunk {chunk}, which has {rows}")]
    NoRow { chunk: ChunkId, row: u32, rows: u64 },
    #[error("chunk {chunk} holds {found} held-out rows, and the EvalSet of `{task}` names {rows}")]
    TooFew { chunk: ChunkId, task: TaskName, rows: u64, found: u64 },
    #[error("cannot read the snapshot `{file}`: {reason}")]
    Snapshot { file: PathBuf, reason: String },
    #[error(
        "all {0} rows to train on are held-out items; push rows that are not, or say `evaluation.contamination: off`"
    )]
    HeldOut(u64),
    #[error("`{0}` is not a device: expected `cpu` or `cuda:N`")]
    Device(String),
    #[error("the ranks resume from different steps: {0:?}")]
    Apart(Vec<i64>),
}

impl Error {
    /// Whether the same job would fail again.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Learn(error) => error.is_permanent(),
            Self::Shard(error) => error.kind() != store::Kind::Unavailable,
            Self::NoShard(_) | Self::Apart(_) => false,
            _ => true,
        }
    }
}

/// Seconds from any fixed moment.
pub type Clock<'a> = &'a dyn Fn() -> f64;

/// Makes the job's candidate: by training, or of what it imports. Every rank of the group calls it with the same job.
pub fn train(
    job: &TrainJob,
    collective: &dyn Collective,
    clock: Clock,
    progress: &mut dyn FnMut(Progress),
) -> Result<Trained, Error> {
    let device = assemble::device(&job.device).ok_or_else(|| Error::Device(job.device.clone()))?;
    tch::set_num_threads(job.manifest.pipeline.resources.threads_per_rank.get() as i32);
    match &job.import {
        Some(folder) => take_over(job, folder, device, collective, progress),
        None => update(job, device, collective, clock, progress),
    }
}

/// What was trained elsewhere, with an empty rehearsal buffer. No row is read and no step is made.
fn take_over(
    job: &TrainJob,
    folder: &Path,
    device: Device,
    collective: &dyn Collective,
    progress: &mut dyn FnMut(Progress),
) -> Result<Trained, Error> {
    let mut at = Progress { phase: Phase::Load, step: 0, total: 0, epoch: 0, loss: None };
    progress(at);
    let Assembled { net, trained, reader } = learn::import::import(sources(job, device), folder)?;
    at.phase = Phase::Write;
    progress(at);
    let (snapshot, carried) = remembered(job)?;
    let took =
        Took { precision: Precision::default(), train_seconds: 0.0, contaminated_rows: 0, probed: Probed::default() };
    let outcome = Outcome::untrained(snapshot, carried);
    let made = Made { net: &net, trained: &trained, reader: &reader, outcome, took };
    finish(job, collective, device, made)
}

fn update(
    job: &TrainJob,
    device: Device,
    collective: &dyn Collective,
    clock: Clock,
    progress: &mut dyn FnMut(Progress),
) -> Result<Trained, Error> {
    let (manifest, pipeline) = (&job.manifest, &job.manifest.pipeline);
    let mut at = Progress { phase: Phase::Load, step: 0, total: 0, epoch: 0, loss: None };
    progress(at);

    let Known { rows, snapshot, carried, contaminated_rows } = known(job)?;
    progress(at);
    let resume = job.resume.as_ref().map(|folder| checkpoint::load(folder, manifest)).transpose()?;
    let step = resume.as_ref().map_or(0, |saved| saved.step);
    together(collective, device, step)?;
    let precision = precision(pipeline, resume.as_ref(), collective, device, clock)?;
    let sources = Sources { precision, ..sources(job, device) };
    let Assembled { mut net, trained, mut reader } = assemble::assemble(sources, rows.sample()?)?;
    let base = Base::new(sources, rows.sample()?.clone());
    progress(at);
    let pool = rows::pool(manifest, rows, &reader, device)?;
    progress(at);
    measure(job, &mut reader, &pool);
    move_on(&mut net, manifest, &pool);
    let mut weights = Flat::over(trained);

    let mut prober = Prober::new(job, &net, &reader, clock, (collective.rank(), device))?;
    let started = clock();
    let prefix = prefix(job, &net, &pool, &reader, &mut || progress(at))?;
    let mut keeper = Keeper { job, precision, clock, keeps: collective.rank() == 0, step, second: started };
    let inputs = Inputs {
        manifest,
        pool: &pool,
        reader: &reader,
        prefix: prefix.as_ref(),
        snapshot,
        carried,
        parent_labels: parent_labels(job)?,
        base: base.values()?,
        initial: &|seed| base.net(seed),
        resume,
        clock,
    };
    let outcome = update::run(&net, &mut weights, inputs, collective, &mut |moment| {
        let loss = Some(moment.loss).filter(|loss| loss.is_finite());
        at = Progress { phase: Phase::Train, step: moment.step, total: moment.total, epoch: moment.epoch, loss };
        progress(at);
        prober.after_step(moment, &mut || progress(at));
        keeper.after_step(moment)
    })?;
    let (seconds, probed) = (clock() - started, prober.found());
    progress(Progress { phase: Phase::Write, ..at });
    let train_seconds = seconds - probed.seconds - outcome.measuring_seconds;
    let took = Took { precision, train_seconds, contaminated_rows, probed };
    let made = Made { net: &net, trained: weights.named(), reader: &reader, outcome, took };
    finish(job, collective, device, made)
}

/// What a parent says besides its weights: class means hold no longer once features move, heads gain the new labels.
fn move_on(net: &mut Net, manifest: &Manifest, pool: &Pool) {
    net.means = None;
    net.heads = net.heads.take().map(|heads| heads.grown(manifest, pool));
}

/// Where blocks below every adapter have been run.
fn prefix<'a>(
    job: &TrainJob,
    net: &'a Net,
    pool: &'a Pool,
    reader: &'a Reader,
    alive: &mut dyn FnMut(),
) -> Result<Option<Prefix<'a>>, Error> {
    let pipeline = &job.manifest.pipeline;
    if !pipeline.input.augment.is_empty() {
        // A row is another whenever it is read.
        return Ok(None);
    }
    let (limits, scratch) = (pipeline.resources.prefix_cache, job.out.parent().unwrap_or(&job.out));
    Ok(Prefix::fill(net, pool, reader, limits, scratch, &mut |_| alive())?)
}

/// A candidate before it is written down.
struct Made<'a> {
    net: &'a Net,
    trained: &'a [(String, Tensor)],
    reader: &'a Reader,
    outcome: Outcome,
    took: Took,
}

/// How it was made.
struct Took {
    precision: Precision,
    train_seconds: f64,
    contaminated_rows: u64,
    probed: Probed,
}

/// Rank 0 writes the candidate's files; every rank accounts for it.
fn finish(job: &TrainJob, collective: &dyn Collective, device: Device, made: Made) -> Result<Trained, Error> {
    let Made { net, trained, reader, outcome, took } = made;
    let Took { precision, train_seconds, contaminated_rows, probed } = took;
    let peak_memory_bytes = largest(collective, device)?;
    let (mut files, mut golden) = (Vec::new(), Vec::new());
    if collective.rank() == 0 {
        let Manifest { pipeline, labels, .. } = &job.manifest;
        let (snapshot, carried, imported) = (&outcome.snapshot, &outcome.carried, job.import.is_some());
        let means = outcome.means.as_ref();
        let publication = Publication { pipeline, labels, net, trained, reader, snapshot, carried, means, imported };
        files = publish::publish(&job.out, &publication)?;
        golden = verify::golden(net, reader);
    }
    let cost = Cost {
        steps: outcome.steps,
        train_seconds,
        rehearsal_seconds: outcome.rehearsal_seconds,
        world_size: collective.world() as u64,
        device: job.device.clone(),
        precision,
        peak_memory_bytes,
        final_loss: outcome.loss.filter(|loss| loss.is_finite()),
        dropped_rows: outcome.dropped_rows,
        contaminated_rows,
        best_epoch: outcome.best_epoch,
        memory_residual: outcome.memory_residual,
    };
    Ok(Trained { probed, golden, ..account(files, publish::weights_sha256(trained), reader, outcome, cost) })
}

fn sources(job: &TrainJob, device: Device) -> Sources<'_> {
    Sources {
        pipeline: &job.manifest.pipeline,
        labels: &job.manifest.labels,
        base: job.base_model.as_deref(),
        version: job.parent.as_deref(),
        preprocessor: None,
        device,
        precision: job.manifest.pipeline.training.precision,
    }
}

/// Standardises by the first update's rows, if the pipeline says so.
fn measure(job: &TrainJob, reader: &mut Reader, pool: &Pool) {
    if let Reader::Images(preprocess) = reader
        && job.parent.is_none()
        && job.manifest.pipeline.input.normalize == Some(Normalize::Dataset)
    {
        *preprocess = Preprocess::standard(preprocess.geometry, &pool.data, pool.fresh);
    }
}

/// What `auto` comes to: bf16 if that is faster on every rank's device; after a resume, what it was before.
fn precision(
    pipeline: &Pipeline,
    resume: Option<&Saved>,
    collective: &dyn Collective,
    device: Device,
    clock: Clock,
) -> Result<Precision, Error> {
    match (pipeline.training.precision, resume) {
        (Precision::Auto, Some(saved)) => Ok(saved.precision),
        (Precision::Auto, None) if pipeline.adapter == Adapter::Full => Ok(Precision::F32),
        (Precision::Auto, None) => {
            let mine = learn::precision::fastest(device, clock);
            let all = gather(collective, device, u64::from(mine == Precision::Bf16))?;
            Ok(if all.contains(&0) { Precision::F32 } else { Precision::Bf16 })
        }
        (asked, _) => Ok(asked),
    }
}

fn account(files: Vec<String>, weights_sha256: String, reader: &Reader, outcome: Outcome, cost: Cost) -> Trained {
    Trained {
        files,
        weights_sha256,
        finite: outcome.finite,
        preprocessing: reader.described(),
        golden: Vec::new(),
        items: outcome.snapshot.slots.len() as u64,
        seen: outcome.snapshot.seen,
        chunks: outcome.snapshot.chunks,
        cost,
        probed: Probed::default(),
    }
}

/// Labels of the parent's head.
fn parent_labels(job: &TrainJob) -> Result<usize, Error> {
    match &job.parent {
        Some(folder) => Ok(assemble::labels(folder)?.len()),
        None => Ok(0),
    }
}

/// Keeps the two newest checkpoints.
struct Keeper<'a> {
    job: &'a TrainJob,
    precision: Precision,
    clock: Clock<'a>,
    keeps: bool,
    /// Of the last checkpoint.
    step: u64,
    second: f64,
}

impl Keeper<'_> {
    fn after_step(&mut self, moment: &Moment) -> Result<(), learn::Error> {
        let training = &self.job.manifest.pipeline.training;
        let (steps, now) = (moment.step - self.step.min(moment.step), (self.clock)());
        let is_due =
            steps >= training.checkpoint_steps.get() || now - self.second >= training.checkpoint_seconds.get() as f64;
        if !self.keeps || !is_due || moment.step == moment.total {
            return Ok(());
        }
        let folder = self.job.checkpoints.join(moment.step.to_string());
        checkpoint::save(&folder, &self.job.manifest, self.precision, moment)?;
        (self.step, self.second) = (moment.step, now);
        forget_older(&self.job.checkpoints, 2);
        Ok(())
    }
}

/// A checkpoint that cannot be removed only takes room.
fn forget_older(checkpoints: &Path, keep: usize) {
    let Ok(entries) = fs::read_dir(checkpoints) else { return };
    let mut steps: Vec<u64> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    steps.sort_unstable_by(|a, b| b.cmp(a));
    for step in steps.into_iter().skip(keep) {
        let _ = fs::remove_dir_all(checkpoints.join(step.to_string()));
    }
}

/// Workers look for the newest checkpoint one by one, and a new one may have come in between.
fn together(collective: &dyn Collective, device: Device, step: u64) -> Result<(), Error> {
    let steps = gather(collective, device, step)?;
    if steps.iter().all(|other| *other == steps[0]) { Ok(()) } else { Err(Error::Apart(steps)) }
}

/// The largest resident set of any rank, in bytes.
fn largest(collective: &dyn Collective, device: Device) -> Result<u64, Error> {
    let all = gather(collective, device, peak_memory())?;
    Ok(all.into_iter().max().unwrap_or(0) as u64)
}

/// Every rank's number, by rank.
fn gather(collective: &dyn Collective, device: Device, mine: u64) -> Result<Vec<i64>, Error> {
    let mine = Tensor::from_slice(&[mine as i64]).to_device(device);
    let all = collective.all_gather(&mine).map_err(learn::Error::from)?;
    Ok(all.iter().map(|value| value.int64_value(&[0])).collect())
}

/// 0 where the kernel does not say.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests;
