//! Connections that break, crawl or fall silent: between a client and the daemon, between its processes, and between it and
//! its store.

#[path = "../../crates/store/tests/support/servers.rs"]
mod servers;

use std::fmt::Write;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use perennial_proto::v1::Split;
use perennial_tests::cluster::{Bucket, binary, pipeline};
use perennial_tests::digits::clean;
use perennial_tests::insist::{absorb, all_versions, insist};
use perennial_tests::proxy::{Fault, Proxy};
use perennial_tests::{Cluster, Options, Worker};
use serde_json::{Value, json};
use servers::Server;

const MIB: u64 = 1 << 20;

async fn client(url: String, args: &[&str]) -> Output {
    let mut command = Command::new(binary("perennial"));
    command.args(args).args(["-o", "json"]).env("PERENNIAL_SERVER", url).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[track_caller]
fn answer(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// So many bytes of rows, at least; no two are equal.
fn texts(bytes: u64) -> String {
    let filler = "lorem ipsum dolor sit amet ".repeat(150);
    let mut rows = String::new();
    for row in 0.. {
        if rows.len() as u64 >= bytes {
            break;
        }
        let (text, label) = (format!("{row} {filler}"), ["ham", "spam"][row % 2]);
        writeln!(rows, "{}", json!({"text": text, "label": label})).unwrap();
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_push_goes_on_where_the_connection_was_cut() {
    let cluster = Cluster::start(Options::default()).await;
    let spec = json!({"name": "tickets", "model": "mlp:10", "method": "er", "labels": ["ham", "spam"]});
    cluster.apply(&spec).await.unwrap();
    let file = cluster.folder().join("rows.jsonl");
    let rows = texts(40 * MIB);
    std::fs::write(&file, &rows).unwrap();
    let proxy = Proxy::before(cluster.port(), [Fault::Cut { after: 21 * MIB }, Fault::Cut { after: 13 * MIB }]).await;
    let output = client(proxy.url(), &["chunk", "push", "--wait", "tickets", file.to_str().unwrap()]).await;
    let pushed = answer(&output);
    assert_eq!((&pushed["state"], proxy.left()), (&"sealed".into(), 0));
    assert_eq!(pushed["bytes"], rows.len());
    let again = proxy.passed() - rows.len() as u64;
    assert!(again < 20 * MIB, "{again} bytes were sent again");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.matches("once more in").count(), 2, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_push_is_made_anew_and_a_slow_one_waited_for() {
    let cluster = Cluster::start(Options::default()).await;
    cluster.apply(&pipeline("digits")).await.unwrap();
    let file = cluster.folder().join("rows.jsonl");
    std::fs::write(&file, clean(1, 0, 200)).unwrap();
    let push = ["chunk", "push", "--wait", "digits", file.to_str().unwrap()];
    let proxy =
        Proxy::before(cluster.port(), [Fault::Cut { after: 4096 }, Fault::Delay(Duration::from_millis(20))]).await;
    assert_eq!(answer(&client(proxy.url(), &push).await)["already_exists"], false);
    let bytes_per_second = 200_000;
    let proxy = Proxy::before(cluster.port(), [Fault::Throttle { bytes_per_second }]).await;
    assert_eq!(answer(&client(proxy.url(), &push).await)["already_exists"], true);
    assert_eq!((cluster.list_chunks("digits").await.len(), proxy.left()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_falls_silent_is_given_up_and_made_anew() {
    let cluster = Cluster::start(Options::default()).await;
    cluster.apply(&pipeline("digits")).await.unwrap();
    let file = cluster.folder().join("rows.jsonl");
    std::fs::write(&file, clean(1, 0, 200)).unwrap();
    let proxy = Proxy::before(cluster.port(), [Fault::Silence { after: 4096 }]).await;
    let output = client(proxy.url(), &["chunk", "push", "--wait", "digits", file.to_str().unwrap()]).await;
    assert_eq!((&answer(&output)["state"], proxy.left()), (&"sealed".into(), 0));
}

/// Roles apart whose connections to control meet these.
fn apart(faults: &[Fault]) -> Options {
    let apart = ["trainer", "evaluator"].map(|role| Worker { role, slots: 2 }).to_vec();
    Options { apart, faults: faults.to_vec(), ..Options::default() }
}

/// What a cluster learns from two chunks.
async fn learnt(cluster: &Cluster) -> Vec<(String, String)> {
    let mut spec = pipeline("digits");
    spec["training"]["epochs"] = 12.into();
    spec["resources"] = json!({"ranks": 2});
    cluster.apply(&spec).await.unwrap();
    for seed in [1, 2] {
        let rows = clean(seed, 0, 300);
        insist(async || cluster.push("digits", "clean", Split::Auto, &rows).await).await;
        absorb(cluster, "digits").await;
    }
    let versions = all_versions(cluster, "digits").await.into_iter();
    versions.map(|version| (version.weights_sha256, version.snapshot_sha256)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_between_control_ingest_and_workers_the_bits_are_the_same() {
    let wanted = learnt(&Cluster::start(apart(&[])).await).await;
    assert_eq!(wanted.len(), 2);
    let faults = [
        Fault::Cut { after: 100 },
        Fault::Silence { after: 300 },
        Fault::Delay(Duration::from_millis(30)),
        Fault::Cut { after: 1500 },
        Fault::Throttle { bytes_per_second: 20_000 },
        Fault::Silence { after: 3000 },
        Fault::Cut { after: 3000 },
    ];
    let cluster = Cluster::start(apart(&faults)).await;
    assert_eq!(learnt(&cluster).await, wanted);
    assert!(cluster.faults_left() < 4, "{} of {} faults were not met", cluster.faults_left(), faults.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_between_the_daemon_and_its_store_the_bits_are_the_same() {
    let Some(server) = Server::start("moto").await else { return };
    let wanted = learnt(&Cluster::start(Options::default()).await).await;
    let port = server.environment["AWS_ENDPOINT"].rsplit(':').next().unwrap().parse().unwrap();
    let turns = [
        Fault::Cut { after: 700 },
        Fault::Delay(Duration::from_millis(20)),
        Fault::Throttle { bytes_per_second: 200_000 },
        Fault::Cut { after: 20_000 },
    ];
    // The first connections are the probe's, which a store has to get through.
    let faults = [Fault::Delay(Duration::ZERO); 40].into_iter().chain(turns.into_iter().cycle().take(120));
    let proxy = Proxy::before(port, faults).await;
    let mut environment = server.environment.clone();
    environment.insert("AWS_ENDPOINT".to_owned(), proxy.url());
    let bucket = Some(Bucket { url: server.url.clone(), environment });
    let cluster = Cluster::start(Options { bucket, ..Options::default() }).await;
    assert_eq!(learnt(&cluster).await, wanted);
    assert!(proxy.left() < 80, "{} of 160 faults were not met", proxy.left());
}
