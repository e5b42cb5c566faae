//! How a chunk compares with what its pipeline knew. Meant for a child process, like an evaluation.
//!
//! Rows are seen by the base model, which never changes, so that what is found depends on the rows alone. Only the losses of the
//! version, on rows that it has not learnt, tell whether labels mean what they did.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use domain::buffer::Snapshot;
use domain::chunk::{Row, Shard};
use domain::draw::Draw;
use domain::id::ChunkId;
use domain::manifest::{ChunkData, Manifest};
use domain::pipeline::Policy;
use domain::shift::{Against, Detector, Shift};
use learn::assemble::{self, Assembled, Sources};
use learn::predict::{Unreadable, best, features, predict};
use learn::shift::{ROWS, Sample, compare};
use serde::{Deserialize, Serialize};
use store::examples::read_shard_rows;
use tch::{Device, Tensor};

use crate::score::{BATCH, Error, EvalJob, fetched, read};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MeasureJob {
    /// Its subject is the version that the pipeline continues from; its manifest holds the chunk and what it is compared with.
    pub model: EvalJob,
    /// The version's memory, as JSON.
    pub snapshot: Option<PathBuf>,
}

/// One for the memory, if it holds rows of other chunks, then one a task. `done` counts the rows looked at so far.
pub fn measure(job: &MeasureJob, done: &mut dyn FnMut(u64)) -> Result<Vec<Shift>, Error> {
    let manifest = &job.model.manifest;
    let device = assemble::device(&job.model.device).ok_or_else(|| Error::Device(job.model.device.clone()))?;
    tch::set_num_threads(job.model.threads as i32);
    let chunk = &manifest.chunks[0];
    let fresh = read_rows(&job.model, &chunk.train, &places(manifest))?;
    let Some(first) = fresh.first() else { return Ok(Vec::new()) };
    let looks = Looks::new(&job.model, first, device)?;
    let mut seen = 0;
    let mut look = |rows: &[Row], task: Option<&str>| {
        looks.at(rows, task, &mut |rows| {
            seen += rows;
            done(seen);
        })
    };
    let fresh = look(&fresh, Some(chunk.task.as_str()))?;
    let mut shifts = Vec::new();
    for Reference { against, rows, task } in references(job)? {
        let reference = look(&rows, task.as_deref())?;
        let mut tests = compare(&reference, &fresh, draw(manifest).named(&against.to_string()));
        let is_sample = matches!(manifest.pipeline.policy(), Policy::Reservoir | Policy::Infinite);
        // What was chosen into memory says nothing of how frequent its labels are.
        tests.retain(|tested| against != Against::Buffer || is_sample || tested.detector != Detector::Labels);
        shifts.push(Shift { against, tests });
    }
    Ok(shifts)
}

fn draw(manifest: &Manifest) -> Draw {
    Draw::new(manifest.pipeline.seed).named("shift").at(manifest.run)
}

/// Of the chunk's rows, those that are looked at.
fn places(manifest: &Manifest) -> Vec<usize> {
    let rows: u64 = manifest.chunks[0].train.iter().map(|shard| shard.rows).sum();
    some((0..rows as usize).collect(), draw(manifest).named("chunk"))
}

/// What a chunk is compared with.
struct Reference {
    against: Against,
    rows: Vec<Row>,
    /// Whose head the version answers with. None: it has learnt the rows, and its losses on them say nothing.
    task: Option<String>,
}

fn references(job: &MeasureJob) -> Result<Vec<Reference>, Error> {
    let manifest = &job.model.manifest;
    let mut rows = Vec::new();
    for (data, places) in remembered(manifest, job.snapshot.as_deref())? {
        rows.extend(read_rows(&job.model, &data.train, &places)?);
    }
    let mut references = Vec::new();
    if !rows.is_empty() {
        references.push(Reference { against: Against::Buffer, rows, task: None });
    }
    for set in &manifest.eval_sets {
        let task = set.task.to_string();
        let rows = some(read(&job.model, set)?, draw(manifest).named("task").named(&task));
        references.push(Reference { against: Against::Task(set.task.clone()), rows, task: Some(task) });
    }
    Ok(references)
}

/// The shards that hold the rows that are looked at, but for held-out ones.
pub fn shards(manifest: &Manifest, snapshot: Option<&Path>) -> Result<Vec<Shard>, Error> {
    let own = places(manifest);
    let mut shards: Vec<Shard> = within(&manifest.chunks[0].train, &own).map(|(shard, _)| shard.clone()).collect();
    for (data, places) in remembered(manifest, snapshot)? {
        shards.extend(within(&data.train, &places).map(|(shard, _)| shard.clone()));
    }
    Ok(shards)
}

/// The base, and the version that the chunk is compared with what it knew.
struct Looks<'a> {
    job: &'a EvalJob,
    base: Assembled,
    version: Option<Assembled>,
    device: Device,
}

impl<'a> Looks<'a> {
    fn new(job: &'a EvalJob, sample: &Row, device: Device) -> Result<Self, Error> {
        let described = job.subject.as_ref().map(|folder| folder.join(learn::data::images::PREPROCESSOR));
        let described = described.filter(|file| file.exists());
        let pipeline = &job.manifest.pipeline;
        let version = Sources {
            pipeline,
            labels: &job.manifest.labels,
            base: job.base_model.as_deref(),
            version: job.subject.as_deref(),
            preprocessor: None,
            device,
            precision: pipeline.training.precision,
        };
        let base = Sources { version: None, preprocessor: described.as_deref(), ..version };
        let version = job.subject.is_some().then(|| assemble::assemble_version(version)).transpose()?;
        Ok(Self { job, base: assemble::assemble(base, sample)?, version, device })
    }

