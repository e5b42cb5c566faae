//! *Kill anything*: whatever is killed, whenever, runs end with the same bits, no version is torn, and no chunk is missing or
//! doubled. `PERENNIAL_KILLS` says how many processes die at random (`make chaos`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use perennial_proto::limits::FRAME_BYTES;
use perennial_proto::v1::{self, Split};
use perennial_tests::cluster::{pipeline, resource, role};
use perennial_tests::digits::clean;
use perennial_tests::insist::{absorb, all_chunks, all_versions, insist, rows_checked};
use perennial_tests::{Cluster, Options, Worker};
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
    let kills = 4;
    let mut spec = long("digits", 2);
    spec["training"]["epochs"] = json!(60);
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
        cluster.push_as(v1::ChunkHeader { wait: true, ..later() }, &rows, FRAME_BYTES).await.unwrap();
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

/// Two of everything that may be two, each started again when it dies.
async fn supervised(slots: u32) -> Cluster {
    let apart = ["trainer", "evaluator"].map(|role| Worker { role, slots }).to_vec();
    Cluster::start(Options { apart, supervised: true, ..Options::default() }).await
}

/// SIGKILL for `kills` processes, one at a time. Gives back how many of which role.
async fn rage(cluster: &Cluster, kills: u64) -> BTreeMap<&'static str, u64> {
    let mut killed = BTreeMap::new();
    for round in 0..kills {
        let draw = domain::draw::Draw::new(kills).at(round);
        // The moment of death is the one thing here that is meant to be a matter of time.
        tokio::time::sleep(Duration::from_millis(100 + draw.below(1900))).await;
        let all = cluster.all_processes();
        if let Some((pid, line)) = all.get(draw.at(1).below(all.len().max(1) as u64) as usize) {
            // It may end by itself meanwhile.
            let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).output();
            *killed.entry(role(line).expect("each has one")).or_default() += 1;
        }
    }
    killed
}

/// What the `number`th update of "digits" trains on.
async fn next_chunk(cluster: &Cluster, number: u64) {
    let rows = clean(number, number % 3, 300);
    let task = format!("domain-{}", number % 3);
    insist(async || cluster.push("digits", &task, Split::Auto, &rows).await).await;
    absorb(cluster, "digits").await;
}

/// Weights and memory of each version.
async fn bits(cluster: &Cluster) -> Vec<(String, String)> {
    let versions = all_versions(cluster, "digits").await.into_iter();
    versions.map(|version| (version.weights_sha256, version.snapshot_sha256)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_dies_while_clients_push_and_runs_train_the_history_is_the_same() {
    let kills: u64 = std::env::var("PERENNIAL_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let mut spec = pipeline("digits");
    spec["resources"] = json!({"ranks": 2});
    let cluster = supervised(2).await;
    for name in ["digits", "inbox"] {
        spec["name"] = name.into();
        insist(async || cluster.apply(&spec).await).await;
    }
    let over = AtomicBool::new(false);
    let raging = async {
        let killed = rage(&cluster, kills).await;
        over.store(true, Ordering::Relaxed);
        killed
    };
    let training = async {
        let mut updates = 0;
        while !over.load(Ordering::Relaxed) {
            next_chunk(&cluster, updates).await;
            updates += 1;
        }
        updates
    };
    let pushing = async {
        let (mut pushed, mut pace) = (0, tokio::time::interval(Duration::from_millis(500)));
        while !over.load(Ordering::Relaxed) {
            pace.tick().await;
            let rows = clean(1000 + pushed, 1, 20);
            insist(async || cluster.leave("inbox", "clean", Split::Train, &rows).await).await;
            pushed += 1;
        }
        pushed
    };
    let (killed, updates, pushed) = tokio::join!(raging, training, pushing);
    let bits = bits(&cluster).await;
    println!("{killed:?} died; {updates} updates, {pushed} chunks pushed meanwhile");

    assert_eq!((bits.len() as u64, whole_versions(&cluster.store()) as u64), (updates, updates));
    let line = all_chunks(&cluster, "digits").await.into_iter().map(|chunk| (chunk.state, chunk.version));
    assert!(line.eq((1..=updates).map(|version| ("absorbed".to_owned(), version))));
    rows_checked(&cluster, "inbox").await;
    let inbox = all_chunks(&cluster, "inbox").await;
    let names: BTreeSet<&String> = inbox.iter().map(|chunk| &chunk.name).collect();
    assert_eq!((names.len() as u64, inbox.len() as u64), (pushed, pushed));
    assert!(inbox.iter().all(|chunk| chunk.state == "sealed" && chunk.train_rows == 20), "{inbox:?}");

    drop(cluster);
    let quiet = supervised(2).await;
    spec["name"] = "digits".into();
    quiet.apply(&spec).await.unwrap();
    for number in 0..updates {
        next_chunk(&quiet, number).await;
    }
    assert_eq!(self::bits(&quiet).await, bits);
}
