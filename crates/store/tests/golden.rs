//! Old peers, new peers: a log that earlier releases wrote folds to the state it stood for.
//!
//! `golden/log` is a history of two versions, a rollback, a producer and a quarantined chunk. Its first records and the older
//! snapshot are as they were before checksums, the others as of the first release with them.

use std::path::PathBuf;

use domain::state::State;
use object_store::memory::InMemory;
use perennial_store::log::{CommitLog, Options};
use perennial_store::objects;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The files below `folder` whose path holds.
fn files(folder: &str, holds: impl Fn(&str) -> bool) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(golden(folder)).unwrap().map(Result::unwrap);
    let named = entries.filter(|entry| entry.path().is_file()).map(|entry| {
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        (path, std::fs::read(entry.path()).unwrap())
    });
    named.filter(|(path, _)| holds(path)).collect()
}

/// What is opened of the records and of those snapshots whose path holds.
async fn opened(snapshots: impl Fn(&str) -> bool) -> State {
    let store = InMemory::new();
    for (path, bytes) in [files("log", |_| true), files("log/snapshots", snapshots)].concat() {
        objects::put(&store, &path, bytes.into()).await.unwrap();
    }
    CommitLog::open(std::sync::Arc::new(store), "test", 0, Options::default()).await.unwrap().1
}

#[tokio::test]
async fn records_and_snapshots_of_each_release_fold_to_the_same_state() {
    let expected: State = serde_json::from_slice(&std::fs::read(golden("state.json")).unwrap()).unwrap();
    let pipeline = expected.pipelines.values().next().unwrap();
    assert_eq!((pipeline.versions.len(), pipeline.runs.len(), pipeline.chunks.len()), (2, 2, 3));
    assert_eq!(opened(|_| false).await, expected, "records alone");
    assert_eq!(opened(|path| path.ends_with(".json")).await, expected, "a snapshot in JSON");
    assert_eq!(opened(|path| path.ends_with(".bin")).await, expected, "a snapshot in MessagePack");
}

#[tokio::test]
async fn a_damaged_record_says_so() {
    let store = InMemory::new();
    let records = files("log", |_| true);
    for (path, mut bytes) in records {
        if path.ends_with("17.json") {
            let at = bytes.iter().position(|&byte| byte == b'v').unwrap();
            bytes[at] ^= 1;
        }
        objects::put(&store, &path, bytes.into()).await.unwrap();
    }
    let error = CommitLog::open(std::sync::Arc::new(store), "test", 0, Options::default()).await.err().unwrap();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(error.to_string(), "commit log record 17 cannot be read");
    assert!(cause.starts_with("it is damaged: its checksum is"), "{cause}");
}
