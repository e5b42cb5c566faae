//! *Champion is safe*: only a version that passed its gate becomes the champion, or one that a person promotes. A run that
//! is refused, diverges, crashes or is cancelled leaves champion, parent and buffer as they were, to the bit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures::future::join_all;
use perennial_proto::v1::{self, Split};
use perennial_tests::cluster::{pipeline, resource};
use perennial_tests::digits::{clean, mislabelled};
use perennial_tests::{Cluster, Options};
use serde_json::{Value, json};
use tonic::Code;

/// What a run that publishes nothing must not change.
#[derive(Debug, PartialEq)]
struct Standing {
    champion: v1::Version,
    versions: Vec<v1::Version>,
    /// Of the version that the next run continues from.
    buffer: v1::GetBufferStatsResponse,
    /// Everything published, byte by byte.
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Standing {
    async fn of(cluster: &Cluster) -> Self {
        let request = v1::GetBufferStatsRequest { pipeline: resource("digits") };
        let buffer = cluster.rehearsal().get_buffer_stats(request).await.unwrap().into_inner();
        let request = v1::ListVersionsRequest { parent: resource("digits"), ..Default::default() };
        let versions = cluster.registry().list_versions(request).await.unwrap().into_inner().versions;
        let champion = cluster.version("digits", "@champion").await.unwrap();
        let mut files = BTreeMap::new();
        read(&cluster.store().join("adapters"), &mut files);
        Self { champion, versions, buffer, files }
    }
}

fn read(folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            read(&entry, files);
        } else {
            files.insert(entry.clone(), std::fs::read(entry).unwrap());
        }
    }
}

/// The pipeline with a changed training section.
fn training(change: Value) -> Value {
    let mut spec = pipeline("digits");
    change.as_object().unwrap().iter().for_each(|(key, value)| spec["training"][key] = value.clone());
    spec
}

/// A published pipeline, and a chunk that waits.
async fn published() -> (Cluster, String) {
    let cluster = Cluster::start(Options::default()).await;
    cluster.apply(&pipeline("digits")).await.unwrap();
    cluster.push("digits", "domain-0", Split::Auto, &clean(1, 0, 400)).await.unwrap();
    assert_eq!(cluster.update("digits").await.state, "published");
    let more = cluster.push("digits", "domain-0", Split::Train, &clean(2, 0, 400)).await.unwrap();
    (cluster, id(more))
}

fn id(pushed: v1::PushChunkResponse) -> String {
    pushed.chunk.unwrap().name.rsplit('/').next().unwrap().to_owned()
}

/// Runs on the chunk, whatever became of it before.
async fn start(cluster: &Cluster, spec: &Value, chunk: &str) -> v1::Run {
    cluster.apply(spec).await.unwrap();
    cluster.start_run("digits", &[chunk.to_owned()]).await.unwrap()
}

#[tokio::test]
async fn a_refused_and_a_diverged_run_change_no_bit() {
    let (cluster, chunk) = published().await;
    let before = Standing::of(&cluster).await;
    let poison = cluster.push("digits", "domain-0", Split::Train, &mislabelled(2, 0, 800)).await.unwrap();
    let mut careless = training(json!({"epochs": 8}));
    careless["method"] = json!("ft");
    let refused = start(&cluster, &careless, &id(poison)).await;
    assert_eq!(cluster.ended(&refused.name).await.state, "rejected");
    assert_eq!(Standing::of(&cluster).await, before);

    let diverged = start(&cluster, &training(json!({"learning_rate": 1e30})), &chunk).await;
    let diverged = cluster.ended(&diverged.name).await;
    assert_eq!(diverged.state, "rejected", "{diverged:?}");
    assert!(diverged.reasons[0].contains("not finite"), "{:?}", diverged.reasons);
    assert_eq!(Standing::of(&cluster).await, before);
}

