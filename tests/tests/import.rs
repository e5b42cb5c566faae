//! An adapter that was trained elsewhere becomes a pipeline's first version, or is refused with a reason.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use perennial_proto::v1::import_version_request::Part;
use perennial_proto::v1::{self, Split};
use perennial_tests::cluster::{binary, pipeline, resource};
use perennial_tests::digits::{clean, mislabelled};
use perennial_tests::{Cluster, Options};
use serde_json::{Value, json};
use tonic::{Code, Status};

const WEIGHTS: &str = "adapter_model.safetensors";
const CONFIG: &str = "adapter_config.json";

fn spec(name: &str) -> Value {
    let mut spec = pipeline(name);
    spec["model"] = json!("vit:d=16,layers=1,heads=2,patch=4,mlp=32");
    spec["adapter"] = json!({"lora": {"r": 4, "target_modules": ["query", "value"]}});
    spec["training"] = json!({"epochs": 8, "batch_size": 32, "learning_rate": 0.01});
    spec
}

fn perennial(cluster: &Cluster, args: &[&str]) -> Output {
    Command::new(binary("perennial")).args(args).args(["-o", "json", "--server", &cluster.url()]).output().unwrap()
}

fn done(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// An adapter of [`spec`], as a pipeline of the cluster published it, and that version.
async fn trained(cluster: &Cluster) -> (PathBuf, v1::Version) {
    cluster.apply(&spec("trained")).await.unwrap();
    cluster.push("trained", "domain-0", Split::Auto, &clean(1, 0, 400)).await.unwrap();
    assert_eq!(cluster.update("trained").await.state, "published", "{}", cluster.last_log());
    let folder = cluster.folder().join("adapter");
    done(&perennial(cluster, &["version", "pull", "trained/1", folder.to_str().unwrap()]));
    (folder, cluster.version("trained", "1").await.unwrap())
}

#[tokio::test]
async fn an_imported_adapter_is_the_first_champion_and_updates_continue_from_it() {
    let cluster = Cluster::start(Options::default()).await;
    let (folder, trained) = trained(&cluster).await;
    cluster.apply(&spec("taken")).await.unwrap();
    cluster.push("taken", "domain-0", Split::HeldOut, &clean(2, 0, 100)).await.unwrap();

    let shown = done(&perennial(&cluster, &["version", "import", "taken", folder.to_str().unwrap()]));
    assert_eq!(
        (&shown["version"], &shown["parent"], &shown["aliases"]),
        (&json!(1), &Value::Null, &json!(["champion"]))
    );
    assert_eq!(shown["weights_sha256"], trained.weights_sha256, "the same adapter and head");
    let accuracy = shown["average_accuracy"].as_f64().unwrap();
    assert!(shown["verdict"] == "PASS" && accuracy > 0.6, "{shown}");
    explains_itself(&cluster, &folder);

    cluster.push("taken", "domain-0", Split::Auto, &clean(3, 0, 200)).await.unwrap();
    let run = cluster.update("taken").await;
    assert_eq!((run.state.as_str(), run.parent_version, run.version), ("published", 1, 2), "{run:?}");

    let matrix = done(&perennial(&cluster, &["eval", "matrix", "taken"]));
    assert!(matrix.to_string().contains("domain-0"), "{matrix}");
    let again = perennial(&cluster, &["version", "import", "taken", folder.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(
        again.status.code() == Some(1) && said.contains("`namespaces/default/pipelines/taken` has version v2"),
        "{said}"
    );
}

#[tokio::test]
async fn an_adapter_that_does_worse_than_its_base_is_refused_by_the_gate() {
    let cluster = Cluster::start(Options::default()).await;
    let (folder, _) = trained(&cluster).await;
    cluster.apply(&spec("taken")).await.unwrap();
    cluster.push("taken", "domain-0", Split::HeldOut, &mislabelled(2, 0, 100)).await.unwrap();
    let refused = perennial(&cluster, &["version", "import", "taken", folder.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(3) && said.contains("average accuracy fell"), "{said}");
    assert_eq!(cluster.version("taken", "1").await.unwrap_err().code(), Code::NotFound);
}

/// The version's files say what it was made of.
fn explains_itself(cluster: &Cluster, folder: &Path) {
    let published = cluster.store().join("adapters/default/taken-v0001");
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(published.join("perennial_manifest.json")).unwrap()).unwrap();
    let named = |file: &Value| file["name"] == WEIGHTS;
    let import = manifest["import"]["files"].as_array().unwrap().iter().find(|file| named(file)).unwrap();
    let bytes = std::fs::read(folder.join(WEIGHTS)).unwrap();
    assert_eq!(import["sha256"], hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&bytes)));
    assert_eq!((&manifest["chunks"], &manifest["cost"]["steps"]), (&json!([]), &json!(0)));
    let card = std::fs::read_to_string(published.join("README.md")).unwrap();
    assert!(card.contains("imported: LoRA of rank 4 on query, value, trained elsewhere"), "{card}");
}

/// Sends these files of a folder as they are.
async fn import(
    cluster: &Cluster,
    pipeline: &str,
    base_sha256: &str,
    files: &[(&str, Vec<u8>)],
) -> Result<v1::Run, Status> {
    let header = v1::ImportHeader { pipeline: resource(pipeline), base_sha256: base_sha256.to_owned() };
    let files = files.iter().flat_map(|(name, bytes)| [Part::File((*name).to_owned()), Part::Frame(bytes.clone())]);
    let parts: Vec<_> = [Part::Header(header)].into_iter().chain(files).collect();
    let messages = parts.into_iter().map(|part| v1::ImportVersionRequest { part: Some(part) });
    let answer = cluster.registry().import_version(futures::stream::iter(messages)).await?;
    Ok(answer.into_inner().run.expect("it was queued"))
}

fn refused(outcome: Result<v1::Run, Status>, code: Code, words: &[&str]) {
    let status = outcome.expect_err("it is refused");
    assert_eq!(status.code(), code, "{status:?}");
    assert!(words.iter().all(|word| status.message().contains(word)), "{words:?}: {status:?}");
}

#[tokio::test]
async fn an_adapter_that_is_not_the_pipelines_is_refused_before_anything_is_recorded() {
    let cluster = Cluster::start(Options::default()).await;
    let (folder, _) = trained(&cluster).await;
    cluster.apply(&spec("taken")).await.unwrap();
    cluster.apply(&pipeline("whole")).await.unwrap();
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let (config, weights) = (read(CONFIG), read(WEIGHTS));
    let good = [(CONFIG, config.clone()), (WEIGHTS, weights.clone())];
    let with = |key: &str, value: Value| {
        let mut config: Value = serde_json::from_slice(&config).unwrap();
        config[key] = value;
        [(CONFIG, config.to_string().into_bytes()), (WEIGHTS, weights.clone())]
    };

    let digest = "ab".repeat(32);
    let outcome = import(&cluster, "taken", &digest, &good).await;
    refused(outcome, Code::FailedPrecondition, &[&digest, "`model`", "drawn from seed 7", "own base model"]);
    let mut manifest: Value = serde_json::from_slice(&read("perennial_manifest.json")).unwrap();
    manifest["config"]["model"] = json!({"uri": "file:///m", "sha256": digest});
    let from_other = [&good[..], &[("perennial_manifest.json", manifest.to_string().into_bytes())]].concat();
    let outcome = import(&cluster, "taken", "", &from_other).await;
    refused(outcome, Code::FailedPrecondition, &[&digest, "config.model", "drawn from seed 7"]);
    let outcome = import(&cluster, "taken", "", &with("r", json!(8))).await;
    refused(outcome, Code::FailedPrecondition, &["`r` is 8", "`adapter.lora.r` is 4", "apply it"]);
    let outcome = import(&cluster, "taken", "", &with("use_dora", json!(true))).await;
    refused(outcome, Code::InvalidArgument, &["`use_dora` is true"]);
    refused(
        import(&cluster, "taken", "", &good[..1]).await,
        Code::InvalidArgument,
        &["no `adapter_model.safetensors`"],
    );
    let stray = [&good[..], &[("optimizer.pt", b"x".to_vec())]].concat();
    refused(import(&cluster, "taken", "", &stray).await, Code::InvalidArgument, &["`optimizer.pt` is not one of"]);
    refused(
        import(&cluster, "whole", "", &good).await,
        Code::FailedPrecondition,
        &["`adapter` is full", "adapter: lora"],
    );
    refused(import(&cluster, "nobody", "", &good).await, Code::NotFound, &["nobody", "pipeline apply"]);
    let outcome = import(&cluster, "trained", "", &good).await;
    refused(outcome, Code::FailedPrecondition, &["has version v1", "first version", "new name"]);

    let request = v1::ListRunsRequest { parent: resource("taken"), ..Default::default() };
    assert_eq!(cluster.runs().list_runs(request).await.unwrap().into_inner().runs, []);
}

#[tokio::test]
async fn tensors_that_fit_nothing_fail_the_run_at_once_and_another_import_may_follow() {
    let cluster = Cluster::start(Options::default()).await;
    let (folder, _) = trained(&cluster).await;
    cluster.apply(&spec("taken")).await.unwrap();
    let weights = std::fs::read(folder.join(WEIGHTS)).unwrap();
    std::fs::write(folder.join(WEIGHTS), renamed(&weights, b"encoder.layer.0", b"encoder.layer.7")).unwrap();
    let import = ["version", "import", "taken", folder.to_str().unwrap()];
    let failed = perennial(&cluster, &import);
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    let key = "`base_model.model.encoder.layer.7.attention.attention.query.lora_A.weight`";
    assert!(failed.status.code() == Some(1) && said.contains(key) && said.contains("nothing here takes"), "{said}");
    let run =
        cluster.runs().get_run(v1::GetRunRequest { name: format!("{}/runs/1", resource("taken")) }).await.unwrap();
    assert_eq!(run.into_inner().run.unwrap().attempts, 1, "another attempt would end the same");

    std::fs::write(folder.join(WEIGHTS), weights).unwrap();
    let queued = done(&perennial(&cluster, &[&import[..], &["--no-wait"]].concat()));
    assert_eq!((&queued["run"], &queued["parent_version"]), (&json!(2), &Value::Null));
    let run = cluster.ended(queued["resource"].as_str().unwrap()).await;
    assert_eq!(
        (run.state.as_str(), run.verdict.as_str()),
        ("published", "INCONCLUSIVE"),
        "nothing is held out: {run:?}"
    );
    assert_eq!(cluster.version("taken", "@champion").await.unwrap().number, 1);
}

/// The bytes with each `from` as `to`, which is as long: the names in a tensor file's header.
fn renamed(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = bytes.to_vec();
    for start in 0..bytes.len() - from.len() {
        let window = &mut bytes[start..start + from.len()];
        if window == from {
            window.copy_from_slice(to);
        }
    }
    bytes
}
