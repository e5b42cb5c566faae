//! The commit log as the store holds it, and what is decided on the state that it folds to.

use std::sync::Arc;

use domain::id::Version;
use domain::planning::{self, Expected};
use domain::state::State;
use domain::version::{Alias, Disposition};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use sha2::{Digest, Sha256};
use store::log::{CommitLog, Options};

/// A fold of whatever lies there, taken over: the first byte says whether the others are records, one a line, or a
/// snapshot, and whether their checksums are right.
pub fn record(input: &[u8]) {
    let Some((&form, bytes)) = input.split_first() else { return };
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let opened = async {
        match form {
            b'r' => records(&*store, bytes, true).await,
            b's' => snapshot(&*store, &framed(&zstd::encode_all(bytes, 1).unwrap_or_default())).await,
            b'z' => snapshot(&*store, &framed(bytes)).await,
            b'S' => snapshot(&*store, bytes).await,
            _ => records(&*store, bytes, false).await,
        }
        CommitLog::open(store.clone(), "fuzz", 1, Options::default()).await
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let opened = runtime.expect("a runtime can be made").block_on(opened);
    if let Ok((_, state)) = opened {
        let kept = rmp_serde::to_vec_named(&state).expect("a state can be written");
        assert!(rmp_serde::from_slice::<State>(&kept).is_ok_and(|read| same(&read, &state)));
        // `apply` refuses what would leave the tables inconsistent; a snapshot is the state as it was written.
        if !matches!(form, b's' | b'z' | b'S') {
            decided(&state);
        }
    }
}

/// Numbers that are none are not equal to themselves.
fn same(a: &State, b: &State) -> bool {
    a == b || rmp_serde::to_vec_named(a).ok() == rmp_serde::to_vec_named(b).ok()
}

async fn records(store: &dyn ObjectStore, bytes: &[u8], sums: bool) {
    let lines: Vec<&[u8]> = if sums { bytes.split(|&byte| byte == b'\n').collect() } else { vec![bytes] };
    for (number, line) in (1..).zip(lines) {
        let sum = || format!("\n{}\n", hex::encode(&Sha256::digest(line)[..8]));
        let record = if sums { [line, sum().as_bytes()].concat() } else { line.to_vec() };
        put(store, &format!("log/{number:020}.json"), record).await;
    }
}

async fn snapshot(store: &dyn ObjectStore, bytes: &[u8]) {
    put(store, &format!("log/snapshots/{:020}.bin", 1), bytes.to_vec()).await;
}

fn framed(packed: &[u8]) -> Vec<u8> {
    [b"perennial snapshot 1\n", packed, &Sha256::digest(packed)[..8]].concat()
}

async fn put(store: &dyn ObjectStore, path: &str, bytes: Vec<u8>) {
    store.put(&path.into(), bytes.into()).await.expect("memory takes everything");
}

/// Whatever is decided is decided without a panic, and applies to what it was decided on.
pub fn decided(state: &State) {
    for (id, current) in &state.pipelines {
        let version = current.versions.keys().next_back().copied().unwrap_or(Version(1));
        let run = current.runs.keys().next_back().copied().unwrap_or(1);
        let chunks: Vec<_> = current.chunks.keys().cloned().collect();
        let decisions = [
            planning::apply_spec(state, &current.pipeline),
            planning::start_run(state, id, &[]).map(|(_, events)| events),
            planning::start_run(state, id, &chunks).map(|(_, events)| events),
            planning::cancel(state, id, run),
            planning::release(state, id, &chunks),
            planning::drop_chunks(state, id, &chunks),
            planning::set_alias(state, id, Alias::Champion, version, Expected::Anywhere, Disposition::Requeue),
            planning::rollback(state, id, None, Expected::Anywhere, Disposition::Hold).map(|(_, events)| events),
            planning::hold(state, id, version, "kept"),
            planning::retire(state, id),
            planning::start_without(state, id, "anna").map(|(_, events)| events),
        ];
        for events in decisions.into_iter().flatten() {
            let mut after = state.clone();
            for event in events {
                after.apply(&event, 2).expect("what is decided on a state applies to it");
            }
        }
    }
    let _ = planning::triggered(state);
}
