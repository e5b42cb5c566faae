//! Every role in a process of its own: control, ingest, trainers, an evaluator.

use perennial_proto::v1::Split;
use perennial_tests::cluster::pipeline;
use perennial_tests::digits::clean;
use perennial_tests::{Cluster, Options, Worker};
use serde_json::json;

fn apart(trainers: &[u32]) -> Options {
    let trainers = trainers.iter().map(|&slots| Worker { role: "trainer", slots });
    let apart = trainers.chain([Worker { role: "evaluator", slots: 1 }]).collect();
    Options { apart, ..Options::default() }
}

/// Weights and snapshot after two updates on `ranks` ranks.
async fn learned(options: Options, ranks: u32) -> [String; 2] {
    let cluster = Cluster::start(options).await;
    let mut spec = pipeline("digits");
    spec["resources"] = json!({"ranks": ranks});
    cluster.apply(&spec).await.unwrap();
    for domain in 0..2 {
        let rows = clean(1, domain, 400);
        cluster.push("digits", &format!("domain-{domain}"), Split::Auto, &rows).await.unwrap();
        let run = cluster.update("digits").await;
        assert_eq!((run.state.as_str(), run.attempts), ("published", 1), "{run:?}");
    }
    let champion = cluster.version("digits", "@champion").await.unwrap();
    [champion.weights_sha256, champion.snapshot_sha256]
}

#[tokio::test]
async fn a_gang_across_two_workers_publishes_the_bits_of_one() {
    let together = learned(apart(&[2]), 2).await;
    let across = learned(apart(&[1, 1]), 2).await;
    assert_eq!(across, together);
}

#[tokio::test]
async fn without_a_worker_nothing_trains_and_a_rollback_is_quick() {
    let mut cluster = Cluster::start(apart(&[2])).await;
    cluster.apply(&pipeline("digits")).await.unwrap();
    for domain in 0..2 {
        let rows = clean(1, domain, 200);
        cluster.push("digits", &format!("domain-{domain}"), Split::Auto, &rows).await.unwrap();
        assert_eq!(cluster.update("digits").await.state, "published");
    }
    cluster.kill_others();
    let rolled = cluster.roll_back("digits");
    let back = tokio::time::timeout(std::time::Duration::from_secs(2), rolled).await;
    assert_eq!(back.expect("it takes less than two seconds").number, 1);
    assert_eq!(cluster.version("digits", "@champion").await.unwrap().number, 1);
}
