//! How a chunk compares with what its pipeline knew. Meant for a child process, like an evaluation.
//!
//! Rows are seen by the base model, which never changes, so that what is found depends on the rows alone. Only the champion's
//! losses, on rows that it has not learnt, tell whether labels mean what they did.

use std::collections::BTreeMap;
use std::path::PathBuf;

use domain::buffer::Snapshot;
use domain::chunk::{Row, Shard};
use domain::draw::Draw;
use domain::id::ChunkId;
use domain::manifest::{ChunkData, Manifest};
use domain::shift::{Against, Shift};
use learn::assemble::{self, Assembled, Sources};
use learn::predict::{Unreadable, best, features, predict};
use learn::shift::{ROWS, Sample, compare};
use serde::{Deserialize, Serialize};
use store::examples::{read_shard, read_shard_rows};
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
    let draw = Draw::new(manifest.pipeline.seed).named("shift").at(manifest.run);
    let chunk = &manifest.chunks[0];
    let fresh = some(whole(&job.model, &chunk.train)?, draw.named("chunk"));
    let Some(first) = fresh.first() else { return Ok(Vec::new()) };
    let looks = Looks::new(&job.model, first, device)?;
    let fresh_rows = looks.at(&fresh, Some(chunk.task.as_str()))?;
    let mut seen = fresh.len() as u64;
    done(seen);
    let mut shifts = Vec::new();
    for Reference { against, rows, task } in references(job, draw)? {
        let reference = looks.at(&rows, task.as_deref())?;
        seen += rows.len() as u64;
        done(seen);
        let tests = compare(&reference, &fresh_rows, draw.named(&against.to_string()));
        shifts.push(Shift { against, tests });
    }
    Ok(shifts)
}

/// What a chunk is compared with.
struct Reference {
    against: Against,
    rows: Vec<Row>,
    /// Whose head the champion answers with. None: it has learnt the rows, and its losses on them say nothing.
    task: Option<String>,
}

fn references(job: &MeasureJob, draw: Draw) -> Result<Vec<Reference>, Error> {
    let rows = remembered(job, draw.named("buffer"))?;
    let mut references = Vec::new();
    if !rows.is_empty() {
        references.push(Reference { against: Against::Buffer, rows, task: None });
    }
    for set in &job.model.manifest.eval_sets {
        let task = set.task.to_string();
        let rows = some(read(&job.model, set)?, draw.named("task").named(&task));
        references.push(Reference { against: Against::Task(set.task.clone()), rows, task: Some(task) });
    }
    Ok(references)
}

/// The base and the champion.
struct Looks<'a> {
    job: &'a EvalJob,
    base: Assembled,
    champion: Option<Assembled>,
    device: Device,
}

impl<'a> Looks<'a> {
    fn new(job: &'a EvalJob, sample: &Row, device: Device) -> Result<Self, Error> {
        let described = job.subject.as_ref().map(|folder| folder.join(learn::data::images::PREPROCESSOR));
        let described = described.filter(|file| file.exists());
        let pipeline = &job.manifest.pipeline;
        let champion = Sources {
            pipeline,
            labels: &job.manifest.labels,
            base: job.base_model.as_deref(),
            version: job.subject.as_deref(),
            preprocessor: None,
            device,
            precision: pipeline.training.precision,
        };
        let base = Sources { version: None, preprocessor: described.as_deref(), ..champion };
        let champion = job.subject.is_some().then(|| assemble::assemble_version(champion)).transpose()?;
        Ok(Self { job, base: assemble::assemble(base, sample)?, champion, device })
    }

    /// `task`: whose head the champion answers with. None: it does not answer.
    fn at(&self, rows: &[Row], task: Option<&str>) -> Result<Sample, Error> {
        let refused = |Unreadable { position, reason }| Error::Unreadable { chunk: rows[position].id.clone(), reason };
        let Assembled { net, reader, .. } = &self.base;
        let features = features(net, reader, rows, BATCH, self.device).map_err(refused)?;
        let probabilities = match (&self.champion, task) {
            (Some(Assembled { net, reader, .. }), Some(task)) => {
                predict(net, reader, rows, Some(task), BATCH, self.device).map_err(refused)?
            }
            _ => vec![Vec::new(); rows.len()],
        };
        let label = |row: &Row| Some(&row.label).filter(|label| !label.is_empty()).cloned();
        let answer = |of: &Vec<f32>| best(of, 1).first().map(|&place| self.job.manifest.labels[place].clone());
        Ok(Sample {
            features: Tensor::from_slice2(&features),
            labels: rows.iter().map(label).collect(),
            losses: rows.iter().zip(&probabilities).map(|(row, of)| self.loss(row, of)).collect(),
            answers: probabilities.iter().map(answer).collect(),
        })
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

fn whole(job: &EvalJob, shards: &[Shard]) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for shard in shards {
        let (file, labels) = fetched(job, shard)?;
        rows.extend(read_shard(file, labels)?.into_iter().map(|(_, row)| row));
    }
    Ok(rows)
}

/// Some of the rows that the version remembers of other chunks.
fn remembered(job: &MeasureJob, draw: Draw) -> Result<Vec<Row>, Error> {
    let Some(file) = &job.snapshot else { return Ok(Vec::new()) };
    let manifest = &job.model.manifest;
    let refused = |reason: String| Error::Snapshot(reason);
    let text = std::fs::read(file).map_err(|e| refused(e.to_string()))?;
    let snapshot: Snapshot = serde_json::from_slice(&text).map_err(|e| refused(e.to_string()))?;
    let own = |chunk: &ChunkId| *chunk == manifest.chunks[0].id;
    let slots = snapshot.slots.iter().map(|slot| (&snapshot.chunks[slot.chunk as usize], slot.row as usize));
    let slots: Vec<_> = slots.filter(|(chunk, _)| !own(chunk)).collect();
    let mut wanted: BTreeMap<&ChunkId, Vec<usize>> = BTreeMap::new();
    for (chunk, row) in some(slots, draw) {
        wanted.entry(chunk).or_default().push(row);
    }
    let mut rows = Vec::new();
    for (chunk, places) in wanted {
        // One that was erased as a whole is not named any more.
        if let Some(data) = data(manifest, chunk) {
            rows.extend(read_rows(&job.model, data, places)?);
        }
    }
    Ok(rows)
}

fn data<'a>(manifest: &'a Manifest, chunk: &ChunkId) -> Option<&'a ChunkData> {
    manifest.snapshot.iter().flat_map(|data| &data.chunks).find(|data| data.id == *chunk)
}

/// Those of a chunk's rows that are still there.
fn read_rows(job: &EvalJob, chunk: &ChunkData, mut places: Vec<usize>) -> Result<Vec<Row>, Error> {
    places.sort_unstable();
    places.dedup();
    let (mut rows, mut start) = (Vec::new(), 0);
    for shard in &chunk.train {
        let end = start + shard.rows as usize;
        let here: Vec<usize> =
            places.iter().filter(|place| (start..end).contains(place)).map(|place| place - start).collect();
        if !here.is_empty() {
            let (file, labels) = fetched(job, shard)?;
            rows.extend(read_shard_rows(file, labels, &here)?.into_iter().map(|(_, row)| row));
        }
        start = end;
    }
    Ok(rows)
}
