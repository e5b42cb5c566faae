//! Old versions lose their files and keep their place, as the pipeline's retention says.

use std::process::{Command, Output};
use std::time::Duration;

use perennial_proto::v1::{self, Split};
use perennial_tests::cluster::{DEADLINE, binary, pipeline, resource};
use perennial_tests::digits::clean;
use perennial_tests::{Cluster, Options};
use serde_json::{Value, json};

fn perennial(cluster: &Cluster, args: &[&str]) -> Output {
    let mut command = Command::new(binary("perennial"));
    command.args(args).env("PERENNIAL_SERVER", cluster.url()).output().unwrap()
}

#[track_caller]
fn shown(cluster: &Cluster, args: &[&str]) -> Value {
    let output = perennial(cluster, &[args, &["-o", "json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn refused(cluster: &Cluster, args: &[&str]) -> String {
    let output = perennial(cluster, args);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

async fn publish(cluster: &Cluster, seed: u64) {
    cluster.push("digits", "domain-0", Split::Auto, &clean(seed, 0, 200)).await.unwrap();
    let run = cluster.update("digits").await;
    assert_eq!(run.state, "published", "{run:?}\n{}", cluster.last_log());
}

/// Waits until only these versions have files.
async fn left(cluster: &Cluster, wanted: &[u64]) {
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    let with_files = || {
        let folders = std::fs::read_dir(cluster.store().join("adapters/default")).unwrap().flatten();
        let full = folders.filter(|folder| std::fs::read_dir(folder.path()).unwrap().next().is_some());
        let mut numbers: Vec<u64> = full
            .map(|folder| folder.file_name().to_str().unwrap().rsplit_once("-v").unwrap().1.parse().unwrap())
            .collect();
        numbers.sort_unstable();
        numbers
    };
    let gone = async {
        while with_files() != wanted {
            pace.tick().await;
        }
    };
    let gone = tokio::time::timeout(DEADLINE, gone).await;
    assert!(gone.is_ok(), "{:?} have files\n{}", with_files(), cluster.last_log());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_old_versions_go_but_for_what_is_held_and_what_is_needed() {
    let mut cluster = Cluster::start(Options::default()).await;
    let mut spec = pipeline("digits");
    spec["gate"] = json!({"max_average_accuracy_drop": 1.0, "max_forgetting": 1.0});
    spec["retention"] = json!({"versions": 1});
    cluster.apply(&spec).await.unwrap();
    publish(&cluster, 1).await;
    let held = shown(&cluster, &["version", "hold", "digits/1", "--reason", "audited"]);
    assert_eq!((&held["version"], &held["hold_reason"]), (&1.into(), &"audited".into()));
    for seed in 2..=4 {
        publish(&cluster, seed).await;
    }
    left(&cluster, &[1, 3, 4]).await;

    let listed = shown(&cluster, &["version", "ls", "digits"]);
    let retired: Vec<bool> =
        listed["versions"].as_array().unwrap().iter().map(|version| version["retired_at_ms"].is_u64()).collect();
    assert_eq!(retired, [false, true, false, false]);
    let table = String::from_utf8(perennial(&cluster, &["version", "ls", "digits"]).stdout).unwrap();
    assert!(table.contains("held: audited") && table.contains("retired 20"), "{table}");
    let shown_still = shown(&cluster, &["version", "show", "digits/2"]);
    assert!(shown_still["average_accuracy"].is_f64() && shown_still["parent"] == 1, "{shown_still}");

    let folder = cluster.folder().join("pulled");
    let said = refused(&cluster, &["version", "pull", "digits/2", folder.to_str().unwrap()]);
    assert!(said.contains("version v2 is retired: `retention.versions` did not keep its files"), "{said}");
    for back in [&["version", "rollback", "digits", "--to", "2"][..], &["version", "promote", "digits/2"]] {
        assert!(refused(&cluster, back).contains("version v2 is retired"), "{back:?}");
    }
    assert!(refused(&cluster, &["version", "hold", "digits/2", "--reason", "late"]).contains("version v2 is retired"));
    assert!(refused(&cluster, &["version", "hold", "digits/3", "--reason", " "]).contains("`reason`: is empty"));

    // What is still there is enough to go on from, and to go back to, after a restart too.
    cluster.kill();
    cluster.boot().await;
    shown(&cluster, &["version", "pull", "digits/1", folder.to_str().unwrap()]);
    publish(&cluster, 5).await;
    left(&cluster, &[1, 4, 5]).await;
    let back = cluster.roll_back("digits").await;
    assert_eq!(back.number, 4);
    publish(&cluster, 6).await;
    let line = v1::GetLineageRequest { name: format!("{}/versions/6", resource("digits")), ..Default::default() };
    let line = cluster.registry().get_lineage(line).await.unwrap().into_inner().versions;
    assert_eq!(line.iter().map(|version| version.number).collect::<Vec<_>>(), [6, 4, 3, 2, 1]);

    let free = shown(&cluster, &["version", "release", "digits/1"]);
    assert!(free["hold_reason"].is_null());
    left(&cluster, &[4, 6]).await;
}
