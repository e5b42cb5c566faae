//! *Kill anything*, at the worst moments: whoever writes to the store dies once just before and once just after a write of
//! each kind, and the history ends as it does where nobody dies.
//!
//! The writes are named in [`boundary`], and by whom they are made; [`front`], which stands before the store, does the
//! killing. Every process is started again, as Kubernetes would. The log's snapshots and its retention need some hundred
//! records: the simulation has them.

mod boundary;
mod front;

#[path = "../../../crates/store/tests/support/servers.rs"]
mod servers;

use std::time::Duration;

use perennial_proto::v1::{self, Split, erase_rows_request::Scope};
use perennial_tests::cluster::{Bucket, DEADLINE, pipeline, resource};
use perennial_tests::digits::clean;
use perennial_tests::insist::{absorb, all_chunks, all_versions, insist};
use perennial_tests::{Cluster, Options, Worker};
use serde_json::{Value, json};
use servers::Server;

use crate::front::Front;

/// Every write of the history, and who makes it.
const BOUNDARIES: [(&str, &str); 12] = [
    ("put a file of a version", "control"),
    ("put a part of a candidate", "trainer"),
    ("put a part of a checkpoint", "trainer"),
    ("put a payload", "ingest"),
    ("put a record", "control"),
    ("put a shard", "control"),
    ("put a shard", "ingest"),
    ("put a version's manifest", "control"),
    ("put late labels", "control"),
    ("remove a file of a version", "control"),
    ("remove what a run needed", "control"),
    ("remove what held erased rows", "control"),
];

/// What a history leaves: versions, and chunks.
#[derive(Debug, PartialEq)]
struct Left {
    versions: Vec<(u64, String, String)>,
    chunks: Vec<(String, String, u64, u64)>,
}

/// Rows with ids, every tenth about somebody.
fn rows(seed: u64) -> Vec<u8> {
    let rows = String::from_utf8(clean(seed, 0, 300)).unwrap();
    let named = rows.lines().enumerate().map(|(at, line)| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        row["row_id"] = format!("{seed}-{at}").into();
        row["subject"] = if at % 10 == 0 { "anna".into() } else { "others".into() };
        format!("{row}\n")
    });
    named.collect::<String>().into_bytes()
}

async fn push(cluster: &Cluster, seed: u64) {
    let rows = rows(seed);
    insist(async || cluster.leave("digits", "clean", Split::Auto, &rows).await).await;
}

/// Rows come and train; one has another label after all, and somebody is forgotten; and it goes on from there.
async fn history(cluster: &Cluster) -> Left {
    let mut spec = pipeline("digits");
    spec["training"]["epochs"] = json!(12);
    spec["training"]["checkpoint_steps"] = json!(20);
    spec["retention"] = json!({"versions": 1});
    insist(async || cluster.apply(&spec).await).await;
    for seed in [1, 2] {
        push(cluster, seed).await;
        absorb(cluster, "digits").await;
    }
    let labels = (1..9).map(|row| v1::RowLabel { row_id: format!("2-{row}"), label: "c3".to_owned() }).collect();
    let request = v1::PushLabelsRequest { pipeline: resource("digits"), labels, chunk: String::new() };
    insist(async || cluster.chunks().push_labels(request.clone()).await).await;
    let (pipeline, scope) = (resource("digits"), Some(Scope::Subject("anna".to_owned())));
    let request = v1::EraseRowsRequest { pipeline, scope };
    insist(async || cluster.rehearsal().erase_rows(request.clone()).await).await;
    push(cluster, 3).await;
    absorb(cluster, "digits").await;
    erased(cluster).await;
    left(cluster).await
}

/// Waits until no object holds what was erased.
async fn erased(cluster: &Cluster) {
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    let request = v1::ListErasuresRequest { parent: resource("digits"), ..Default::default() };
    let ask = async || cluster.rehearsal().list_erasures(request.clone()).await;
    let swept = async {
        while insist(ask).await.into_inner().erasures.iter().any(|erasure| erasure.finished_at_ms == 0) {
            pace.tick().await;
        }
    };
    tokio::time::timeout(DEADLINE, swept).await.expect("the sweep ends");
}

async fn left(cluster: &Cluster) -> Left {
    let versions = all_versions(cluster, "digits").await.into_iter();
    let chunks = all_chunks(cluster, "digits").await.into_iter();
    let versions = versions.map(|version| (version.number, version.weights_sha256, version.snapshot_sha256));
    let chunks = chunks.map(|chunk| (chunk.name, chunk.state, chunk.train_rows, chunk.erased_rows));
    Left { versions: versions.collect(), chunks: chunks.collect() }
}

async fn play(server: &Server, kills: bool) -> (Left, Front) {
    let port = server.environment["AWS_ENDPOINT"].rsplit(':').next().unwrap().parse().unwrap();
    let front = Front::before(port, kills).await;
    let mut environment = server.environment.clone();
    environment.insert("AWS_ENDPOINT".to_owned(), front.url());
    let bucket = Some(Bucket { url: format!("{}/{kills}", server.url), environment });
    let apart = ["trainer", "evaluator"].map(|role| Worker { role, slots: 2 }).to_vec();
    let cluster = Cluster::start(Options { bucket, apart, supervised: true, ..Options::default() }).await;
    let left = history(&cluster).await;
    // What is removed goes behind its back. If it never does, the names tell.
    let _ = tokio::time::timeout(DEADLINE, through(&front)).await;
    (left, front)
}

/// Waits until every kind of write was met, and whoever was to die is dead.
async fn through(front: &Front) {
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    let is_through = || {
        let met = front.met();
        met.len() >= BOUNDARIES.len() && met.values().all(|met| met.to_die.is_empty())
    };
    while !is_through() {
        pace.tick().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_before_or_after_any_write_changes_nothing() {
    let Some(server) = Server::start("moto").await else { return };
    let (wanted, quiet) = play(&server, false).await;
    assert_eq!(wanted.versions.len(), 3, "{wanted:?}");
    let (left, wild) = play(&server, true).await;
    assert_eq!(left, wanted);
    let names = |front: &Front| front.met().into_keys().map(|at| (at.name, at.role)).collect::<Vec<_>>();
    assert_eq!(names(&quiet), BOUNDARIES);
    assert_eq!(names(&wild), BOUNDARIES);
    let alive: Vec<_> = wild.met().into_iter().filter(|(_, met)| !met.to_die.is_empty()).collect();
    assert!(alive.is_empty(), "nobody died at {alive:?}");
}
