//! Objects below a watched prefix.

use domain::chunk::ChunkState;
use serde_json::{Value, json};

use crate::harness::{Harness, header, jsonl, many};

async fn watching() -> Harness {
    let harness = Harness::start(json!({})).await;
    std::fs::create_dir_all(harness.root.path().join("in/june")).unwrap();
    harness.apply(json!({"sources": [source(&harness)]})).await;
    harness
}

fn source(harness: &Harness) -> Value {
    json!({"uri": format!("file://{}/in/", harness.root.path().display()), "task": "june", "split": "train"})
}

fn write(harness: &Harness, name: &str, bytes: &[u8]) {
    std::fs::write(harness.root.path().join("in").join(name), bytes).unwrap();
}

/// Rows that train, by chunk in order of arrival.
fn taken(harness: &Harness) -> Vec<u64> {
    harness.state(|state| state.chunks_in_order().map(domain::chunk::Chunk::train_rows).collect())
}

#[tokio::test]
async fn an_object_is_taken_once_it_has_stopped_changing_and_once_only() {
    let harness = watching().await;
    let mut watcher = harness.watcher();
    write(&harness, "june/a.jsonl", &many(3));
    watcher.round().await;
    write(&harness, "june/a.jsonl", &many(5));
    watcher.round().await;
    assert!(taken(&harness).is_empty());
    watcher.round().await;
    watcher.round().await;
    assert_eq!(taken(&harness), [5]);
    harness.state(|state| {
        let chunk = state.chunks.values().next().unwrap();
        let source = chunk.source.as_ref().unwrap();
        assert!(chunk.task.as_str() == "june" && source.uri.ends_with("/in/june/a.jsonl"), "{source:?}");
    });

    // Another content under the same name is another chunk, and so it is for a process that has just started.
    write(&harness, "june/a.jsonl", &many(7));
    let mut again = harness.watcher();
    for _ in 0..3 {
        again.round().await;
    }
    assert_eq!(taken(&harness), [5, 7]);
}

#[tokio::test]
async fn what_cannot_be_read_waits_in_quarantine_and_marks_are_passed_over() {
    let harness = watching().await;
    let mut watcher = harness.watcher();
    for (name, bytes) in [("_SUCCESS", &b"x"[..]), (".part", b"x"), ("empty.csv", b""), ("notes.doc", b"no rows")] {
        write(&harness, name, bytes);
    }
    for _ in 0..3 {
        watcher.round().await;
    }
    harness.state(|state| {
        let chunks: Vec<_> = state.chunks.values().collect();
        let [chunk] = chunks[..] else { panic!("{chunks:?}") };
        let ChunkState::Quarantined { reason } = &chunk.state else { panic!("{chunk:?}") };
        assert!(reason.contains("notes.doc") && reason.contains("no format that is read here"), "{reason}");
    });
}

#[tokio::test]
async fn two_that_watch_and_a_push_of_the_same_rows_make_one_chunk() {
    let harness = watching().await;
    let (mut one, mut two) = (harness.watcher(), harness.watcher());
    write(&harness, "b.jsonl", &jsonl(&[("a", "ham"), ("b", "spam")]));
    for _ in 0..2 {
        tokio::join!(one.round(), two.round());
    }
    let header = perennial_proto::v1::ChunkHeader { task: "june".to_owned(), split: 2, ..header() };
    assert!(harness.push(header, &jsonl(&[("a", "ham"), ("b", "spam")])).await.unwrap().already_exists);
    assert_eq!(taken(&harness), [2]);
}

#[tokio::test]
async fn a_pipeline_that_stops_watching_takes_nothing_more() {
    let harness = watching().await;
    let mut watcher = harness.watcher();
    write(&harness, "c.jsonl", &many(4));
    watcher.round().await;
    harness.apply(json!({})).await;
    watcher.round().await;
    assert!(taken(&harness).is_empty());
}
