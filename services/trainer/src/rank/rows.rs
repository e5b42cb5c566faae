//! The rows of a run: its chunks', and those that its rehearsal buffer refers to.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use domain::buffer::Snapshot;
use domain::chunk::{Row, Shard};
use domain::draw::Draw;
use domain::evalset::EvalSet;
use domain::held_out::HeldOut;
use domain::id::ChunkId;
use domain::manifest::{ChunkData, LateRows, Manifest};
use domain::pipeline::Contamination;
use learn::data::Reader;
use learn::method::{self, Reads};
use learn::{Part, Pool};
use store::examples::{Placed, read_shard, read_shard_rows};
use tch::Device;

use super::Error;
use crate::job::TrainJob;

/// Undecoded rows of some chunks, and where each stands.
#[derive(Default)]
struct Read {
    parts: Vec<Part>,
    rows: Vec<Row>,
}

impl Read {
    fn add(&mut self, chunk: &ChunkId, found: Vec<Placed>) {
        let (places, rows): (Vec<u32>, Vec<Row>) = found.into_iter().unzip();
        self.parts.push(Part { chunk: chunk.clone(), rows: places });
        self.rows.extend(rows);
    }

    fn iter(&self) -> impl Iterator<Item = ((&ChunkId, u32), &Row)> {
        let places = self.parts.iter().flat_map(|part| part.rows.iter().map(move |row| (&part.chunk, *row)));
        places.zip(&self.rows)
    }

    /// Drops the other rows; how many those were.
    fn retain(&mut self, keep: impl Fn(&Row) -> bool) -> usize {
        let before = self.rows.len();
        let mut kept = self.rows.iter().map(&keep).collect::<Vec<_>>().into_iter();
        for part in &mut self.parts {
            part.rows.retain(|_| kept.next().expect("a row for each place"));
        }
        self.rows.retain(keep);
        before - self.rows.len()
    }
}

/// What an update is made of, undecoded.
#[derive(Default)]
pub struct Rows {
    fresh: Read,
    memory: Read,
    /// Chunks of which every row there is is among the fresh ones.
    whole: HashSet<ChunkId>,
    /// Whether the rows of all other slots were read.
    remembers: bool,
}

impl Rows {
    /// Any one of them.
    pub fn sample(&self) -> Result<&Row, Error> {
        let first = self.fresh.rows.iter().chain(&self.memory.rows).next();
        Ok(first.ok_or(learn::Error::NoRows { purpose: "train on" })?)
    }

    /// Slots of rows that are gone go, and the others have the labels that their rows have by now.
    pub fn settle(&self, snapshot: &mut Snapshot, labels: &[String]) {
        let numbers: HashMap<&str, u32> = labels.iter().map(String::as_str).zip(0..).collect();
        let places = self.fresh.iter().chain(self.memory.iter());
        let known: HashMap<(&ChunkId, u32), u32> =
            places.filter_map(|(place, row)| Some((place, *numbers.get(row.label.as_str())?))).collect();
        let chunks = &snapshot.chunks;
        snapshot.slots.retain_mut(|slot| {
            let chunk = &chunks[slot.chunk as usize];
            let label = known.get(&(chunk, slot.row));
            slot.label = label.copied().unwrap_or(slot.label);
            label.is_some() || !(self.remembers || self.whole.contains(chunk))
        });
    }

    /// Keeps held-out items from training, and memory from replaying them. How many rows and slots that takes.
    pub fn leave_out(&mut self, held_out: &HeldOut, snapshot: &mut Snapshot) -> u64 {
        let gone: HashSet<(ChunkId, u32)> = {
            let all = self.fresh.iter().chain(self.memory.iter());
            let held = all.filter(|(_, row)| held_out.has(&row.payload));
            held.map(|((chunk, row), _)| (chunk.clone(), row)).collect()
        };
        if gone.is_empty() {
            return 0;
        }
        let rows = self.fresh.retain(|row| !held_out.has(&row.payload));
        self.memory.retain(|row| !held_out.has(&row.payload));
        let (slots, chunks) = (snapshot.slots.len(), &snapshot.chunks);
        snapshot.slots.retain(|slot| !gone.contains(&(chunks[slot.chunk as usize].clone(), slot.row)));
        (rows + slots - snapshot.slots.len()) as u64
    }

    /// Whether no row of a chunk is left to train on.
    pub fn is_empty(&self) -> bool {
        self.fresh.rows.is_empty()
    }
}

