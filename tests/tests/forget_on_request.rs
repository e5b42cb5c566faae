//! Forget on request: once an erasure is answered nothing that begins reads the rows, soon nothing holds them, and it is said
//! which versions had learnt from them.

use std::fs;
use std::path::{Path, PathBuf};

use perennial_proto::v1::{self, Split, erase_rows_request::Scope};
use perennial_tests::cluster::{pipeline, resource};
use perennial_tests::digits::clean;
use perennial_tests::{Cluster, Options};
use serde_json::Value;
use store::examples::read_shard;

/// Rows of a domain, every tenth about somebody.
fn rows(seed: u64, subject: &str) -> Vec<u8> {
    let rows = String::from_utf8(clean(seed, 0, 400)).unwrap();
    let named = rows.lines().enumerate().map(|(at, line)| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        row["row_id"] = format!("{subject}-{seed}-{at}").into();
        row["subject"] = if at % 10 == 0 { subject.into() } else { "others".into() };
        format!("{row}\n")
    });
    named.collect::<String>().into_bytes()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Files below a folder that hold a row about `subject`: as shards, or as what was pushed.
fn holding(folder: &Path, subject: &str) -> Vec<PathBuf> {
    let shard = |path: &Path| {
        let rows = read_shard(path, None).unwrap_or_default();
        rows.iter().any(|(_, row)| row.subject.as_deref() == Some(subject))
    };
    let named = format!("\"subject\":\"{subject}\"");
    // Some come and go while this looks.
    let raw =
        |path: &Path| fs::read(path).unwrap_or_default().windows(named.len()).any(|part| part == named.as_bytes());
    files(folder).into_iter().filter(|path| shard(path) || raw(path)).collect()
}

async fn erase(cluster: &Cluster, scope: Scope) -> v1::Erasure {
    let request = v1::EraseRowsRequest { pipeline: resource("digits"), scope: Some(scope) };
    cluster.rehearsal().erase_rows(request).await.unwrap().into_inner().erasure.expect("there are such rows")
}

