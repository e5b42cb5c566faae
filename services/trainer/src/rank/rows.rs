//! The rows of a run: its chunks', and those that its rehearsal buffer refers to.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use domain::buffer::Snapshot;
use domain::chunk::{Row, Shard};
use domain::draw::Draw;
use domain::evalset::EvalSet;
use domain::held_out::HeldOut;
use domain::id::ChunkId;
use domain::manifest::{ChunkData, Manifest};
use domain::pipeline::Contamination;
use learn::data::Reader;
use learn::method::{self, Reads};
use learn::{Pool, Remembered};
use tch::Device;

use super::Error;
use crate::job::TrainJob;

/// Undecoded rows.
#[derive(Default)]
pub struct Rows {
    chunks: Vec<(ChunkId, usize)>,
    fresh: Vec<Row>,
    remembered: Vec<Remembered>,
    memory: Vec<Row>,
    /// Positions of the chunks' rows that do not train, ascending.
    left_out: Vec<usize>,
}

impl Rows {
    /// Any one of them.
    pub fn sample(&self) -> Result<&Row, Error> {
        let first = self.fresh.iter().chain(&self.memory).next();
        Ok(first.ok_or(learn::Error::NoRows { purpose: "train on" })?)
    }

    /// Keeps held-out items from training, and memory from replaying them. How many there are.
    pub fn leave_out(&mut self, held_out: &HeldOut, snapshot: &mut Snapshot) -> u64 {
        let mut gone: HashSet<(ChunkId, u32)> = HashSet::new();
        let mut start = 0;
        for (chunk, count) in &self.chunks {
            let found = (0..*count).filter(|row| held_out.has(&self.fresh[start + row].payload)).collect::<Vec<_>>();
            self.left_out.extend(found.iter().map(|row| start + row));
            gone.extend(found.into_iter().map(|row| (chunk.clone(), row as u32)));
            start += count;
        }
        let mut memory = std::mem::take(&mut self.memory).into_iter();
        for part in &mut self.remembered {
            part.rows.retain(|row| {
                let remembered = memory.next().expect("a row for each place");
                let keep = !held_out.has(&remembered.payload);
                if keep {
                    self.memory.push(remembered);
                } else {
                    gone.insert((part.chunk.clone(), *row));
                }
                keep
            });
        }
        let (slots, chunks) = (snapshot.slots.len(), &snapshot.chunks);
        snapshot.slots.retain(|slot| !gone.contains(&(chunks[slot.chunk as usize].clone(), slot.row)));
        (self.left_out.len() + slots - snapshot.slots.len()) as u64
    }

    /// Whether nothing is left to train on.
    pub fn all_left_out(&self) -> bool {
        !self.left_out.is_empty() && self.left_out.len() == self.fresh.len()
    }
}

pub fn read(job: &TrainJob, snapshot: &Snapshot) -> Result<Rows, Error> {
    let mut rows = Rows::default();
    for chunk in &job.manifest.chunks {
        let before = rows.fresh.len();
        for shard in &chunk.train {
            rows.fresh.extend(store::examples::read_shard(fetched(job, shard)?)?);
        }
        rows.chunks.push((chunk.id.clone(), rows.fresh.len() - before));
    }
    let phases = method::phases(job.manifest.pipeline.method);
    if phases.iter().all(|phase| phase.reads == Reads::Chunk) && !snapshot.policy.selects() {
        return Ok(rows);
    }
    for (chunk, wanted) in wanted(snapshot) {
        // A chunk that trains again is already here.
        if job.manifest.chunks.iter().any(|fresh| fresh.id == *chunk) {
            continue;
        }
        let known = job.manifest.snapshot.iter().flat_map(|data| &data.chunks).find(|data| data.id == *chunk);
        let data = known.ok_or_else(|| Error::NoChunk(chunk.clone()))?;
        rows.memory.extend(read_wanted(job, data, &wanted)?);
        rows.remembered.push(Remembered { chunk: chunk.clone(), rows: wanted.into_iter().collect() });
    }
    Ok(rows)
}

/// The rows that slots refer to, chunk by chunk.
fn wanted(snapshot: &Snapshot) -> BTreeMap<&ChunkId, BTreeSet<u32>> {
    let mut wanted: BTreeMap<&ChunkId, BTreeSet<u32>> = BTreeMap::new();
    for slot in &snapshot.slots {
        wanted.entry(&snapshot.chunks[slot.chunk as usize]).or_default().insert(slot.row);
    }
    wanted
}

/// Those rows of a chunk, in order. Shards that hold none are not opened.
fn read_wanted(job: &TrainJob, chunk: &ChunkData, wanted: &BTreeSet<u32>) -> Result<Vec<Row>, Error> {
    let (mut found, mut start) = (Vec::new(), 0u32);
    for shard in &chunk.train {
        let end = start + shard.rows as u32;
        let here: Vec<usize> = wanted.range(start..end).map(|row| (row - start) as usize).collect();
        if !here.is_empty() {
            found.extend(store::examples::read_shard_rows(fetched(job, shard)?, &here)?);
        }
        start = end;
    }
    match wanted.range(start..).next() {
        Some(&row) => Err(Error::NoRow { chunk: chunk.id.clone(), row, rows: u64::from(start) }),
        None => Ok(found),
    }
}

/// The items of every EvalSet, as far as rows are compared with them.
pub fn all_held_out(job: &TrainJob) -> Result<HeldOut, Error> {
    let check = job.manifest.pipeline.evaluation.contamination;
    let mut items = Vec::new();
    for set in job.manifest.eval_sets.iter().filter(|_| check != Contamination::Off) {
        items.extend(held_out(job, set)?.into_iter().map(|row| row.payload));
    }
    Ok(HeldOut::new(&items, check))
}

/// The rows that each part of an EvalSet names, in order.
pub fn held_out(job: &TrainJob, set: &EvalSet) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for part in &set.parts {
        let mut found = Vec::new();
        for shard in &part.shards {
            found.extend(store::examples::read_shard(fetched(job, shard)?)?);
        }
        if (found.len() as u64) < part.rows {
            let (task, found) = (set.task.clone(), found.len() as u64);
            return Err(Error::TooFew { chunk: part.chunk.clone(), task, rows: part.rows, found });
        }
        rows.extend(found.into_iter().take(part.rows as usize));
    }
    Ok(rows)
}

fn fetched<'a>(job: &'a TrainJob, shard: &Shard) -> Result<&'a Path, Error> {
    let path = job.shards.get(&shard.object.sha256);
    path.map(PathBuf::as_path).ok_or_else(|| Error::NoShard(shard.object.sha256.clone()))
}

pub fn pool(manifest: &Manifest, rows: Rows, reader: &Reader, device: Device) -> Result<Pool, Error> {
    let labels = &manifest.labels;
    let fresh = reader.decode(&rows.fresh, "the run's chunks", labels)?;
    let memory = match rows.memory.is_empty() {
        true => None,
        false => Some(reader.decode(&rows.memory, "the rehearsal buffer", labels)?),
    };
    let aside = Draw::new(manifest.pipeline.seed).named("validation").at(manifest.update);
    let share = manifest.pipeline.training.validation.fraction.get();
    Ok(Pool::new(rows.chunks, fresh, rows.remembered, memory, device).leave_out(&rows.left_out).set_aside(share, aside))
}
