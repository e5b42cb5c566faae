//! The chain, end to end: push → rehearsal → gang update → evaluation → gate → version.

use domain::id::Version;
use domain::report::{EvalReport, micro_average_accuracy};
use perennial_proto::v1;
use perennial_proto::v1::Split;
use perennial_tests::cluster::{pipeline, resource};
use perennial_tests::digits::{clean, mislabelled};
use perennial_tests::{Cluster, Options};
use serde_json::{Value, json};

async fn two_chunks(cluster: &Cluster, name: &str) {
    for domain in 0..2 {
        let task = format!("domain-{domain}");
        let pushed = cluster.push(name, &task, Split::Auto, &clean(1, domain, 400)).await.unwrap();
        let chunk = pushed.chunk.unwrap();
        assert_eq!((chunk.state.as_str(), pushed.already_exists), ("sealed", false));
        assert!(chunk.held_out_rows > 40 && chunk.train_rows + chunk.held_out_rows == 400, "{chunk:?}");
        let run = cluster.update(name).await;
        assert_eq!((run.state.as_str(), run.verdict.as_str()), ("published", "PASS"), "{run:?}");
    }
}

#[tokio::test]
async fn a_pushed_chunk_becomes_a_version_that_remembers() {
    let cluster = Cluster::start(Options::default()).await;
    cluster.apply(&pipeline("digits")).await.unwrap();
    two_chunks(&cluster, "digits").await;

    let champion = cluster.version("digits", "@champion").await.unwrap();
    assert_eq!((champion.number, champion.parent), (2, 1));
    assert_eq!(champion.folder, "adapters/default/digits-v0002");
    let stats = v1::GetBufferStatsRequest { pipeline: resource("digits") };
    let stats = cluster.rehearsal().get_buffer_stats(stats).await.unwrap().into_inner();
    let snapshot = stats.snapshot.unwrap();
    assert_eq!((snapshot.version, snapshot.items), (2, 200));
    assert_eq!(stats.items_by_task.len(), 2, "{:?}", stats.items_by_task);

    let matrix = v1::GetMatrixRequest { pipeline: resource("digits"), version: 0 };
    let matrix = cluster.evaluations().get_matrix(matrix).await.unwrap().into_inner();
    assert_eq!((matrix.tasks.len(), matrix.rows.len()), (2, 2));
    assert!(matrix.average_accuracy.unwrap() > 0.8, "{matrix:?}");

    for chunk in cluster.list_chunks("digits").await {
        assert_eq!(chunk.state, "absorbed", "{chunk:?}");
    }
    let again = cluster.push("digits", "domain-0", Split::Auto, &clean(1, 0, 400)).await.unwrap();
    assert!(again.already_exists);
    let nothing = cluster.start_run("digits", &[]).await.unwrap_err();
    assert_eq!(nothing.code(), tonic::Code::FailedPrecondition);
    assert!(nothing.message().contains("nothing to train"), "{}", nothing.message());
}

#[tokio::test]
async fn a_version_s_report_says_which_answers_it_mended_and_broke() {
    let cluster = Cluster::start(Options::default()).await;
    cluster.apply(&pipeline("digits")).await.unwrap();
    two_chunks(&cluster, "digits").await;
    let first = cluster.version("digits", "1").await.unwrap();
    let second = cluster.version("digits", "2").await.unwrap();
    assert!(first.flips.is_none() && first.expected_calibration_error.is_some(), "{first:?}");
    let flips = second.flips.unwrap();
    assert_eq!(flips.baseline, 1);

    let run = format!("{}/runs/2", resource("digits"));
    let report = cluster.evaluations().get_report(v1::GetReportRequest { run }).await.unwrap().into_inner();
    let report: EvalReport = serde_json::from_slice(&report.report_json).unwrap();
    assert_eq!(report.compared_with(), Some(Version(1)));
    let all = report.flips().unwrap();
    assert_eq!(
        (flips.items, flips.negative, flips.positive, flips.right),
        (all.items, all.negative, all.positive, all.right)
    );
    for (now, before) in report.candidate_scores.iter().zip(&report.baseline_scores) {
        let flips = report.flips_of(now).unwrap();
        assert_eq!((flips.items, flips.right), (now.items, now.correct));
        let fall = before.accuracy() - now.accuracy();
        assert!((flips.negative_rate() - flips.positive_rate() - fall).abs() < 1e-12, "{flips:?} {fall}");
        assert!(now.calibration.as_ref().unwrap().expected_error().unwrap() < 1.0);
    }
    let micro = |scores| micro_average_accuracy(scores).unwrap();
    let fall = micro(&report.baseline_scores) - micro(&report.candidate_scores);
    assert!((all.negative_rate() - all.positive_rate() - fall).abs() < 1e-12, "{all:?} {fall}");
    assert!(all.positive > 0, "the second domain was learned");
}

