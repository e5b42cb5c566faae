//! A chunk's shards without some of their rows, under new names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::chunk::{Chunk, ObjectRef, Shard};
use domain::erasure::ErasedChunk;
use object_store::ObjectStore;
use store::examples::{LateLabels, erase_rows, read_shard_bytes, scan_shard};
use store::objects;

use super::Target;
use crate::error::Error;

pub struct Rewritten {
    pub chunk: ErasedChunk,
    /// SHA-256 of the objects that held the rows.
    pub copies: Vec<String>,
}

impl Rewritten {
    /// Whether the object is one that the chunk goes on with.
    pub fn keeps(&self, path: &str) -> bool {
        let shards = self.chunk.train.iter().chain(&self.chunk.held_out).flat_map(Shard::objects);
        let labels = self.chunk.trained_under.iter().flatten().flatten();
        shards.chain(labels).any(|object| object.path == path)
    }
}

/// None: the chunk holds none of the rows. One that has no rows still holds what was pushed, which goes with the chunk.
pub async fn rewrite(
    store: &Arc<dyn ObjectStore>,
    folder: &str,
    chunk: &Chunk,
    target: &Target,
) -> Result<Option<Rewritten>, Error> {
    let (mut copies, mut train_rows, mut held_out_rows) = (Vec::new(), Vec::new(), 0);
    let (mut labels, mut trained_under) = (chunk.labels.clone(), chunk.trained_under.clone());
    let mut sides = [("train", chunk.train.clone()), ("held_out", chunk.held_out.clone())];
    for (split, shards) in &mut sides {
        let mut start = 0;
        for (number, shard) in shards.iter_mut().enumerate() {
            let rows = shard.rows as u32;
            let shred = Shred { store, folder, chunk, split };
            if let Some(gone) = shred.shard(shard, target, &mut copies).await? {
                if *split == "train" {
                    if let Some(under) = trained_under.as_mut().and_then(|under| under.get_mut(number)) {
                        copies.extend(under.iter().map(|object| object.sha256.clone()));
                        *under = shred.labels(under, &gone).await?;
                    }
                    gone.values().for_each(|label| uncount(&mut labels, label));
                    train_rows.extend(gone.keys().map(|place| start + place));
                } else {
                    held_out_rows += gone.len() as u64;
                }
            }
            start += rows;
        }
    }
    let all = !matches!(target, Target::Subject(_));
    let nothing_gone = train_rows.is_empty() && held_out_rows == 0;
    if nothing_gone && (!all || chunk.erased) {
        return Ok(None);
    }
    let [(_, train), (_, held_out)] = sides;
    let id = chunk.id.clone();
    let chunk = ErasedChunk { chunk: id, train, held_out, trained_under, labels, train_rows, held_out_rows };
    Ok(Some(Rewritten { chunk, copies }))
}

fn uncount(labels: &mut BTreeMap<String, u64>, label: &str) {
    if let Some(rows) = labels.get_mut(label) {
        *rows = rows.saturating_sub(1);
    }
    labels.retain(|_, rows| *rows > 0);
}

struct Shred<'a> {
    store: &'a Arc<dyn ObjectStore>,
    folder: &'a str,
    chunk: &'a Chunk,
    split: &'a str,
}

impl Shred<'_> {
    /// The labels of the rows that went, by place. None: the shard holds none of them.
    async fn shard(
        &self,
        shard: &mut Shard,
        target: &Target,
        copies: &mut Vec<String>,
    ) -> Result<Option<BTreeMap<u32, String>>, Error> {
        if let Target::Subject(name) = target {
            // Most shards hold nobody's rows, or others': one column says so.
            let subjects = scan_shard(self.store.clone(), &shard.object, "subject").await?;
            if !subjects.iter().any(|subject| subject.as_ref() == Some(name)) {
                return Ok(None);
            }
        }
        let bytes = objects::get(&**self.store, &shard.object).await?;
        let late = self.late_labels(shard.labels.as_ref()).await?;
        let mut gone = BTreeMap::new();
        for (place, row) in read_shard_bytes(bytes.clone())? {
            let goes = match target {
                Target::Subject(name) => row.subject.as_ref() == Some(name),
                _ => true,
            };
            if goes {
                gone.insert(place, late.get(&place).cloned().unwrap_or(row.label));
            }
        }
        if gone.is_empty() {
            return Ok(None);
        }
        copies.extend(shard.objects().map(|object| object.sha256.clone()));
        let places: BTreeSet<u32> = gone.keys().copied().collect();
        let left = erase_rows(bytes, &places, &self.chunk.task, self.split)?;
        shard.object = self.put(left, "parquet").await?;
        shard.labels = self.labels(&shard.labels, &gone).await?;
        shard.erased += gone.len() as u64;
        shard.unlabelled -= gone.values().filter(|label| label.is_empty()).count() as u64;
        Ok(Some(gone))
    }

    /// Late labels without those of the rows that went.
    async fn labels(
        &self,
        labels: &Option<ObjectRef>,
        gone: &BTreeMap<u32, String>,
    ) -> Result<Option<ObjectRef>, Error> {
        let mut late = self.late_labels(labels.as_ref()).await?;
        late.retain(|place, _| !gone.contains_key(place));
        match late.is_empty() {
            true => Ok(None),
            false => Ok(Some(self.put(serde_json::to_vec(&late).expect("numbers and texts"), "json").await?)),
        }
    }

    async fn late_labels(&self, labels: Option<&ObjectRef>) -> Result<LateLabels, Error> {
        let Some(object) = labels else { return Ok(LateLabels::new()) };
        let text = objects::get(&**self.store, object).await?;
        let wrong = |e: serde_json::Error| store::Error::Shard { path: object.path.clone(), reason: e.to_string() };
        Ok(serde_json::from_slice(&text).map_err(wrong)?)
    }

    /// Named by its content, as everything of a chunk is.
    async fn put(&self, bytes: Vec<u8>, ending: &str) -> Result<ObjectRef, Error> {
        let name = &objects::sha256(&bytes)[..32];
        let path = format!("{}/erased-{name}.{ending}", self.folder);
        Ok(objects::put(&**self.store, &path, bytes.into()).await?)
    }
}
