//! Connections that break, crawl or fall silent between a client and the daemon.

use std::fmt::Write;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use perennial_tests::cluster::{binary, pipeline};
use perennial_tests::digits::clean;
use perennial_tests::proxy::{Fault, Proxy};
use perennial_tests::{Cluster, Options};
use serde_json::{Value, json};

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
    let output = client(proxy.url(), &["chunk", "push", "tickets", file.to_str().unwrap()]).await;
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
    let push = ["chunk", "push", "digits", file.to_str().unwrap()];
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
    let output = client(proxy.url(), &["chunk", "push", "digits", file.to_str().unwrap()]).await;
    assert_eq!((&answer(&output)["state"], proxy.left()), (&"sealed".into(), 0));
}