#[tokio::test]
async fn one_two_and_four_ranks_publish_the_same_bits() {
    let cluster = Cluster::start(Options::default()).await;
    let mut hashes = Vec::new();
    for ranks in [1, 2, 4] {
        let name = format!("ranks-{ranks}");
        let mut spec = pipeline(&name);
        spec["resources"] = json!({"ranks": ranks});
        cluster.apply(&spec).await.unwrap();
        two_chunks(&cluster, &name).await;
        let version = cluster.version(&name, "@champion").await.unwrap();
        hashes.push((version.weights_sha256, version.snapshot_sha256));
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
}

/// A published pipeline whose second chunk was refused, and that chunk's id.
async fn refused(cluster: &Cluster, name: &str) -> String {
    let mut spec = pipeline(name);
    // Replay would soften the blow.
    spec["method"] = Value::from("ft");
    cluster.apply(&spec).await.unwrap();
    cluster.push(name, "domain-0", Split::Auto, &clean(1, 0, 400)).await.unwrap();
    assert_eq!(cluster.update(name).await.state, "published");
    let poison = cluster.push(name, "domain-0", Split::Train, &mislabelled(2, 0, 800)).await.unwrap();
    let run = cluster.update(name).await;
    assert_eq!((run.state.as_str(), run.verdict.as_str()), ("rejected", "FAIL"), "{run:?}");
    assert!(run.reasons.iter().any(|reason| reason.contains("average accuracy fell")), "{:?}", run.reasons);
    let chunk = poison.chunk.unwrap().name;
    chunk.rsplit('/').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_refused_run_changes_nothing_and_its_chunk_waits_to_be_released() {
    let cluster = Cluster::start(Options::default()).await;
    let chunk = refused(&cluster, "digits").await;
    assert_eq!(cluster.version("digits", "@champion").await.unwrap().number, 1);
    let listed = cluster.list_chunks("digits").await;
    let listed = listed.iter().find(|listed| listed.name.ends_with(&chunk)).unwrap();
    assert!(listed.state == "refused" && listed.reason.contains("average accuracy fell"), "{listed:?}");
    assert!(cluster.start_run("digits", &[]).await.is_err(), "a refused chunk must not train by itself");

    let request = v1::ReleaseChunksRequest { pipeline: resource("digits"), chunks: vec![chunk] };
    let released = cluster.chunks().release_chunks(request).await.unwrap().into_inner();
    assert_eq!(released.chunks[0].state, "sealed");
    let run = cluster.update("digits").await;
    assert_eq!((run.number, run.state.as_str(), run.parent_version), (3, "rejected", 1));
}

#[tokio::test]
async fn rollback_moves_champion_buffer_and_parent_and_promote_moves_them_back() {
    let cluster = Cluster::start(Options::default()).await;
    cluster.apply(&pipeline("digits")).await.unwrap();
    two_chunks(&cluster, "digits").await;
    let request = v1::RollbackRequest { pipeline: resource("digits"), expected_version: Some(2), ..Default::default() };
    let back = cluster.registry().rollback(request.clone()).await.unwrap().into_inner().version.unwrap();
    assert_eq!((back.number, back.aliases.as_slice()), (1, &["champion".to_owned()][..]));
    let states = |chunks: Vec<v1::Chunk>| chunks.into_iter().map(|chunk| chunk.state).collect::<Vec<_>>();
    assert_eq!(states(cluster.list_chunks("digits").await), ["absorbed", "refused"]);
    let repeated = cluster.registry().rollback(request).await.unwrap_err();
    assert_eq!(repeated.code(), tonic::Code::Aborted, "{repeated:?}");

    let forward = |expected_version| v1::SetAliasRequest {
        pipeline: resource("digits"),
        alias: "champion".to_owned(),
        version: 2,
        expected_version: Some(expected_version),
        chunks: v1::ChunkDisposition::Hold.into(),
    };
    let raced = cluster.registry().set_alias(forward(2)).await.unwrap_err();
    assert_eq!(raced.code(), tonic::Code::Aborted, "{raced:?}");
    cluster.registry().set_alias(forward(1)).await.unwrap();
    assert_eq!(cluster.version("digits", "@champion").await.unwrap().number, 2);
    assert_eq!(states(cluster.list_chunks("digits").await), ["absorbed", "absorbed"]);
}

#[tokio::test]
async fn a_diverged_candidate_is_refused_for_its_weights() {
    let cluster = Cluster::start(Options::default()).await;
    let mut spec = pipeline("digits");
    spec["training"]["learning_rate"] = json!(1e30);
    cluster.apply(&spec).await.unwrap();
    cluster.push("digits", "domain-0", Split::Auto, &clean(1, 0, 400)).await.unwrap();
    let run = cluster.update("digits").await;
    assert_eq!((run.state.as_str(), run.verdict.as_str()), ("rejected", "FAIL"), "{run:?}");
    assert!(run.reasons[0].contains("not finite"), "{:?}", run.reasons);
}

#[tokio::test]
async fn report_mode_publishes_a_challenger_whatever_the_verdict() {
    let cluster = Cluster::start(Options::default()).await;
    let mut spec = pipeline("digits");
    spec["gate"] = json!({"mode": "report"});
    spec["method"] = Value::from("ft");
    cluster.apply(&spec).await.unwrap();
    cluster.push("digits", "domain-0", Split::Auto, &clean(1, 0, 400)).await.unwrap();
    cluster.update("digits").await;
    cluster.push("digits", "domain-0", Split::Train, &mislabelled(2, 0, 800)).await.unwrap();
    let run = cluster.update("digits").await;
    assert_eq!((run.state.as_str(), run.verdict.as_str()), ("published", "FAIL"), "{run:?}");
    assert_eq!(cluster.version("digits", "@challenger").await.unwrap().number, 2);
    let none = cluster.version("digits", "@champion").await.unwrap_err();
    assert_eq!(none.code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn a_version_explains_itself_by_what_is_still_there() {
    let cluster = Cluster::start(Options::default()).await;
    let mut spec = pipeline("digits");
    spec["input"] = json!({"normalize": "dataset"});
    cluster.apply(&spec).await.unwrap();
    cluster.push("digits", "domain-0", Split::Auto, &clean(1, 0, 400)).await.unwrap();
    cluster.update("digits").await;
    let folder = cluster.store().join("adapters/default/digits-v0001");
    let read = |name: &str| -> Value { serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap() };
    let (manifest, described) = (read("perennial_manifest.json"), read("preprocessor_config.json"));
    let preprocessing = &manifest["preprocessing"];
    assert_eq!((&preprocessing["channels"], &preprocessing["size"]), (&json!(1), &json!(8)));
    assert_eq!((&preprocessing["mean"], &preprocessing["std"]), (&described["image_mean"], &described["image_std"]));
    assert!(preprocessing["mean"][0].as_f64().unwrap() > 0.1, "{preprocessing}");
    assert_eq!(manifest["snapshot"]["object"]["path"], "adapters/default/digits-v0001/snapshot.json");
    assert!(manifest["cost"]["rehearsal_seconds"].as_f64().unwrap() > 0.0, "{}", manifest["cost"]);
}

#[tokio::test]
async fn a_first_run_that_learns_nothing_scores_as_its_base() {
    let cluster = Cluster::start(Options::default()).await;
    let mut spec = pipeline("digits");
    spec["input"] = json!({"normalize": "dataset"});
    spec["training"]["learning_rate"] = json!(1e-30);
    cluster.apply(&spec).await.unwrap();
    cluster.push("digits", "domain-0", Split::Auto, &clean(1, 0, 400)).await.unwrap();
    let run = cluster.update("digits").await;
    let report = cluster.evaluations().get_report(v1::GetReportRequest { run: run.name }).await.unwrap().into_inner();
    let report: Value = serde_json::from_slice(&report.report_json).unwrap();
    assert_eq!(report["baseline"], "base");
    assert_eq!(report["candidate_scores"], report["baseline_scores"]);
}