    /// `task`: whose head the version answers with. None: it does not answer. `done` is told of rows as they are seen.
    fn at(&self, rows: &[Row], task: Option<&str>, done: &mut dyn FnMut(u64)) -> Result<Sample, Error> {
        let (mut features, mut probabilities) = (Vec::new(), Vec::new());
        for rows in rows.chunks(BATCH) {
            features.extend(self.features(rows)?);
            probabilities.extend(self.probabilities(rows, task)?);
            done(rows.len() as u64);
        }
        let label = |row: &Row| Some(&row.label).filter(|label| !label.is_empty()).cloned();
        let answer = |of: &Vec<f32>| best(of, 1).first().map(|&place| self.job.manifest.labels[place].clone());
        Ok(Sample {
            features: Tensor::from_slice2(&features),
            labels: rows.iter().map(label).collect(),
            losses: rows.iter().zip(&probabilities).map(|(row, of)| self.loss(row, of)).collect(),
            answers: probabilities.iter().map(answer).collect(),
        })
    }

    fn features(&self, rows: &[Row]) -> Result<Vec<Vec<f32>>, Error> {
        let Assembled { net, reader, .. } = &self.base;
        features(net, reader, rows, BATCH, self.device).map_err(|unread| refused(rows, unread))
    }

    /// Empty where nobody answers.
    fn probabilities(&self, rows: &[Row], task: Option<&str>) -> Result<Vec<Vec<f32>>, Error> {
        let (Some(Assembled { net, reader, .. }), Some(task)) = (&self.version, task) else {
            return Ok(vec![Vec::new(); rows.len()]);
        };
        predict(net, reader, rows, Some(task), BATCH, self.device).map_err(|unread| refused(rows, unread))
    }

    /// Nats. An answer of 0 counts as the smallest number that there is.
    fn loss(&self, row: &Row, answer: &[f32]) -> Option<f64> {
        let place = self.job.manifest.labels.iter().position(|label| *label == row.label)?;
        answer.get(place).map(|&probability| -f64::from(probability.max(f32::MIN_POSITIVE)).ln())
    }
}

/// As many as are looked at, in their order.
fn some<T>(rows: Vec<T>, draw: Draw) -> Vec<T> {
    let mut chosen = draw.permutation(rows.len());
    chosen.truncate(ROWS);
    chosen.sort_unstable();
    let mut chosen = chosen.into_iter().peekable();
    rows.into_iter().enumerate().filter(|(at, _)| chosen.next_if_eq(at).is_some()).map(|(_, row)| row).collect()
}

/// Of each chunk but the manifest's own, places of rows that the version remembers; some of them.
fn remembered<'a>(manifest: &'a Manifest, snapshot: Option<&Path>) -> Result<Vec<(&'a ChunkData, Vec<usize>)>, Error> {
    let Some(file) = snapshot else { return Ok(Vec::new()) };
    let refused = |reason: String| Error::Snapshot(reason);
    let text = std::fs::read(file).map_err(|e| refused(e.to_string()))?;
    let snapshot: Snapshot = serde_json::from_slice(&text).map_err(|e| refused(e.to_string()))?;
    let slots = snapshot.slots.iter().map(|slot| (&snapshot.chunks[slot.chunk as usize], slot.row as usize));
    let slots: Vec<_> = slots.filter(|(chunk, _)| **chunk != manifest.chunks[0].id).collect();
    let mut wanted: BTreeMap<&ChunkId, BTreeSet<usize>> = BTreeMap::new();
    for (chunk, row) in some(slots, draw(manifest).named("buffer")) {
        wanted.entry(chunk).or_default().insert(row);
    }
    // One that was erased as a whole is not named any more.
    let data = |chunk: &ChunkId| manifest.snapshot.iter().flat_map(|data| &data.chunks).find(|data| data.id == *chunk);
    Ok(wanted.into_iter().filter_map(|(chunk, rows)| Some((data(chunk)?, rows.into_iter().collect()))).collect())
}

/// The shards that hold rows at these places, ascending, and where within each.
fn within<'a>(shards: &'a [Shard], places: &'a [usize]) -> impl Iterator<Item = (&'a Shard, Vec<usize>)> {
    let starts = shards.iter().scan(0, |end, shard| {
        let start = *end;
        *end += shard.rows as usize;
        Some((shard, start..*end))
    });
    let here = move |(shard, span): (&'a Shard, std::ops::Range<usize>)| {
        let inside = places.iter().filter(|place| span.contains(place)).map(|place| place - span.start);
        (shard, inside.collect::<Vec<_>>())
    };
    starts.map(here).filter(|(_, inside)| !inside.is_empty())
}

/// Those of the rows at these places that are still there.
fn read_rows(job: &EvalJob, shards: &[Shard], places: &[usize]) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for (shard, inside) in within(shards, places) {
        let (file, labels) = fetched(job, shard)?;
        rows.extend(read_shard_rows(file, labels, &inside)?.into_iter().map(|(_, row)| row));
    }
    Ok(rows)
}

fn refused(rows: &[Row], Unreadable { position, reason }: Unreadable) -> Error {
    Error::Unreadable { chunk: rows[position].id.clone(), reason }
}
