//! *No torn version*: whoever lists, pulls or names versions, or looks into the store's folder, sees each of them whole
//! or not at all, at whatever moment the process dies that publishes or retires them.

#[path = "no_torn_version/place.rs"]
mod place;

use std::sync::Arc;

use domain::id::Version;
use domain::planning;
use perennial_proto::v1;
use perennial_tests::cluster::{pipeline, resource};
use perennial_tests::digits::clean;
use perennial_tests::dying::{Death, Dying};
use perennial_tests::{Cluster, Options, Worker};
use registry::Retention;
use serde_json::json;
use store::layout;

use place::{FILES, Place, id, whole};

/// Version 1 is the champion, and version 2 is to be published.
async fn passed() -> Place {
    let place = Place::new();
    let control = place.boot(place.store.clone()).await;
    control.create(json!({})).await;
    let version = control.pass(&*place.store).await;
    control.publish(place.store.clone(), version).await;
    control.pass(&*place.store).await;
    place
}

/// The second version's publication dies after so many writes. Whether it came through first.
async fn publication(place: Place, writes: usize, death: Death) -> bool {
    let version = Version(2);
    let dying = Arc::new(Dying::new(place.store.clone(), death));
    let control = place.boot(dying.clone()).await;
    dying.dies_after(writes);
    let came_through = tokio::select! {
        () = control.publish(dying.clone(), version) => true,
        () = dying.died() => false,
    };
    let seen = place.look_at_versions(&control).await;
    assert_eq!(seen.len(), 1 + usize::from(came_through), "{death:?} {writes}");
    drop(control);

    let control = place.boot(place.store.clone()).await;
    let seen = place.look(&control).await;
    assert!(seen.len() == 2 || !came_through, "{death:?} {writes}: what was recorded stays");
    assert_eq!(seen.last().unwrap().aliases, ["champion"], "{death:?} {writes}");
    control.publish(place.store.clone(), version).await;
    let seen = place.look(&control).await;
    assert_eq!((seen.len(), seen[1].aliases.as_slice()), (2, &["champion".to_owned()][..]), "{death:?} {writes}");
    came_through
}

#[tokio::test]
async fn a_publication_that_dies_at_any_write_leaves_every_reader_whole_versions() {
    let place = passed().await;
    for death in [Death::Before, Death::After, Death::Midway] {
        let mut writes = 0;
        while !publication(place.copy(), writes, death).await {
            writes += 1;
        }
        // Each file, the manifest, the record.
        assert_eq!(writes, FILES.len() + 2, "{death:?}");
    }
}

/// Versions that have files in the store's folder.
fn with_files(place: &Place) -> Vec<u64> {
    let has_some = |number: &u64| {
        let folder = place.folder.path().join(layout::version(&id(), Version(*number)));
        std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
    };
    (1..=VERSIONS).filter(has_some).collect()
}

const VERSIONS: u64 = 6;

/// Six versions, of which two are kept and one is held.
async fn old() -> Place {
    let place = Place::new();
    let control = place.boot(place.store.clone()).await;
    control.create(json!({"versions": 2})).await;
    for _ in 0..VERSIONS {
        let version = control.pass(&*place.store).await;
        control.publish(place.store.clone(), version).await;
    }
    let hold = |state: &_, _| planning::hold(state, &id(), Version(2), "audited").map(|events| (events, ()));
    control.journal.commit(hold).await.unwrap();
    place
}

/// Retiring the old ones dies after so many writes. Whether it came through first.
async fn retirement(place: Place, writes: usize, death: Death) -> bool {
    let dying = Arc::new(Dying::new(place.store.clone(), death));
    let control = place.boot(dying.clone()).await;
    dying.dies_after(writes);
    let retention = Retention::new(control.journal.clone(), dying.clone());
    let came_through = tokio::select! {
        settled = retention.settle() => { settled.unwrap(); true }
        () = dying.died() => false,
    };
    assert_eq!(place.look_at_versions(&control).await.len() as u64, VERSIONS, "{death:?} {writes}");
    drop(control);

    let control = place.boot(place.store.clone()).await;
    place.look(&control).await;
    Retention::new(control.journal.clone(), place.store.clone()).settle().await.unwrap();
    let seen = place.look(&control).await;
    let retired = seen.iter().filter(|version| version.retired_at_ms > 0).map(|version| version.number);
    assert_eq!(retired.collect::<Vec<_>>(), [1, 3, 4], "{death:?} {writes}");
    assert_eq!(with_files(&place), [2, 5, 6], "{death:?} {writes}");
    came_through
}

#[tokio::test]
async fn a_retirement_that_dies_at_any_write_leaves_every_reader_whole_versions() {
    let place = old().await;
    for death in [Death::Before, Death::After] {
        let mut writes = 0;
        while !retirement(place.copy(), writes, death).await {
            writes += 1;
        }
        // The record, three versions' files and manifests, and the record that they are gone.
        assert_eq!(writes, 1 + 3 * (FILES.len() + 1) + 1, "{death:?}");
    }
}

/// The candidate's file of that name, in an attempt's folder.
fn in_candidate(cluster: &Cluster, attempt: u32, name: &str) -> std::path::PathBuf {
    cluster.store().join(layout::candidate(&resource("digits").parse().unwrap(), 1, attempt)).join(name)
}

#[tokio::test]
async fn a_candidate_that_is_damaged_in_the_store_is_trained_again_and_becomes_the_same_version() {
    let mut spec = pipeline("digits");
    spec["training"]["checkpoint_steps"] = json!(5);
    let prepare = async |cluster: &Cluster| {
        cluster.apply(&spec).await.unwrap();
        cluster.push("digits", "domain-0", v1::Split::Auto, &clean(1, 0, 400)).await.unwrap();
        cluster.start_run("digits", &[]).await.unwrap()
    };
    let quiet = Cluster::start(Options::default()).await;
    let run = prepare(&quiet).await;
    assert_eq!(quiet.ended(&run.name).await.state, "published");
    let wanted = quiet.version("digits", "@champion").await.unwrap();

    let apart = vec![Worker { role: "trainer", slots: 1 }];
    let mut cluster = Cluster::start(Options { apart, ..Options::default() }).await;
    let run = prepare(&cluster).await;
    cluster.watch(&run.name, |run| run.state == "evaluating").await;
    let victim = in_candidate(&cluster, 1, "head.safetensors");
    let mut bytes = std::fs::read(&victim).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&victim, bytes).unwrap();
    cluster.join(Worker { role: "evaluator", slots: 1 });
    let run = cluster.ended(&run.name).await;
    assert_eq!((run.state.as_str(), run.attempts), ("published", 2), "{run:?}");
    assert!(run.last_error.contains("the candidate is not what was trained: `"), "{}", run.last_error);
    assert!(run.last_error.contains("head.safetensors` is damaged"), "{}", run.last_error);
    let version = cluster.version("digits", "@champion").await.unwrap();
    assert_eq!((version.number, &version.weights_sha256), (1, &wanted.weights_sha256));
    assert!(whole(&cluster.store().join(&version.folder)).is_some());
}
