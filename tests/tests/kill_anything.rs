//! *Kill anything*: whatever is killed, whenever, the run ends with the same bits, no version is
//! torn, and no chunk is missing or doubled. `PERENNIAL_KILLS` says how often (`make chaos`).

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use perennial_proto::limits::FRAME_BYTES;
use perennial_proto::v1::{self, Split};
use perennial_tests::cluster::{pipeline, resource};
use perennial_tests::digits::clean;
use perennial_tests::{Cluster, Options};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A run of some seconds, with a checkpoint every few steps.
fn long(name: &str, ranks: u32) -> Value {
    let mut spec = pipeline(name);
    spec["training"]["epochs"] = json!(30);
    spec["training"]["checkpoint_steps"] = json!(10);
    spec["resources"] = json!({"ranks": ranks});
    spec
}

async fn prepare(cluster: &Cluster, spec: &Value) -> v1::Run {
    let name = spec["name"].as_str().unwrap();
    cluster.apply(spec).await.unwrap();
    cluster.push(name, "domain-0", Split::Auto, &clean(3, 0, 800)).await.unwrap();
    cluster.start_run(name, &[]).await.unwrap()
}

async fn undisturbed(spec: &Value) -> v1::Version {
    let cluster = Cluster::start(Options::default()).await;
    let run = prepare(&cluster, spec).await;
    assert_eq!(cluster.ended(&run.name).await.state, "published");
    cluster.version(spec["name"].as_str().unwrap(), "@champion").await.unwrap()
}

fn kill(pid: u32) {
    let killed = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(killed.success());
}

#[tokio::test]
async fn a_killed_rank_costs_an_attempt_and_no_bits() {
    let spec = long("digits", 2);
    let wanted = undisturbed(&spec).await;
    let cluster = Cluster::start(Options::default()).await;
    let run = prepare(&cluster, &spec).await;
    cluster.watch(&run.name, |run| run.progress.as_ref().is_some_and(|at| at.step > 30)).await;
    let victims = cluster.processes("\0rank\0");
    assert_eq!(victims.len(), 2);
    kill(victims[1]);
    let run = cluster.ended(&run.name).await;
    assert_eq!((run.state.as_str(), run.attempts), ("published", 2), "{run:?}");
    assert!(run.last_error.contains("rank "), "{}", run.last_error);
    let version = cluster.version("digits", "@champion").await.unwrap();
    assert_eq!(version.weights_sha256, wanted.weights_sha256);
    assert_eq!(version.snapshot_sha256, wanted.snapshot_sha256);
}

#[tokio::test]
async fn a_killed_worker_is_replaced_and_the_run_goes_on() {
    let spec = long("digits", 2);
    let wanted = undisturbed(&spec).await;
    let cluster = Cluster::start(Options::default()).await;
    let run = prepare(&cluster, &spec).await;
    cluster.watch(&run.name, |run| run.progress.as_ref().is_some_and(|at| at.step > 30)).await;
    let victims = cluster.processes("--die-with-parent");
    assert_eq!(victims.len(), 1);
    kill(victims[0]);
    let run = cluster.ended(&run.name).await;
    assert_eq!((run.state.as_str(), run.attempts), ("published", 2), "{run:?}");
    let version = cluster.version("digits", "@champion").await.unwrap();
    assert_eq!(version.weights_sha256, wanted.weights_sha256);
}

/// Every folder with a manifest is whole: each file it names is there with its digest.
fn whole_versions(store: &Path) -> usize {
    let Ok(folders) = std::fs::read_dir(store.join("adapters/default")) else { return 0 };
    let manifests = folders.flatten().filter_map(|folder| {
        let text = std::fs::read(folder.path().join("perennial_manifest.json")).ok()?;
        Some((folder.path(), serde_json::from_slice::<Value>(&text).expect("a manifest is whole")))
    });
    let check = |(folder, manifest): (std::path::PathBuf, Value)| {
        for file in manifest["files"].as_array().unwrap() {
            let bytes = std::fs::read(folder.join(file["name"].as_str().unwrap())).unwrap();
            assert_eq!(hex::encode(Sha256::digest(bytes)), file["sha256"].as_str().unwrap(), "{file}");
        }
    };
    manifests.map(check).count()
}

#[tokio::test]
async fn a_daemon_killed_at_random_moments_loses_nothing() {
    let kills: u64 = std::env::var("PERENNIAL_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let mut spec = long("digits", 2);
    spec["training"]["epochs"] = json!(15 * kills);
    let wanted = undisturbed(&spec).await;
    let mut cluster = Cluster::start(Options::default()).await;
    let run = prepare(&cluster, &spec).await;
    let mut within = 0;
    for round in 0..kills {
        let draw = domain::draw::Draw::new(kills).at(round).unit();
        let moment = Duration::from_millis(200 + (3000.0 * draw) as u64);
        // The moment of death is the one thing here that is meant to be a matter of time.
        within += u64::from(tokio::time::timeout(moment, cluster.ended(&run.name)).await.is_err());
        let rows = clean(100 + round, 1, 20);
        // Under way when the daemon dies, and pushed again since nobody answered.
        let torn = tokio::spawn(cluster.push_as(later(), &rows, 512));
        cluster.kill();
        let _ = torn.await.unwrap();
        whole_versions(&cluster.store());
        cluster.boot().await;
        cluster.push_as(later(), &rows, FRAME_BYTES).await.unwrap();
    }
    let run = cluster.ended(&run.name).await;
    println!("{within} of {kills} kills fell within the run, which took {} attempts", run.attempts);
    assert!(2 * within >= kills, "{within} of {kills}");
    assert_eq!(run.state, "published", "{run:?}");
    let version = cluster.version("digits", "@champion").await.unwrap();
    assert_eq!(version.weights_sha256, wanted.weights_sha256);
    assert_eq!(version.snapshot_sha256, wanted.snapshot_sha256);
    assert_eq!((version.number, whole_versions(&cluster.store())), (1, 1));
    let chunks = cluster.list_chunks("digits").await;
    let names: BTreeSet<&String> = chunks.iter().map(|chunk| &chunk.name).collect();
    assert_eq!((names.len() as u64, chunks.len() as u64), (1 + kills, 1 + kills));
    assert_eq!((chunks[0].state.as_str(), chunks[0].version), ("absorbed", 1));
    assert!(chunks[1..].iter().all(|chunk| chunk.state == "sealed" && chunk.train_rows == 20), "{chunks:?}");
}

/// Of a chunk that waits for the next run.
fn later() -> v1::ChunkHeader {
    v1::ChunkHeader {
        pipeline: resource("digits"),
        task: "later".to_owned(),
        split: Split::Train.into(),
        format: v1::Format::Jsonl.into(),
        ..Default::default()
    }
}
