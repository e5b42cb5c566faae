//! Say what was lost: whatever does not train is counted, with a reason, where people look.

use std::process::{Command, Stdio};

use perennial_proto::v1::Split;
use perennial_tests::cluster::{binary, pipeline};
use perennial_tests::digits::{clean, mislabelled};
use perennial_tests::{Cluster, Options};
use serde_json::{Value, json};

fn client(cluster: &Cluster, args: &[&str]) -> (Option<i32>, Value, String) {
    let mut command = Command::new(binary("perennial"));
    command.args(args).args(["-o", "json"]).env("PERENNIAL_SERVER", cluster.url()).stdin(Stdio::null());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default(), said)
}

/// Rows of which three come twice, one has an unknown label and one is no JSON.
fn flawed() -> Vec<u8> {
    let rows = clean(1, 0, 200);
    let lines: Vec<&[u8]> = rows.split_inclusive(|byte| *byte == b'\n').collect();
    let unknown = String::from_utf8(lines[5].to_vec()).unwrap();
    let label: Value = serde_json::from_str(&unknown).unwrap();
    let unknown = unknown.replace(label["label"].as_str().unwrap(), "no-digit");
    [&rows, &lines[..3].concat(), unknown.as_bytes(), b"no JSON\n"].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_do_not_train_are_counted_with_their_reasons() {
    let cluster = Cluster::start(Options::default()).await;
    cluster.apply(&pipeline("digits")).await.unwrap();
    let file = cluster.folder().join("rows.jsonl");
    std::fs::write(&file, flawed()).unwrap();

    let (code, pushed, said) =
        client(&cluster, &["chunk", "push", "--wait", "digits", file.to_str().unwrap(), "--task", "clean"]);
    assert_eq!((code, &pushed["bad_rows"], &pushed["duplicate_rows"]), (Some(1), &2.into(), &3.into()), "{said}");
    assert!(said.contains("2 of 205 rows cannot be used"), "{said}");
    let chunk = pushed["chunk"].as_str().unwrap();
    let (_, listed, _) = client(&cluster, &["chunk", "quarantine", "ls", "digits", chunk]);
    let reasons: Vec<&str> =
        listed["rows"].as_array().unwrap().iter().map(|row| row["reason"].as_str().unwrap()).collect();
    assert!(reasons[0].contains("label `no-digit`") && reasons[1].contains("is not a JSON object"), "{reasons:?}");

    let (code, _, said) = client(&cluster, &["chunk", "quarantine", "release", "digits", chunk]);
    assert_eq!(code, Some(0), "{said}");
    let run = cluster.update("digits").await;
    assert_eq!(run.state, "published", "{run:?}\n{}", cluster.last_log());
    let held_out = cluster.list_chunks("digits").await[0].held_out_rows;
    let left_out = async |version: &str| cluster.version("digits", version).await.unwrap().contaminated_rows;
    assert_eq!(left_out("@champion").await, 0);

    // The held-out rows of the first chunk come again, to train.
    let again = [clean(1, 0, 200), clean(2, 0, 200)].concat();
    let pushed = cluster.push("digits", "clean", Split::Train, &again).await.unwrap().chunk.unwrap();
    assert_eq!(pushed.state, "sealed");
    let run = cluster.update("digits").await;
    assert_eq!(run.state, "published", "{run:?}\n{}", cluster.last_log());
    assert!(held_out > 20 && left_out("@champion").await == held_out, "{held_out}");
    let (_, shown, _) = client(&cluster, &["version", "show", "digits@champion"]);
    assert_eq!(shown["contaminated_rows"], held_out);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_its_gate_refuses_says_why_and_so_do_its_chunks() {
    let cluster = Cluster::start(Options::default()).await;
    let mut spec = pipeline("digits");
    cluster.apply(&spec).await.unwrap();
    cluster.push("digits", "clean", Split::Auto, &clean(1, 0, 300)).await.unwrap();
    assert_eq!(cluster.update("digits").await.state, "published");
    // Labels that say nothing, and a gate that lets nothing be forgotten.
    spec["gate"] = json!({"max_forgetting": 0.0, "max_average_accuracy_drop": 0.0});
    cluster.apply(&spec).await.unwrap();
    cluster.push("digits", "clean", Split::Train, &mislabelled(3, 0, 300)).await.unwrap();
    let run = cluster.update("digits").await;
    assert!(run.state == "rejected" && !run.reasons.is_empty(), "{run:?}");
    let chunks = cluster.list_chunks("digits").await;
    let refused = chunks.iter().find(|chunk| chunk.state == "refused").unwrap();
    assert_eq!(refused.reason, run.reasons.join("; "));
}
