//! Labels that come after their rows: a chunk waits for them, and what comes too late still counts.

use perennial_proto::v1::{self, Split};
use perennial_tests::cluster::{binary, pipeline, resource};
use perennial_tests::digits::clean;
use perennial_tests::{Cluster, Options};
use serde_json::{Value, json};

/// Rows without labels, and the labels as a file of them.
fn apart(seed: u64) -> (Vec<u8>, Vec<(String, String)>) {
    let rows = String::from_utf8(clean(seed, 0, 300)).unwrap();
    let (mut bare, mut labels) = (String::new(), Vec::new());
    for (at, line) in rows.lines().enumerate() {
        let mut row: Value = serde_json::from_str(line).unwrap();
        let id = format!("{seed}-{at}");
        labels.push((id.clone(), row["label"].as_str().unwrap().to_owned()));
        row["row_id"] = id.into();
        row.as_object_mut().unwrap().remove("label");
        bare += &format!("{row}\n");
    }
    (bare.into_bytes(), labels)
}

/// `perennial chunk label` with these.
fn label(cluster: &Cluster, labels: &[(String, String)]) -> (Option<i32>, Value, String) {
    let file = cluster.folder().join("labels.csv");
    let lines: String = labels.iter().map(|(id, label)| format!("{id},{label}\n")).collect();
    std::fs::write(&file, format!("row_id,label\n{lines}")).unwrap();
    client(cluster, &["chunk", "label", "digits", file.to_str().unwrap()])
}

fn client(cluster: &Cluster, args: &[&str]) -> (Option<i32>, Value, String) {
    let mut command = std::process::Command::new(binary("perennial"));
    command.args(args).args(["-o", "json"]).env("PERENNIAL_SERVER", cluster.url());
    let output = command.stdin(std::process::Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default(), said)
}

async fn start(coverage: f64, deadline_seconds: u64) -> Cluster {
    let cluster = Cluster::start(Options::default()).await;
    let mut spec = pipeline("digits");
    spec["data"] = json!({"late_labels": {"coverage": coverage, "deadline_seconds": deadline_seconds}});
    cluster.apply(&spec).await.unwrap();
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_trains_with_the_labels_it_has_and_later_ones_train_next() {
    let cluster = start(0.8, 3600).await;
    let (rows, labels) = apart(1);
    let chunk = cluster.push("digits", "clean", Split::Auto, &rows).await.unwrap().chunk.unwrap();
    assert_eq!((chunk.state.as_str(), chunk.unlabelled_rows), ("labelling", 300));
    let early = cluster.start_run("digits", &[]).await.unwrap_err();
    assert!(early.message().starts_with("nothing to train"), "{early}");

    let (code, said, errors) = label(&cluster, &labels[..240]);
    assert_eq!((code, &said["labelled_rows"]), (Some(0), &240.into()), "{errors}");
    assert_eq!(said["chunks"][0]["state"], "sealed");
    let run = cluster.update("digits").await;
    assert_eq!(run.state, "published", "{run:?}\n{}", cluster.last_log());
    let seen = async || {
        let request = v1::GetBufferStatsRequest { pipeline: resource("digits") };
        cluster.rehearsal().get_buffer_stats(request).await.unwrap().into_inner().snapshot.unwrap().seen
    };
    let trained = cluster.list_chunks("digits").await[0].train_rows;
    assert_eq!(seen().await, trained);

    // The others come, and one of those that were trained on was wrong.
    let (_, labelled) = labels.split_at(240);
    let mut late = labelled.to_vec();
    late.push((labels[0].0.clone(), "c3".to_owned()));
    late.push(("nobody".to_owned(), "c0".to_owned()));
    let (code, said, errors) = label(&cluster, &late);
    assert_eq!(code, Some(1));
    assert!(errors.contains("1 of the rows are in no chunk, such as `nobody`"), "{errors}");
    assert_eq!((&said["labelled_rows"], &said["changed_rows"]), (&60.into(), &1.into()));
    let (_, listed, _) = client(&cluster, &["chunk", "corrections", "digits"]);
    assert_eq!((&listed["corrections"][0]["rows"], &listed["corrections"][0]["versions"]), (&1.into(), &json!([1])));

    let late = cluster.list_chunks("digits").await[0].train_rows - trained;
    let next = cluster.push("digits", "clean", Split::Train, &clean(2, 0, 200)).await.unwrap().chunk.unwrap();
    assert_eq!(next.state, "sealed", "every row of it has a label");
    let run = cluster.update("digits").await;
    assert_eq!(run.state, "published", "{run:?}\n{}", cluster.last_log());
    assert!(late > 0 && seen().await == trained + late + 200, "{} {trained} {late}", seen().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_whose_labels_do_not_come_trains_at_its_deadline() {
    let cluster = start(1.0, 1).await;
    let (rows, labels) = apart(1);
    let push = cluster.push("digits", "clean", Split::Auto, &rows);
    let chunk = push.await.unwrap().chunk.unwrap();
    assert_eq!(chunk.state, "labelling");
    label(&cluster, &labels[..100]);
    let sealed = async {
        while cluster.list_chunks("digits").await[0].state != "sealed" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(perennial_tests::cluster::DEADLINE, sealed).await.expect("it is sealed");
    let run = cluster.update("digits").await;
    assert_eq!(run.state, "published", "{run:?}\n{}", cluster.last_log());
    assert_eq!(cluster.list_chunks("digits").await[0].unlabelled_rows, 200);
}
