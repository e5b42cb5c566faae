//! Finds rows by their ids and writes down their labels, beside the shards that hold them.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::chunk::{Chunk, Shard};
use domain::id::PipelineId;
use domain::labelled::Labelled;
use object_store::ObjectStore;
use store::examples::{LateLabels, scan_shard};
use store::{layout, objects};

use crate::Error;

/// A chunk that holds some of the rows.
pub struct Amended {
    /// As it was read.
    pub before: Chunk,
    /// None: every row had its label.
    pub labelled: Option<Labelled>,
    /// Rows that had none.
    pub filled: u64,
    /// Rows that had another.
    pub changed: u64,
    pub unchanged: u64,
}

/// Takes the rows that the chunk holds out of `wanted`. None: it holds none of them.
pub async fn amend(
    store: &Arc<dyn ObjectStore>,
    pipeline: &PipelineId,
    chunk: Chunk,
    wanted: &mut BTreeMap<String, String>,
) -> Result<Option<Amended>, Error> {
    let mut found = Found::default();
    let folder = layout::chunk(pipeline, &chunk.id);
    let mut sides = [chunk.train.clone(), chunk.held_out.clone()];
    let mut labels = chunk.labels.clone();
    for (side, counts) in sides.iter_mut().zip([Some(&mut labels), None]) {
        let mut changes = Vec::new();
        for shard in side.iter_mut() {
            changes.extend(relabel(store, &folder, shard, wanted, &mut found).await?);
        }
        if let Some(counts) = counts {
            changes.into_iter().for_each(|change| count(counts, change));
        }
    }
    if found.rows.is_empty() {
        return Ok(None);
    }
    found.rows.iter().for_each(|row| drop(wanted.remove(row)));
    let [train, held_out] = sides;
    let labelled =
        Labelled { chunk: chunk.id.clone(), train, held_out, labels, new_labels: found.labels, changed: found.changed };
    let Found { filled, changed, unchanged, .. } = found;
    Ok(Some(Amended {
        before: chunk,
        labelled: (filled + changed > 0).then_some(labelled),
        filled,
        changed,
        unchanged,
    }))
}

#[derive(Default)]
struct Found {
    rows: Vec<String>,
    /// Names that were given, in order of first appearance.
    labels: Vec<String>,
    filled: u64,
    changed: u64,
    unchanged: u64,
}

/// The label that a row had, empty for none, and the one that it has now.
type Change = (String, String);

async fn relabel(
    store: &Arc<dyn ObjectStore>,
    folder: &str,
    shard: &mut Shard,
    wanted: &BTreeMap<String, String>,
    found: &mut Found,
) -> Result<Vec<Change>, Error> {
    let ids = scan_shard(store.clone(), &shard.object, "row_id").await?;
    let known = |(place, id): (usize, Option<String>)| {
        let (id, label) = wanted.get_key_value(id.as_deref()?)?;
        Some((place, id.clone(), label.clone()))
    };
    let hits: Vec<_> = ids.into_iter().enumerate().filter_map(known).collect();
    if hits.is_empty() {
        return Ok(Vec::new());
    }
    let own = scan_shard(store.clone(), &shard.object, "label").await?;
    let mut late = match &shard.labels {
        Some(object) => parse(&objects::get(&**store, object).await?, &object.path)?,
        None => LateLabels::new(),
    };
    let mut changes = Vec::new();
    for (place, id, label) in hits {
        let before = late.get(&(place as u32)).or(own[place].as_ref()).cloned().unwrap_or_default();
        found.rows.push(id);
        if before == label {
            found.unchanged += 1;
            continue;
        }
        if before.is_empty() {
            (found.filled, shard.unlabelled) = (found.filled + 1, shard.unlabelled - 1);
        } else {
            found.changed += 1;
        }
        if !found.labels.contains(&label) {
            found.labels.push(label.clone());
        }
        late.insert(place as u32, label.clone());
        changes.push((before, label));
    }
    if !changes.is_empty() {
        let text = serde_json::to_vec(&late).expect("numbers and texts");
        // Of this shard alone: what an erasure removes must not be what a later label writes again.
        let name = objects::sha256(&[shard.object.sha256.as_bytes(), &text].concat());
        let path = format!("{folder}/labels-{}.json", &name[..32]);
        shard.labels = Some(objects::put(&**store, &path, text.into()).await?);
    }
    Ok(changes)
}

fn parse(text: &[u8], path: &str) -> Result<LateLabels, Error> {
    let wrong = |e: serde_json::Error| store::Error::Shard { path: path.to_owned(), reason: e.to_string() };
    Ok(serde_json::from_slice(text).map_err(wrong)?)
}

fn count(labels: &mut BTreeMap<String, u64>, (before, now): Change) {
    if let Some(rows) = labels.get_mut(&before) {
        *rows -= 1;
    }
    labels.retain(|_, rows| *rows > 0);
    *labels.entry(now).or_default() += 1;
}