pub fn read(job: &TrainJob, snapshot: &Snapshot) -> Result<Rows, Error> {
    let mut rows = Rows::default();
    for chunk in &job.manifest.chunks {
        rows.fresh.add(&chunk.id, labelled(whole(job, &chunk.train)?));
        rows.whole.insert(chunk.id.clone());
    }
    for late in &job.manifest.late {
        rows.fresh.add(&late.data.id, came_late(job, late)?);
    }
    let phases = method::phases(job.manifest.pipeline.method);
    if phases.iter().all(|phase| phase.reads == Reads::Chunk) && !snapshot.policy.selects() {
        return Ok(rows);
    }
    rows.remembers = true;
    for (chunk, wanted) in wanted(snapshot) {
        // A chunk that trains again is already here.
        if rows.whole.contains(chunk) {
            continue;
        }
        let known = job.manifest.snapshot.iter().flat_map(|data| &data.chunks).find(|data| data.id == *chunk);
        let data = known.ok_or_else(|| Error::NoChunk(chunk.clone()))?;
        rows.memory.add(chunk, labelled(read_wanted(job, data, &wanted)?));
    }
    Ok(rows)
}

/// A row without a label teaches nothing.
fn labelled(mut rows: Vec<Placed>) -> Vec<Placed> {
    rows.retain(|(_, row)| !row.label.is_empty());
    rows
}

/// Rows that have a label now and had none when their chunk trained.
fn came_late(job: &TrainJob, late: &LateRows) -> Result<Vec<Placed>, Error> {
    let shards = late.data.train.iter().zip(&late.before);
    let then: Vec<Shard> = shards.map(|(now, labels)| Shard { labels: labels.clone(), ..now.clone() }).collect();
    let known: HashSet<u32> = labelled(whole(job, &then)?).into_iter().map(|(place, _)| place).collect();
    let mut now = labelled(whole(job, &late.data.train)?);
    now.retain(|(place, _)| !known.contains(place));
    Ok(now)
}

/// All rows of some shards that follow one another, each with its place among them.
fn whole(job: &TrainJob, shards: &[Shard]) -> Result<Vec<Placed>, Error> {
    let (mut rows, mut start) = (Vec::new(), 0);
    for shard in shards {
        let (path, labels) = fetched(job, shard)?;
        rows.extend(read_shard(path, labels)?.into_iter().map(|(place, row)| (start + place, row)));
        start += shard.rows as u32;
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
fn read_wanted(job: &TrainJob, chunk: &ChunkData, wanted: &BTreeSet<u32>) -> Result<Vec<Placed>, Error> {
    let (mut found, mut start) = (Vec::new(), 0u32);
    for shard in &chunk.train {
        let end = start + shard.rows as u32;
        let here: Vec<usize> = wanted.range(start..end).map(|row| (row - start) as usize).collect();
        if !here.is_empty() {
            let (path, labels) = fetched(job, shard)?;
            let rows = read_shard_rows(path, labels, &here)?;
            found.extend(rows.into_iter().map(|(place, row)| (start + place, row)));
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
        let found = labelled(whole(job, &part.shards)?);
        if (found.len() as u64) < part.rows {
            let (task, found) = (set.task.clone(), found.len() as u64);
            return Err(Error::TooFew { chunk: part.chunk.clone(), task, rows: part.rows, found });
        }
        rows.extend(found.into_iter().take(part.rows as usize).map(|(_, row)| row));
    }
    Ok(rows)
}

/// The shard's file, and that of its late labels.
fn fetched<'a>(job: &'a TrainJob, shard: &Shard) -> Result<(&'a Path, Option<&'a Path>), Error> {
    let file = |sha256: &String| {
        let path = job.shards.get(sha256);
        path.map(PathBuf::as_path).ok_or_else(|| Error::NoShard(sha256.clone()))
    };
    Ok((file(&shard.object.sha256)?, shard.labels.as_ref().map(|labels| file(&labels.sha256)).transpose()?))
}

pub fn pool(manifest: &Manifest, rows: Rows, reader: &Reader, device: Device) -> Result<Pool, Error> {
    let (labels, Rows { fresh, memory, .. }) = (&manifest.labels, rows);
    let decoded = reader.decode(&fresh.rows, "the run's chunks", labels)?;
    let remembered = match memory.rows.is_empty() {
        true => None,
        false => Some(reader.decode(&memory.rows, "the rehearsal buffer", labels)?),
    };
    let aside = Draw::new(manifest.pipeline.seed).named("validation").at(manifest.update);
    let share = manifest.pipeline.training.validation.fraction.get();
    Ok(Pool::new(fresh.parts, decoded, memory.parts, remembered, device).set_aside(share, aside))
}
