//! A standby of the control role: kill -9 of the active one costs seconds and nothing else.

use std::time::Duration;

use perennial_proto::v1::Split;
use perennial_tests::cluster::pipeline;
use perennial_tests::digits::clean;
use perennial_tests::{Cluster, Options, Worker};
use store::log::{CommitLog, Follower, Options as LogOptions};

async fn apart() -> Cluster {
    let workers = ["trainer", "evaluator"].map(|role| Worker { role, slots: 1 });
    Cluster::start(Options { apart: workers.to_vec(), ..Options::default() }).await
}

async fn begun(cluster: &Cluster) -> String {
    let mut spec = pipeline("digits");
    spec["training"]["epochs"] = 40.into();
    cluster.apply(&spec).await.unwrap();
    cluster.push("digits", "clean", Split::Auto, &clean(1, 0, 400)).await.unwrap();
    cluster.start_run("digits", &[]).await.unwrap().name
}

async fn weights(cluster: &Cluster, run: &str) -> String {
    let ended = cluster.ended(run).await;
    assert_eq!(ended.state, "published", "{ended:?}");
    cluster.version("digits", "@champion").await.unwrap().weights_sha256
}

#[tokio::test]
async fn a_standby_takes_over_within_seconds_and_the_run_goes_on() {
    let quiet = apart().await;
    let run = begun(&quiet).await;
    let expected = weights(&quiet, &run).await;
    drop(quiet);

    let mut cluster = apart().await;
    cluster.stand_by().await;
    let run = begun(&cluster).await;
    cluster.watch(&run, |run| run.state == "training").await;
    for _ in 0..2 {
        let taken = tokio::time::timeout(Duration::from_secs(5), cluster.fail_over()).await;
        assert!(taken.is_ok(), "not within five seconds: {}", std::fs::read_to_string(cluster.log()).unwrap());
        cluster.stand_by().await;
    }
    cluster.push("digits", "later", Split::Auto, &clean(2, 0, 50)).await.unwrap();
    assert_eq!(weights(&cluster, &run).await, expected);
    assert_eq!(cluster.list_chunks("digits").await.len(), 2);

    // A whole history, of runs, reports and versions, reads back from a snapshot.
    cluster.kill();
    let store = store::open(&format!("file://{}", cluster.store().display())).unwrap();
    let (mut log, state) = CommitLog::open(store.clone(), "test", 0, LogOptions::default()).await.unwrap();
    log.snapshot(&state).await.unwrap();
    let found = Follower::open(store, LogOptions::default()).await.unwrap();
    assert_eq!(found.state(), &state);
}

#[tokio::test]
async fn a_standby_that_finds_nobody_serves() {
    let mut cluster = apart().await;
    cluster.kill();
    cluster.stand_by().await;
    let taken = tokio::time::timeout(Duration::from_secs(5), cluster.fail_over()).await;
    assert!(taken.is_ok(), "{}", std::fs::read_to_string(cluster.log()).unwrap());
}