/// The newest erasure once no object holds its rows.
async fn finished(cluster: &Cluster) -> v1::Erasure {
    let asked = async {
        loop {
            let request = v1::ListErasuresRequest { parent: resource("digits"), ..Default::default() };
            let erasures = cluster.rehearsal().list_erasures(request).await.unwrap().into_inner().erasures;
            if let Some(erasure) = erasures.into_iter().next().filter(|erasure| erasure.finished_at_ms > 0) {
                return erasure;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(perennial_tests::cluster::DEADLINE, asked).await.expect("the sweep ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_about_somebody_are_gone_from_data_memory_items_and_caches() {
    let cluster = Cluster::start(Options::default()).await;
    let mut spec = pipeline("digits");
    // Long enough to be met while it trains.
    spec["training"]["epochs"] = 40.into();
    cluster.apply(&spec).await.unwrap();
    let pushed = cluster.push("digits", "clean", Split::Auto, &rows(1, "anna")).await.unwrap().chunk.unwrap();
    let run = cluster.update("digits").await;
    assert_eq!(run.state, "published", "{run:?}\n{}", cluster.last_log());
    let items = async || {
        let request = v1::GetPipelineRequest { name: resource("digits") };
        cluster.pipelines().get_pipeline(request).await.unwrap().into_inner().pipeline.unwrap().tasks[0].items
    };
    let (before, caches) = (items().await, cluster.folder());
    assert!(!holding(caches, "anna").is_empty());

    // A second run is under way that replays them.
    cluster.push("digits", "clean", Split::Train, &rows(2, "berta")).await.unwrap();
    let run = cluster.start_run("digits", &[]).await.unwrap();
    cluster.watch(&run.name, |run| run.state == "training").await;
    let erasure = erase(&cluster, Scope::Subject("anna".to_owned())).await;
    assert_eq!((erasure.train_rows + erasure.held_out_rows, erasure.reissued_run), (40, run.number));
    assert!(erasure.held_out_rows > 0 && erasure.eval_sets == ["clean#1"], "{erasure:?}");
    let [witness] = &erasure.versions[..] else { panic!("{erasure:?}") };
    assert!(witness.version == 1 && witness.memory_rows > 0, "{witness:?}");
    assert_eq!(items().await, before - erasure.held_out_rows);

    let run = cluster.ended(&run.name).await;
    assert_eq!((run.state.as_str(), run.version), ("published", 2), "{run:?}\n{}", cluster.last_log());
    assert!(run.attempts > 1, "another attempt: {run:?}");
    let erasure = finished(&cluster).await;
    assert_eq!(erasure.versions.len(), 2, "the second continues from the first: {erasure:?}");
    assert_eq!(erasure.versions[1].memory_rows, 0, "its memory was made without them: {erasure:?}");
    assert_eq!(holding(cluster.folder(), "anna"), Vec::<PathBuf>::new());
    assert!(!holding(cluster.folder(), "others").is_empty());

    // What was pushed does not come back by being pushed again.
    let again = cluster.push("digits", "clean", Split::Auto, &rows(1, "anna")).await.unwrap();
    assert!(again.already_exists && again.chunk.as_ref().unwrap().name == pushed.name);
    assert_eq!(again.chunk.unwrap().erased_rows, 40);
    assert_eq!(holding(cluster.folder(), "anna"), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_learnt_from_an_erased_subject_can_be_trained_anew_without_it() {
    let cluster = Cluster::start(Options::default()).await;
    cluster.apply(&pipeline("digits")).await.unwrap();
    for (seed, subject) in [(1, "berta"), (2, "anna")] {
        cluster.push("digits", "clean", Split::Auto, &rows(seed, subject)).await.unwrap();
        let run = cluster.update("digits").await;
        assert_eq!(run.state, "published", "{run:?}\n{}", cluster.last_log());
    }
    let without = async |subject: &str| {
        let without_subject = subject.to_owned();
        let request = v1::StartRunRequest { pipeline: resource("digits"), without_subject, ..Default::default() };
        cluster.runs().start_run(request).await.map(|answer| answer.into_inner().run.unwrap())
    };
    let early = without("anna").await.unwrap_err();
    assert!(early.message().contains("`perennial buffer erase --subject` comes first"), "{early}");
    let erasure = erase(&cluster, Scope::Subject("anna".to_owned())).await;
    assert_eq!(erasure.versions.iter().map(|witness| witness.version).collect::<Vec<_>>(), [2]);

    let run = cluster.ended(&without("anna").await.unwrap().name).await;
    assert_eq!(run.state, "published", "{run:?}\n{}", cluster.last_log());
    let champion = cluster.version("digits", "@champion").await.unwrap();
    assert_eq!((champion.number, champion.parent), (3, 1));
    let erasure = finished(&cluster).await;
    assert_eq!(erasure.versions.iter().map(|witness| witness.version).collect::<Vec<_>>(), [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_outlasts_the_process_that_was_asked() {
    let mut cluster = Cluster::start(Options::default()).await;
    cluster.apply(&pipeline("digits")).await.unwrap();
    let chunk = cluster.push("digits", "clean", Split::Auto, &rows(1, "anna")).await.unwrap().chunk.unwrap();
    let erasure = erase(&cluster, Scope::Chunk(chunk.name.clone())).await;
    assert_eq!((erasure.train_rows, erasure.held_out_rows), (chunk.train_rows, chunk.held_out_rows));
    cluster.kill();
    cluster.boot().await;
    finished(&cluster).await;
    assert_eq!(holding(cluster.folder(), "anna"), Vec::<PathBuf>::new());
    let left = &cluster.list_chunks("digits").await[0];
    assert_eq!((left.train_rows, left.held_out_rows, left.erased_rows), (0, 0, 400));
    let nothing = cluster.start_run("digits", &[]).await.unwrap_err();
    assert!(nothing.message().starts_with("nothing to train"), "{nothing}");
    let none = v1::EraseRowsRequest { pipeline: resource("digits"), scope: Some(Scope::Subject("nobody".to_owned())) };
    assert_eq!(cluster.rehearsal().erase_rows(none).await.unwrap().into_inner().erasure, None);
}
