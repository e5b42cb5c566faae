//! Chunk once: a chunk that was acked is there once, whatever is killed and whoever pushes it again.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use perennial_proto::v1::{self, Split};
use perennial_tests::cluster::{binary, pipeline, resource};
use perennial_tests::digits::clean;
use perennial_tests::{Cluster, Options};
use serde_json::Value;
use tonic::Code;

/// The same rows with one line of column names.
fn csv(jsonl: &[u8]) -> String {
    let rows = std::str::from_utf8(jsonl).unwrap().lines().map(|line| {
        let row: Value = serde_json::from_str(line).unwrap();
        format!("{},{}\n", row["label"].as_str().unwrap(), row["image"].as_str().unwrap())
    });
    std::iter::once("label,image\n".to_owned()).chain(rows).collect()
}

fn client(cluster: &Cluster, args: &[&str]) -> Output {
    let mut command = Command::new(binary("perennial"));
    command.args(args).args(["-o", "json"]).env("PERENNIAL_SERVER", cluster.url()).stdin(Stdio::null());
    command.output().unwrap()
}

fn push(cluster: &Cluster, file: &Path, sequence: &str) -> Output {
    let file = file.to_str().unwrap();
    let numbered = ["--producer", "kiosk", "--sequence", sequence];
    client(cluster, &[&["chunk", "push", "--wait", "digits", file, "--task", "clean"], &numbered[..]].concat())
}

#[track_caller]
fn json(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_numbered_push_is_taken_once_whatever_dies_and_whoever_repeats_it() {
    let mut cluster = Cluster::start(Options::default()).await;
    cluster.apply(&pipeline("digits")).await.unwrap();
    let files: Vec<_> = (1..=2).map(|number| cluster.folder().join(format!("{number}.csv"))).collect();
    for (file, seed) in files.iter().zip(1..) {
        std::fs::write(file, csv(&clean(seed, 0, 200))).unwrap();
    }
    let first = json(&push(&cluster, &files[0], "1"));
    assert_eq!((&first["state"], &first["already_exists"]), (&"sealed".into(), &false.into()));

    cluster.kill();
    cluster.boot().await;
    let again = json(&push(&cluster, &files[0], "1"));
    assert_eq!((&again["chunk"], &again["already_exists"]), (&first["chunk"], &true.into()));
    let early = push(&cluster, &files[1], "3");
    let said = String::from_utf8_lossy(&early.stderr);
    assert!(early.status.code() == Some(1) && said.contains("comes too early: 2 is the next"), "{said}");

    json(&push(&cluster, &files[1], "2"));
    let run = cluster.update("digits").await;
    assert_eq!(run.state, "published", "{run:?}\n{}", cluster.last_log());
    let absorbed = json(&push(&cluster, &files[1], "2"));
    assert_eq!(
        (&absorbed["state"], &absorbed["version"], &absorbed["already_exists"]),
        (&"absorbed".into(), &1.into(), &true.into())
    );
    assert_eq!(cluster.list_chunks("digits").await.len(), 2);

    let known = json(&client(&cluster, &["chunk", "producers", "digits"]));
    let kiosk = &known["producers"][0];
    assert_eq!((&kiosk["producer"], &kiosk["next_sequence"]), (&"kiosk".into(), &3.into()));
    let epoch = kiosk["epoch"].as_u64().unwrap();
    let stale = v1::ChunkHeader {
        pipeline: resource("digits"),
        split: Split::Auto.into(),
        format: v1::Format::Jsonl.into(),
        origin: Some(v1::Origin { producer: "kiosk".to_owned(), epoch: epoch - 1, sequence: 3 }),
        ..Default::default()
    };
    let refused = cluster.push_as(stale, &clean(3, 0, 20), 1 << 16).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted, "{refused}");
    assert_eq!(cluster.list_chunks("digits").await.len(), 2);
}