#[tokio::test]
async fn a_cancelled_run_changes_no_bit_not_even_where_the_daemon_died_under_it() {
    let (mut cluster, chunk) = published().await;
    let before = Standing::of(&cluster).await;
    let run = start(&cluster, &training(json!({"epochs": 1000, "checkpoint_steps": 10})), &chunk).await;
    cluster.watch(&run.name, |run| run.progress.as_ref().is_some_and(|at| at.step > 30)).await;
    cluster.kill();
    cluster.boot().await;
    assert_eq!(Standing::of(&cluster).await, before);
    cluster.watch(&run.name, |run| run.state == "training").await;
    cluster.runs().cancel_run(v1::CancelRunRequest { name: run.name.clone() }).await.unwrap();
    assert_eq!(cluster.ended(&run.name).await.state, "cancelled");
    assert_eq!(Standing::of(&cluster).await, before);
}

#[tokio::test]
async fn a_run_whose_every_attempt_crashes_changes_no_bit() {
    let (cluster, chunk) = published().await;
    let before = Standing::of(&cluster).await;
    let never = json!({"epochs": 1000, "checkpoint_steps": 1_000_000, "checkpoint_seconds": 100_000});
    let run = start(&cluster, &training(never), &chunk).await;
    let attempts = domain::run::MAX_FRUITLESS_ATTEMPTS;
    for attempt in 1..=attempts {
        let trains = |run: &v1::Run| run.attempts == attempt && run.progress.as_ref().is_some_and(|at| at.step > 3);
        cluster.watch(&run.name, trains).await;
        for rank in cluster.processes("\0rank\0") {
            let killed = std::process::Command::new("kill").args(["-9", &rank.to_string()]).status().unwrap();
            assert!(killed.success());
        }
        cluster.watch(&run.name, |run| run.attempts > attempt || run.state != "training").await;
    }
    let run = cluster.ended(&run.name).await;
    assert_eq!((run.state.as_str(), run.attempts), ("failed", attempts), "{run:?}");
    assert_eq!(Standing::of(&cluster).await, before);
}

#[tokio::test]
async fn of_those_who_move_an_alias_from_where_they_saw_it_one_wins() {
    let (cluster, _) = published().await;
    assert_eq!(cluster.update("digits").await.state, "published");
    let ask = |alias: &'static str, expected: u64, version: u64| {
        let mut registry = cluster.registry();
        let request = v1::SetAliasRequest {
            pipeline: resource("digits"),
            alias: alias.to_owned(),
            version,
            expected_version: Some(expected),
            chunks: v1::ChunkDisposition::Hold.into(),
        };
        async move { registry.set_alias(request).await }
    };
    for (alias, expected, version) in [("challenger", 0, 1), ("champion", 2, 1)] {
        let outcomes = join_all((0..16).map(|_| ask(alias, expected, version))).await;
        let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        assert_eq!((won.len(), lost.len()), (1, 15), "{alias}");
        for refused in lost {
            let refused = refused.unwrap_err();
            assert_eq!(refused.code(), Code::Aborted, "{refused}");
        }
        let found = cluster.version("digits", &format!("@{alias}")).await.unwrap();
        assert_eq!(found.number, version, "{alias}");
    }
    assert_eq!(cluster.version("digits", "@previous").await.unwrap().number, 2);
}

#[tokio::test]
async fn what_did_not_pass_its_gate_is_the_champion_only_by_a_persons_word() {
    let (cluster, _) = published().await;
    let poison = cluster.push("digits", "domain-0", Split::Train, &mislabelled(2, 0, 800)).await.unwrap();
    let mut spec = training(json!({"epochs": 8}));
    (spec["method"], spec["gate"]) = (json!("ft"), json!({"mode": "report"}));
    let run = start(&cluster, &spec, &id(poison)).await;
    let run = cluster.ended(&run.name).await;
    assert_eq!((run.state.as_str(), run.verdict.as_str(), run.version), ("published", "FAIL", 2), "{run:?}");
    assert_eq!(cluster.version("digits", "@champion").await.unwrap().number, 1);
    let promote = v1::SetAliasRequest {
        pipeline: resource("digits"),
        alias: "champion".to_owned(),
        version: 2,
        expected_version: Some(1),
        chunks: v1::ChunkDisposition::Hold.into(),
    };
    cluster.registry().set_alias(promote).await.unwrap();
    assert_eq!(cluster.version("digits", "@champion").await.unwrap().number, 2);
}
