//! What sets versions apart, and who descends from whom, by the command line.

use std::process::Command;

use perennial_proto::v1::{self, Split};
use perennial_tests::cluster::{binary, pipeline, resource};
use perennial_tests::digits::clean;
use perennial_tests::{Cluster, Options};
use serde_json::{Value, json};

fn perennial(cluster: &Cluster, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(binary("perennial"));
    let output = command.args(args).env("PERENNIAL_SERVER", cluster.url()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[track_caller]
fn shown(cluster: &Cluster, args: &[&str]) -> Value {
    let (code, out, said) = perennial(cluster, &[args, &["-o", "json"]].concat());
    assert_eq!(code, Some(0), "{said}");
    serde_json::from_str(&out).unwrap()
}

/// The chunk that was pushed, once a version has absorbed it.
async fn publish(cluster: &Cluster, seed: u64, task: &str) -> String {
    let pushed = cluster.push("digits", task, Split::Auto, &clean(seed, 0, 200)).await.unwrap();
    let run = cluster.update("digits").await;
    assert_eq!(run.state, "published", "{run:?}\n{}", cluster.last_log());
    pushed.chunk.unwrap().name.rsplit('/').next().unwrap().to_owned()
}

fn numbers(versions: &Value) -> Vec<u64> {
    versions.as_array().unwrap().iter().map(|version| version["version"].as_u64().unwrap()).collect()
}

/// Version 2 continues from 1, and so does 3, by other settings.
async fn forked(cluster: &Cluster) -> [String; 3] {
    let mut spec = pipeline("digits");
    spec["gate"] = json!({"max_average_accuracy_drop": 1.0, "max_forgetting": 1.0});
    cluster.apply(&spec).await.unwrap();
    let first = publish(cluster, 1, "plain").await;
    let second = publish(cluster, 2, "plain").await;
    cluster.roll_back("digits").await;
    spec["training"]["epochs"] = json!(2);
    cluster.apply(&spec).await.unwrap();
    let third = publish(cluster, 3, "late").await;
    [first, second, third]
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_compared_by_data_settings_answers_and_memory() {
    let cluster = Cluster::start(Options::default()).await;
    let [_, second, third] = forked(&cluster).await;
    let diff = shown(&cluster, &["version", "diff", "digits/2", "digits@champion"]);
    assert_eq!((&diff["version"], &diff["other"], &diff["common_ancestor"]), (&2.into(), &3.into(), &1.into()));
    assert_eq!(diff["same_weights"], false);
    let chunks: Vec<(&str, u64)> = diff["chunks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|chunk| (chunk["chunk"].as_str().unwrap(), chunk["absorbed_by"].as_u64().unwrap()))
        .collect();
    assert_eq!(chunks, [(second.as_str(), 2), (third.as_str(), 3)]);
    let rows = [&diff["rows"]["only_version"], &diff["rows"]["only_other"]];
    assert!(rows.iter().all(|rows| (100..200).contains(&rows.as_u64().unwrap())), "{}", diff["rows"]);
    assert_eq!(diff["settings"], json!([{"key": "training.epochs", "version": 4, "other": 2}]));
    let tasks = diff["tasks"].as_array().unwrap();
    assert_eq!(tasks.iter().map(|task| &task["task"]).collect::<Vec<_>>(), ["plain", "late"]);
    assert!(tasks[0]["accuracy"].is_f64() && tasks[0]["other_accuracy"].is_f64(), "{}", tasks[0]);
    assert!(tasks[1]["accuracy"].is_null() && tasks[1]["flips"].is_null(), "{}", tasks[1]);
    let memory = diff["memory"].as_array().unwrap();
    let count = |key: &str| memory.iter().map(|task| task[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!((count("both") + count("only_version"), count("both") + count("only_other")), (200, 200));
    assert!(memory.iter().any(|task| task["task"] == "late" && task["only_version"] == 0), "{memory:?}");

    let along = shown(&cluster, &["version", "diff", "digits/1", "digits/2"]);
    assert_eq!((&along["common_ancestor"], &along["settings"]), (&1.into(), &json!([])));
    assert_eq!(along["tasks"][0]["flips"], Value::Null, "the EvalSet grew");
    let same = shown(&cluster, &["version", "diff", "digits/2", "digits/2"]);
    assert_eq!((&same["same_weights"], &same["chunks"]), (&true.into(), &json!([])));
    assert_eq!(same["tasks"][0]["flips"]["negative_flip_rate"], 0.0);
    let (_, text, _) = perennial(&cluster, &["version", "diff", "digits/2", "digits/3"]);
    assert!(text.contains("both continue from v1") && text.contains("training.epochs  4   2"), "{text}");

    cluster.apply(&pipeline("others")).await.unwrap();
    let (code, _, said) = perennial(&cluster, &["version", "diff", "digits/2", "others/1"]);
    assert!(code == Some(1) && said.contains("versions of one pipeline are compared"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_names_its_descendants_and_a_chunk_those_that_saw_it() {
    let cluster = Cluster::start(Options::default()).await;
    let [first, second, third] = forked(&cluster).await;
    let line = |reference: &str| {
        let line = shown(&cluster, &["version", "lineage", reference]);
        (line["version"]["version"].as_u64().unwrap(), numbers(&line["ancestors"]), numbers(&line["descendants"]))
    };
    assert_eq!(line("digits/1"), (1, vec![], vec![2, 3]));
    assert_eq!(line("digits@champion"), (3, vec![1], vec![]));
    let (_, text, _) = perennial(&cluster, &["version", "lineage", "digits/1"]);
    assert_eq!(text.matches("descendant").count(), 2, "{text}");
    let saw = |chunk: &str| numbers(&shown(&cluster, &["version", "ls", "digits", "--chunk", chunk])["versions"]);
    assert_eq!((saw(&first), saw(&second), saw(&third)), (vec![1, 2, 3], vec![2], vec![3]));
    let (code, _, said) = perennial(&cluster, &["version", "ls", "digits", "--chunk", "nothing"]);
    assert!(code == Some(1) && said.contains("chunk nothing is not known"), "{said}");

    let name = format!("{}/versions/3", resource("digits"));
    let pages = async |page_size, page_token: &str| {
        let page_token = page_token.to_owned();
        let request = v1::GetLineageRequest { name: name.clone(), page_size, page_token };
        let page = cluster.registry().get_lineage(request).await.unwrap().into_inner();
        (page.versions.into_iter().map(|version| version.number).collect::<Vec<_>>(), page.next_page_token)
    };
    assert_eq!(pages(0, "").await, (vec![3, 1], String::new()), "at once, as before there were pages");
    let (newest, token) = pages(1, "").await;
    assert_eq!((newest, pages(1, &token).await), (vec![3], (vec![1], String::new())));
}
