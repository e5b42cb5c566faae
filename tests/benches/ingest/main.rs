//! What it takes until a push is acked: beside a multipart upload of the same bytes to the same store, and for many small
//! chunks from many clients.
//!
//! ```text
//! cargo build --release && cargo bench --workspace --bench ingest
//! ```
//!
//! Lines of JSON. The two of a pair take turns; an ack comes when the payload is durable and recorded. Its rows are checked before
//! the next turn, which is timed, too. The daemon is a process of its own, its store a folder.

// A benchmark is made to read the clock.
#![allow(clippy::disallowed_methods)]

use std::fmt::Write;
use std::time::Instant;

use clap::Parser;
use domain::draw::Draw;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};
use perennial_proto::limits::FRAME_BYTES;
use perennial_proto::v1::{self, Format, Split};
use perennial_tests::cluster::{resource, role};
use perennial_tests::insist::rows_checked;
use perennial_tests::{Cluster, Options, Worker};
use serde_json::{Value, json};

#[derive(Parser)]
struct Args {
    /// MiB of a large payload
    #[arg(long, default_value_t = 64)]
    mib: u64,
    #[arg(long, default_value_t = 5)]
    pairs: u64,
    /// That push small chunks at a time
    #[arg(long, default_value_t = 32)]
    clients: u64,
    /// Small chunks of each
    #[arg(long, default_value_t = 50)]
    chunks: u64,
    /// Cargo gives it to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// As the store's own multipart uploads have them.
const PART: usize = 8 << 20;
const SMALL: u64 = 4096;

/// Rows of about 1 KiB of words, no two equal; about so many bytes of them.
fn rows(seed: u64, bytes: u64) -> Vec<u8> {
    const WORDS: [&str; 8] = ["lorem", "ipsum", "dolor", "sit", "amet", "tempor", "magna", "aliqua"];
    let (mut lines, draw, mut row) = (String::new(), Draw::new(seed), 0);
    while (lines.len() as u64) < bytes {
        let word = |at| WORDS[draw.at(row).at(at).below(8) as usize];
        let text = (0..160).fold(format!("{seed} {row}"), |text, at| text + " " + word(at));
        let label = ["ham", "spam"][row as usize % 2];
        writeln!(lines, "{}", json!({"text": text, "label": label})).expect("memory");
        row += 1;
    }
    lines.into_bytes()
}

async fn push(cluster: &Cluster, payload: &[u8]) -> f64 {
    let header = v1::ChunkHeader {
        pipeline: resource("tickets"),
        task: "texts".to_owned(),
        split: Split::Auto.into(),
        format: Format::Jsonl.into(),
        sha256: store::objects::sha256(payload),
        ..Default::default()
    };
    let start = Instant::now();
    let pushed = cluster.push_as(header, payload, FRAME_BYTES).await.expect("it is acked");
    assert_eq!(pushed.chunk.expect("a chunk").state, "received");
    start.elapsed().as_secs_f64()
}

/// Seconds until the rows of all that was pushed are checked.
async fn checked(cluster: &Cluster) -> f64 {
    let start = Instant::now();
    rows_checked(cluster, "tickets").await;
    start.elapsed().as_secs_f64()
}

async fn upload(store: &dyn ObjectStore, name: &str, payload: &[u8]) -> f64 {
    let start = Instant::now();
    let upload = store.put_multipart(&name.into()).await.expect("the disk has room");
    let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
    upload.write(payload);
    upload.finish().await.expect("the disk has room");
    start.elapsed().as_secs_f64()
}

/// Seconds, in turns, and how many times as long a push takes.
async fn large(cluster: &Cluster, args: &Args) -> Value {
    let store = store::open(&format!("file://{}", cluster.store().display())).expect("a folder");
    let (mut pushes, mut uploads, mut checks) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..args.pairs {
        let payload = rows(pair, args.mib << 20);
        uploads.push(upload(&*store, &format!("raw/{pair}"), &payload).await);
        pushes.push(push(cluster, &payload).await);
        checks.push(checked(cluster).await);
    }
    let ratio = median(&uploads) / median(&pushes);
    json!({"mib": args.mib, "upload_s": uploads, "push_s": pushes, "checked_s": checks, "upload_over_push": ratio})
}

async fn small(cluster: &Cluster, args: &Args) -> Value {
    let client = async |client: u64| {
        let mut times = Vec::new();
        for chunk in 0..args.chunks {
            let payload = rows(1_000 + client * args.chunks + chunk, SMALL);
            times.push(1000.0 * push(cluster, &payload).await);
        }
        times
    };
    let all = futures::future::join_all((0..args.clients).map(client)).await;
    let (mut times, checked) = (all.concat(), checked(cluster).await);
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    json!({
        "bytes": SMALL, "clients": args.clients, "chunks": times.len(),
        "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0), "checked_s": checked,
    })
}

fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The most that the ingest process has had in memory, in MiB.
fn peak(cluster: &Cluster) -> u64 {
    let ingest = cluster.all_processes().into_iter().find(|(_, line)| role(line) == Some("ingest"));
    let (pid, _) = ingest.expect("it runs");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("this is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it says so");
    line.trim_end_matches("kB").trim().parse::<u64>().expect("a number") >> 10
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let apart = vec![Worker { role: "evaluator", slots: 1 }];
    let cluster = Cluster::start(Options { apart, ..Options::default() }).await;
    let spec = json!({"name": "tickets", "model": "mlp:10", "method": "er", "labels": ["ham", "spam"]});
    cluster.apply(&spec).await.expect("a pipeline");
    push(&cluster, &rows(999, SMALL)).await;
    checked(&cluster).await;
    println!("{}", small(&cluster, &args).await);
    let before = peak(&cluster);
    let mut large = large(&cluster, &args).await;
    large["peak_mib"] = json!([before, peak(&cluster)]);
    println!("{large}");
}
