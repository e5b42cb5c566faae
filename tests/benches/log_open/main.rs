//! How long the control role takes to fold its log: a snapshot of many chunks, and the records after it.
//!
//! ```text
//! cargo bench -p perennial-tests --bench log_open -- --chunks 200000
//! ```
//!
//! One line of JSON: chunks in the state, bytes of the snapshot, and the seconds that opening took, over turns, on a local disk
//! whose pages are warm.

// A benchmark is made to read the clock.
#![allow(clippy::disallowed_methods)]

use std::time::Instant;

use clap::Parser;
use domain::chunk::{Chunk, ChunkState, ObjectRef, Shard, Split};
use domain::id::{ChunkId, PipelineId};
use domain::planning;
use domain::state::{Event, EventKind, State};
use serde_json::json;
use store::log::{CommitLog, Options};

#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 200_000)]
    chunks: u64,
    /// Records after the snapshot
    #[arg(long, default_value_t = 511)]
    records: u64,
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// Cargo gives it to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn chunk(number: u64) -> Chunk {
    let id = ChunkId(format!("{number:032x}"));
    let object = |name: &str| ObjectRef {
        path: format!("namespaces/default/pipelines/tickets/chunks/{id}/{name}"),
        sha256: format!("{number:064x}"),
        bytes: 4096,
    };
    let shard = |name: &str| Shard::new(object(name), 90);
    Chunk {
        train: vec![shard("train-00000.parquet")],
        held_out: vec![shard("held_out-00000.parquet")],
        labels: [("ham", 50), ("spam", 40)].map(|(label, rows)| (label.to_owned(), rows)).into(),
        state: ChunkState::Sealed,
        ..Chunk::received(id.clone(), "main".parse().expect("a name"), Split::Auto, object("raw"), number)
    }
}

fn received(pipeline: &PipelineId, number: u64) -> Event {
    Event { pipeline: pipeline.clone(), kind: EventKind::ChunkReceived { chunk: Box::new(chunk(number)) } }
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = store::open(&format!("file://{}", folder.path().display())).expect("a store");
    let spec = json!({"name": "tickets", "model": "mlp:10", "method": "er", "labels": ["ham", "spam"]});
    let spec = serde_json::from_value(spec).expect("a pipeline");
    let (mut log, mut state) =
        CommitLog::open(store.clone(), "bench", 0, Options::default()).await.expect("an empty log");
    let apply = |state: &mut State, event: &Event| state.apply(event, 0).expect("it applies");
    let applied = planning::apply_spec(&state, &spec).expect("a pipeline");
    let pipeline = applied[0].pipeline.clone();
    applied.iter().for_each(|event| apply(&mut state, event));
    (0..args.chunks).for_each(|number| apply(&mut state, &received(&pipeline, number)));
    log.append(0, applied).await.expect("the disk has room");
    log.snapshot(&state).await.expect("the disk has room");
    for number in args.chunks..args.chunks + args.records {
        log.append(0, vec![received(&pipeline, number)]).await.expect("the disk has room");
    }
    let snapshot = folder.path().join("log/snapshots/00000000000000000002.bin");
    let bytes = std::fs::metadata(snapshot).expect("it was written").len();
    let mut seconds = Vec::new();
    for _ in 0..args.turns {
        let start = Instant::now();
        let (_, found) = CommitLog::open(store.clone(), "again", 0, Options::default()).await.expect("it opens");
        seconds.push(start.elapsed().as_secs_f64());
        assert_eq!(found.pipelines[&pipeline].chunks.len() as u64, args.chunks + args.records);
    }
    seconds.sort_by(f64::total_cmp);
    println!(
        "{}",
        json!({"chunks": args.chunks, "records": args.records, "snapshot_bytes": bytes, "seconds": seconds})
    );
}
