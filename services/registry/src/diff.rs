//! How two versions of a pipeline differ. Pure: what their snapshots hold has been read.

use std::collections::{BTreeMap, BTreeSet};

use domain::buffer::Snapshot;
use domain::id::{ChunkId, TaskName};
use domain::report::{Score, find};
use domain::state::PipelineState;
use domain::version::{AdapterVersion, absorbed, common_ancestor, lineage};
use perennial_proto::{convert, v1};
use serde_json::Value;

/// Everything but what memory holds.
pub fn diff(current: &PipelineState, version: &AdapterVersion, other: &AdapterVersion) -> v1::DiffVersionsResponse {
    let missing = |of: &AdapterVersion, from: &AdapterVersion| {
        of.labels.iter().filter(|label| !from.labels.contains(label)).cloned().collect()
    };
    v1::DiffVersionsResponse {
        common_ancestor: common_ancestor(&current.versions, version.number, other.number).map_or(0, |common| common.0),
        chunks: chunks(current, version, other),
        labels_added: missing(other, version),
        labels_missing: missing(version, other),
        settings: settings(&pipeline(current, version), &pipeline(current, other)),
        tasks: tasks(version, other),
        same_weights: version.weights_sha256 == other.weights_sha256,
        version: Some(convert::adapter_version(current, version)),
        other: Some(convert::adapter_version(current, other)),
        memory: Vec::new(),
        memory_unknown: String::new(),
    }
}

/// Chunks that one lineage absorbed and the other did not, in order of arrival.
fn chunks(current: &PipelineState, version: &AdapterVersion, other: &AdapterVersion) -> Vec<v1::ChunkDiff> {
    let of = |version: &AdapterVersion| absorbed(&current.versions, &lineage(&current.versions, Some(version.number)));
    let (mine, others) = (of(version), of(other));
    let apart: BTreeSet<&ChunkId> = mine.symmetric_difference(&others).collect();
    let differing = current.chunks_in_order().filter(|chunk| apart.contains(&chunk.id));
    let one = |chunk: &domain::chunk::Chunk| v1::ChunkDiff {
        chunk: chunk.id.to_string(),
        task: chunk.task.to_string(),
        train_rows: chunk.train_rows(),
        held_out_rows: chunk.held_out_rows(),
        is_others: others.contains(&chunk.id),
    };
    differing.map(one).collect()
}

/// The settings that a version's run went by, as its pipeline file would say them.
fn pipeline(current: &PipelineState, version: &AdapterVersion) -> Value {
    let run = current.runs.get(&version.run);
    run.map_or(Value::Null, |run| serde_json::to_value(&run.manifest.pipeline).expect("plain JSON"))
}

/// Keys whose values differ.
fn settings(version: &Value, other: &Value) -> Vec<v1::SettingDiff> {
    let (mut mine, mut others) = (BTreeMap::new(), BTreeMap::new());
    flatten("", version, &mut mine);
    flatten("", other, &mut others);
    let keys: BTreeSet<&String> = mine.keys().chain(others.keys()).collect();
    let said = |of: &BTreeMap<String, &Value>, key: &String| of.get(key).map(ToString::to_string).unwrap_or_default();
    let both = keys.into_iter().map(|key| (key, said(&mine, key), said(&others, key)));
    both.filter(|(_, version, other)| version != other)
        .map(|(key, version_json, other_json)| v1::SettingDiff { key: key.clone(), version_json, other_json })
        .collect()
}

/// Leaves under dotted keys. A list is one value; none is not set.
fn flatten<'a>(key: &str, value: &'a Value, leaves: &mut BTreeMap<String, &'a Value>) {
    match value {
        Value::Null => {}
        Value::Object(fields) => {
            let dot = if key.is_empty() { "" } else { "." };
            fields.iter().for_each(|(name, value)| flatten(&format!("{key}{dot}{name}"), value, leaves));
        }
        leaf => drop(leaves.insert(key.to_owned(), leaf)),
    }
}

/// Accuracies that both versions' reports know, and what flipped where they answered the same items.
fn tasks(version: &AdapterVersion, other: &AdapterVersion) -> Vec<v1::TaskDiff> {
    let (mine, others) = (&version.report.candidate_scores, &other.report.candidate_scores);
    let mut names: Vec<&TaskName> = Vec::new();
    for score in mine.iter().chain(others) {
        if !names.contains(&&score.task) {
            names.push(&score.task);
        }
    }
    let one = |task: &TaskName| {
        let (own, others) = (find(mine, task), find(others, task));
        v1::TaskDiff {
            task: task.to_string(),
            accuracy: own.map(Score::accuracy),
            other_accuracy: others.map(Score::accuracy),
            flips: others.and_then(|score| score.flips(mine)).map(|counts| convert::flips(version.number, counts)),
        }
    };
    names.into_iter().map(one).collect()
}

/// Rows that both snapshots remember and that only one does, by task.
pub fn memory(current: &PipelineState, version: &Snapshot, other: &Snapshot) -> Vec<v1::MemoryDiff> {
    let rows = |snapshot: &Snapshot| -> BTreeSet<(ChunkId, u32)> {
        snapshot.slots.iter().map(|slot| (snapshot.chunks[slot.chunk as usize].clone(), slot.row)).collect()
    };
    let (mine, others) = (rows(version), rows(other));
    let mut tasks: BTreeMap<String, v1::MemoryDiff> = BTreeMap::new();
    for row in mine.union(&others) {
        let task = current.chunks.get(&row.0).map_or_else(String::new, |chunk| chunk.task.to_string());
        let counts = tasks.entry(task.clone()).or_insert_with(|| v1::MemoryDiff { task, ..Default::default() });
        match (mine.contains(row), others.contains(row)) {
            (true, true) => counts.both += 1,
            (true, false) => counts.only_version += 1,
            _ => counts.only_other += 1,
        }
    }
    tasks.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_that_differ_are_named_by_their_key() {
        let one = json!({"method": "er", "training": {"epochs": 1, "replay": null}, "labels": ["a"]});
        let two = json!({"method": "er", "training": {"epochs": 2}, "labels": ["a", "b"], "gate": {"mode": "report"}});
        let said: Vec<(String, String, String)> =
            settings(&one, &two).into_iter().map(|s| (s.key, s.version_json, s.other_json)).collect();
        let wanted =
            [("gate.mode", "", r#""report""#), ("labels", r#"["a"]"#, r#"["a","b"]"#), ("training.epochs", "1", "2")];
        assert_eq!(said, wanted.map(|(key, one, two)| (key.to_owned(), one.to_owned(), two.to_owned())));
        assert!(settings(&one, &one).is_empty());
    }
}
