//! The rows of a run: its chunks', and those that its rehearsal buffer refers to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use domain::buffer::Snapshot;
use domain::chunk::{Row, Shard};
use domain::draw::Draw;
use domain::evalset::EvalSet;
use domain::id::ChunkId;
use domain::manifest::{ChunkData, Manifest};
use learn::data::Reader;
use learn::method::{self, Reads};
use learn::{Pool, Remembered};
use tch::Device;

use super::Error;
use crate::job::TrainJob;

/// Undecoded rows.
pub struct Rows {
    chunks: Vec<(ChunkId, usize)>,
    fresh: Vec<Row>,
    remembered: Vec<Remembered>,
    memory: Vec<Row>,
}

impl Rows {
    /// Any one of them.
    pub fn sample(&self) -> Result<&Row, Error> {
        let first = self.fresh.iter().chain(&self.memory).next();
        Ok(first.ok_or(learn::Error::NoRows { purpose: "train on" })?)
    }
}

pub fn read(job: &TrainJob, snapshot: &Snapshot) -> Result<Rows, Error> {
    let mut rows = Rows { chunks: Vec::new(), fresh: Vec::new(), remembered: Vec::new(), memory: Vec::new() };
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
    Ok(Pool::new(rows.chunks, fresh, rows.remembered, memory, device).set_aside(share, aside))
}
