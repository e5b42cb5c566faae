//! On every kind of object store the same history gives the same bits, and one that cannot keep a log is refused.

#[path = "../../crates/store/tests/support/servers.rs"]
mod servers;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use futures::future::join_all;
use perennial_proto::v1::{self, Split};
use perennial_tests::cluster::{Bucket, DEADLINE, binary, pipeline};
use perennial_tests::digits::clean;
use perennial_tests::proxy::{Fault, Proxy};
use perennial_tests::{Cluster, Options};
use serde_json::json;
use servers::Server;

/// A folder below the bucket, as a user would share one.
fn bucket(server: &Server) -> Bucket {
    Bucket { url: format!("{}/some/prefix", server.url), environment: server.environment.clone() }
}

async fn push(cluster: &Cluster, domain: u64) {
    let task = format!("domain-{domain}");
    let pushed = cluster.push("digits", &task, Split::Auto, &clean(1, domain, 400)).await.unwrap();
    assert_eq!(pushed.chunk.unwrap().state, "sealed");
}

/// A daemon that is killed in the middle of its second run, and what it published in the end.
async fn published(options: Options) -> (Cluster, v1::Version) {
    let mut cluster = Cluster::start(options).await;
    let mut spec = pipeline("digits");
    spec["training"]["epochs"] = json!(40);
    spec["training"]["checkpoint_steps"] = json!(10);
    cluster.apply(&spec).await.unwrap();
    push(&cluster, 0).await;
    assert_eq!(cluster.update("digits").await.state, "published");

    push(&cluster, 1).await;
    let run = cluster.start_run("digits", &[]).await.unwrap();
    cluster.watch(&run.name, |run| run.progress.as_ref().is_some_and(|at| at.step > 30)).await;
    cluster.kill();
    cluster.boot().await;
    let run = cluster.ended(&run.name).await;
    assert_eq!((run.state.as_str(), run.attempts), ("published", 2), "{run:?}\n{}", cluster.last_log());
    let version = cluster.version("digits", "@champion").await.unwrap();
    (cluster, version)
}

/// Each chunk's id, state and rows.
async fn chunks(cluster: &Cluster) -> Vec<(String, String, u64, u64)> {
    let listed = cluster.list_chunks("digits").await.into_iter();
    listed.map(|chunk| (chunk.name, chunk.state, chunk.train_rows, chunk.held_out_rows)).collect()
}

/// The version's files as a client downloads them, but for the manifest, which says when it was made and what that cost.
fn pulled(cluster: &Cluster, into: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut command = Command::new(binary("perennial"));
    command.args(["version", "pull", "digits@champion"]).arg(into).env("PERENNIAL_SERVER", cluster.url());
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let entries = std::fs::read_dir(into).unwrap().map(|entry| entry.unwrap());
    let files = entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()));
    let mut files: BTreeMap<_, _> = files.collect();
    files.remove("perennial_manifest.json").expect("a version has a manifest");
    files
}

#[tokio::test]
async fn every_store_gives_the_same_bits_though_the_daemon_is_killed() {
    let servers: Vec<_> = join_all(servers::GOOD.map(Server::start)).await.into_iter().flatten().collect();
    if servers.is_empty() {
        return;
    }
    let (on_disk, wanted) = published(Options::default()).await;
    let wanted_chunks = chunks(&on_disk).await;
    let folder = tempfile::tempdir().unwrap();
    let wanted_files = pulled(&on_disk, &folder.path().join("disk"));
    for server in &servers {
        let name = &server.name;
        let options = Options { bucket: Some(bucket(server)), ..Options::default() };
        let (cluster, version) = published(options).await;
        assert!(!cluster.store().exists(), "{name}: nothing is kept beside the bucket");
        assert_eq!(version.weights_sha256, wanted.weights_sha256, "{name}");
        assert_eq!(version.snapshot_sha256, wanted.snapshot_sha256, "{name}");
        assert_eq!(chunks(&cluster).await, wanted_chunks, "{name}");
        assert!(pulled(&cluster, &folder.path().join(name)) == wanted_files, "{name}");
    }
}

#[tokio::test]
async fn a_store_that_lets_two_create_one_object_is_refused_at_the_start() {
    let Some(server) = Server::start("s3rver").await else { return };
    let (bucket, folder) = (bucket(&server), tempfile::tempdir().unwrap());
    let mut command = tokio::process::Command::new(binary("perenniald"));
    command.args(["--listen", "127.0.0.1:0", "--store", &bucket.url]).envs(&bucket.environment);
    command.current_dir(folder.path()).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(DEADLINE, command.output()).await.expect("it ends").unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let what = "it accepted a second object under a name that was taken";
    assert!(said.contains("this store cannot keep the commit log") && said.contains(what), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_up_on_everybody_for_a_while_is_waited_for() {
    let Some(server) = Server::start("moto").await else { return };
    let port = server.environment["AWS_ENDPOINT"].rsplit(':').next().unwrap().parse().unwrap();
    let proxy = Proxy::before(port, [Fault::Cut { after: 0 }; 8]).await;
    let mut bucket = bucket(&server);
    bucket.environment.insert("AWS_ENDPOINT".to_owned(), proxy.url());
    let cluster = Cluster::start(Options { bucket: Some(bucket), ..Options::default() }).await;
    cluster.apply(&pipeline("digits")).await.unwrap();
    push(&cluster, 0).await;
    assert_eq!(proxy.left(), 0);
}
