//! Bad input: each kind has its code and a text that says what to mend, and nothing is recorded.

use perennial_proto::v1::{self, Split};
use perennial_tests::cluster::{pipeline, resource};
use perennial_tests::digits::clean;
use perennial_tests::{Cluster, Options};
use serde_json::{Value, json};
use tonic::{Code, Status};

fn expect(outcome: Result<impl std::fmt::Debug, Status>, code: Code, words: &[&str]) {
    let status = outcome.expect_err("it is refused");
    assert_eq!(status.code(), code, "{status:?}");
    for word in words {
        assert!(status.message().contains(word), "`{word}` is not in: {}", status.message());
    }
}

fn header(pipeline: &str) -> v1::ChunkHeader {
    v1::ChunkHeader { pipeline: resource(pipeline), format: v1::Format::Jsonl.into(), wait: true, ..Default::default() }
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_and_nothing_is_recorded() {
    let cluster = Cluster::start(Options::default()).await;
    cluster.apply(&pipeline("digits")).await.unwrap();
    let good = clean(1, 0, 8);
    let jsonl = |text: &str| text.as_bytes().to_vec();
    let frame = perennial_proto::limits::FRAME_BYTES;

    expect(cluster.push("nobody", "t", Split::Auto, &good).await, Code::NotFound, &["nobody", "pipeline apply"]);
    expect(cluster.push("digits", "t", Split::Auto, b"").await, Code::InvalidArgument, &["no rows"]);
    let first = String::from_utf8(good.clone()).unwrap().lines().next().unwrap().to_owned();
    let missing = first.replace("\"label\"", "\"lable\"").into_bytes();
    expect(cluster.push("digits", "t", Split::Auto, &missing).await, Code::InvalidArgument, &["label"]);
    let mistyped = jsonl("{\"image\": 7, \"label\": \"c0\"}\n");
    expect(cluster.push("digits", "t", Split::Auto, &mistyped).await, Code::InvalidArgument, &["image"]);
    let torn = jsonl("{\"image\": \"aGk=\", \"lab");
    expect(cluster.push("digits", "t", Split::Auto, &torn).await, Code::InvalidArgument, &["line 1"]);

    let truncated = v1::ChunkHeader { format: v1::Format::Parquet.into(), ..header("digits") };
    expect(cluster.push_as(truncated, b"PAR1 and then nothing", frame).await, Code::InvalidArgument, &["Parquet"]);
    let digest = v1::ChunkHeader { sha256: "0".repeat(64), ..header("digits") };
    expect(cluster.push_as(digest, &good, frame).await, Code::InvalidArgument, &[&"0".repeat(64), "SHA-256"]);
    let large = vec![b'x'; 2 * perennial_proto::limits::MAX_FRAME_BYTES];
    expect(cluster.push_as(header("digits"), &large, large.len()).await, Code::InvalidArgument, &["frame", "262144"]);
    assert_eq!(cluster.list_chunks("digits").await.len(), 0);
}

#[tokio::test]
async fn an_unknown_label_goes_to_quarantine_with_a_suggestion() {
    let cluster = Cluster::start(Options::default()).await;
    cluster.apply(&pipeline("digits")).await.unwrap();
    let rows = perennial_tests::digits::digits(
        1,
        0,
        8,
        |class, _| if class == 3 { "c33".into() } else { format!("c{class}") },
    );
    let chunk = cluster.push("digits", "t", Split::Auto, &rows).await.unwrap().chunk.unwrap();
    assert_eq!(chunk.state, "quarantined");
    assert!(chunk.reason.contains("`c33`") && chunk.reason.contains("`c3`"), "{}", chunk.reason);
    let nothing = cluster.start_run("digits", &[]).await;
    expect(nothing, Code::FailedPrecondition, &["nothing to train"]);
}

#[tokio::test]
async fn registering_reads_under_the_roots_alone() {
    let inside = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(inside.path().join("a.jsonl"), clean(1, 0, 40)).unwrap();
    std::fs::write(outside.path().join("a.jsonl"), clean(1, 0, 40)).unwrap();
    let options = Options { roots: vec![inside.path().to_owned()], ..Options::default() };
    let cluster = Cluster::start(options).await;
    cluster.apply(&pipeline("digits")).await.unwrap();
    let register = async |uri: String| {
        let request = v1::RegisterChunkRequest { header: Some(header("digits")), uri };
        cluster.ingest().register_chunk(request).await
    };
    let at = |folder: &tempfile::TempDir| format!("file://{}", folder.path().display());
    let denied = register(format!("{}/a.jsonl", at(&outside))).await;
    expect(denied, Code::PermissionDenied, &["outside", "`roots`", &at(&inside)]);
    let climbing = register(format!("{}/../x", at(&inside))).await;
    expect(climbing, Code::PermissionDenied, &["`..`"]);
    let scheme = register("http://example.com/a.jsonl".to_owned()).await.expect_err("it is refused");
    assert!(scheme.message().contains("http"), "{scheme:?}");
    let missing = register(format!("{}/b.jsonl", at(&inside))).await;
    expect(missing, Code::NotFound, &["b.jsonl"]);
    let taken = register(format!("{}/a.jsonl", at(&inside))).await.unwrap().into_inner();
    assert_eq!(taken.chunk.unwrap().state, "sealed");
}

#[tokio::test]
async fn specs_name_field_value_and_remedy() {
    type Change = fn(&mut Value);
    let cluster = Cluster::start(Options::default()).await;
    let with = |change: Change| {
        let mut spec = pipeline("digits");
        change(&mut spec);
        spec
    };
    let cases: [(Change, &[&str]); 6] = [
        (|s| s["resources"] = json!({"ranks": 8}), &["resources.ranks", "8", "micro_batches"]),
        (|s| s["training"]["learning_rate"] = json!(-1), &["-1", "above 0"]),
        (|s| s["labels"] = json!(["a", "a"]), &["labels", "`a` twice"]),
        (|s| s["name"] = json!("No Name"), &["No Name", "a-z"]),
        (
            |s| s["model"] = json!({"uri": "file:///etc", "sha256": "0".repeat(64)}),
            &["model.uri", "outside", "`roots`"],
        ),
        (|s| s["model"] = json!({"uri": "file:///etc", "sha256": "../../etc"}), &["model.sha256", "64 hex"]),
    ];
    for (change, words) in cases {
        expect(cluster.apply(&with(change)).await, Code::InvalidArgument, words);
    }
    cluster.apply(&pipeline("digits")).await.unwrap();
    let reordered = with(|s| s["labels"] = json!(["c1", "c0"]));
    expect(cluster.apply(&reordered).await, Code::FailedPrecondition, &["append-only"]);
}

/// The reason for which a run of `spec` fails.
async fn failure(cluster: &Cluster, spec: &Value) -> String {
    let name = spec["name"].as_str().unwrap();
    cluster.apply(spec).await.unwrap();
    cluster.push(name, "t", Split::Auto, &clean(1, 0, 80)).await.unwrap();
    let run = cluster.update(name).await;
    assert_eq!(run.state, "failed", "{run:?}");
    run.reasons.join("; ")
}

#[tokio::test]
async fn an_adapter_that_does_not_fit_fails_the_run_and_says_why() {
    let cluster = Cluster::start(Options::default()).await;
    let lora = |name: &str, r: u32, target: &str| {
        let mut spec = pipeline(name);
        spec["model"] = json!("vit:d=16,layers=1,heads=2,patch=4,mlp=32");
        spec["adapter"] = json!({"lora": {"r": r, "target_modules": [target]}});
        spec
    };
    let reason = failure(&cluster, &lora("rank", 64, "query")).await;
    assert!(reason.contains("64") && reason.contains("16"), "{reason}");
    let reason = failure(&cluster, &lora("target", 2, "querry")).await;
    assert!(reason.contains("querry") && reason.contains("query"), "{reason}");
    let refused = cluster.list_chunks("target").await;
    assert!(refused[0].state == "refused" && refused[0].reason.contains("querry"), "{refused:?}");
}
