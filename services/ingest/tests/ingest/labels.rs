//! Rows that come without a label, and labels that come on their own.

use domain::chunk::ChunkState;
use domain::id::ChunkId;
use domain::state::{Event, EventKind};
use perennial_proto::v1;
use serde_json::json;
use store::examples::{LateLabels, scan_shard};
use store::objects;
use tonic::{Code, Response, Status};

use crate::harness::{Harness, TICKETS, header, refused};

async fn start(coverage: f64) -> Harness {
    Harness::start(json!({"data": {"late_labels": {"coverage": coverage, "deadline_seconds": 60}}})).await
}

/// `n` rows that train, called `r0`, `r1`, …, the first `labelled` of them `ham`.
async fn pushed(harness: &Harness, n: usize, labelled: usize) -> v1::Chunk {
    let row = |at: usize| match at < labelled {
        true => json!({"row_id": format!("r{at}"), "text": format!("text {at}"), "label": "ham"}),
        false => json!({"row_id": format!("r{at}"), "text": format!("text {at}")}),
    };
    let lines: String = (0..n).map(|at| format!("{}\n", row(at))).collect();
    let header = v1::ChunkHeader { split: v1::Split::Train.into(), ..header() };
    harness.push(header, lines.as_bytes()).await.unwrap().chunk.unwrap()
}

async fn label(harness: &Harness, labels: &[(&str, &str)]) -> Result<v1::PushLabelsResponse, Status> {
    let one = |(row, label): &(&str, &str)| v1::RowLabel { row_id: (*row).to_owned(), label: (*label).to_owned() };
    let labels = labels.iter().map(one).collect();
    let request = v1::PushLabelsRequest { pipeline: TICKETS.to_owned(), labels, chunk: String::new() };
    harness.chunks.clone().push_labels(request).await.map(Response::into_inner)
}

fn counts(answer: &v1::PushLabelsResponse) -> [u64; 4] {
    [answer.labelled_rows, answer.changed_rows, answer.unchanged_rows, answer.unknown_count]
}

fn id(chunk: &v1::Chunk) -> ChunkId {
    ChunkId(chunk.name.rsplit('/').next().unwrap().to_owned())
}

#[tokio::test]
async fn a_row_without_a_label_is_bad_unless_the_pipeline_says_otherwise() {
    let harness = Harness::start(json!({})).await;
    let chunk = pushed(&harness, 4, 2).await;
    assert_eq!((chunk.state.as_str(), chunk.bad_rows), ("quarantined", 2));
}

#[tokio::test]
async fn a_chunk_waits_for_labels_and_trains_once_it_has_enough() {
    let harness = start(0.75).await;
    let chunk = pushed(&harness, 8, 2).await;
    assert_eq!((chunk.state.as_str(), chunk.train_rows, chunk.unlabelled_rows), ("labelling", 2, 6));
    assert_eq!(chunk.labelling_until_ms, chunk.received_at_ms + 60_000);

    let answer = label(&harness, &[("r2", "spam"), ("r3", "ham"), ("r0", "ham")]).await.unwrap();
    assert_eq!(counts(&answer), [2, 0, 1, 0]);
    assert_eq!(answer.chunks[0].state, "labelling");
    assert_eq!(answer.chunks[0].labels, [("ham".to_owned(), 3), ("spam".to_owned(), 1)].into());
    let answer = label(&harness, &[("r4", "spam"), ("r5", "spam")]).await.unwrap();
    let chunk = &answer.chunks[0];
    assert_eq!((chunk.state.as_str(), chunk.train_rows, chunk.unlabelled_rows), ("sealed", 6, 2));
    assert_eq!(chunk.labelling_until_ms, 0);

    let shard = harness.state(|state| state.chunks[&id(chunk)].train[0].clone());
    let late = objects::get(&*harness.store, shard.labels.as_ref().unwrap()).await.unwrap();
    let late: LateLabels = serde_json::from_slice(&late).unwrap();
    assert_eq!(late, [(2, "spam"), (3, "ham"), (4, "spam"), (5, "spam")].map(|(at, l)| (at, l.to_owned())).into());
    let own = scan_shard(harness.store.clone(), &shard.object, "label").await.unwrap();
    assert_eq!(own[2].as_deref(), Some(""), "the shard itself stays as it is");
}

#[tokio::test]
async fn the_same_labels_again_change_nothing() {
    let harness = start(0.5).await;
    pushed(&harness, 4, 0).await;
    let labels = [("r0", "ham"), ("r1", "spam")];
    assert_eq!(counts(&label(&harness, &labels).await.unwrap()), [2, 0, 0, 0]);
    let (state, objects) = (harness.state(Clone::clone), harness.objects().await);
    assert_eq!(counts(&label(&harness, &labels).await.unwrap()), [0, 0, 2, 0]);
    assert_eq!((harness.state(Clone::clone), harness.objects().await), (state, objects));
}

#[tokio::test]
async fn labels_of_known_rows_are_taken_and_the_other_rows_are_named() {
    let harness = start(1.0).await;
    pushed(&harness, 2, 0).await;
    let answer = label(&harness, &[("r0", "ham"), ("nobody", "ham"), ("r1", "spam")]).await.unwrap();
    assert_eq!((counts(&answer), &answer.unknown_rows[..]), ([2, 0, 0, 1], &["nobody".to_owned()][..]));
    assert_eq!(answer.chunks[0].state, "sealed");
}

#[tokio::test]
async fn labels_that_make_no_sense_change_nothing_and_say_why() {
    let harness = start(0.5).await;
    pushed(&harness, 2, 0).await;
    let before = harness.state(Clone::clone);
    let unknown = label(&harness, &[("r0", "ham"), ("r1", "spma")]).await;
    refused(
        unknown,
        Code::InvalidArgument,
        &["row `r1` would be `spma`", "did you mean `spam`?", "nothing was changed"],
    );
    let twice = label(&harness, &[("r0", "ham"), ("r0", "spam")]).await;
    refused(twice, Code::InvalidArgument, &["row `r0` is both `ham` and `spam`"]);
    refused(label(&harness, &[]).await, Code::InvalidArgument, &["0 labels; send 1 to 10000"]);
    refused(label(&harness, &[("r0", "")]).await, Code::InvalidArgument, &["for row `r0`: neither may be empty"]);
    assert_eq!(harness.state(Clone::clone), before);
}

#[tokio::test]
async fn names_nobody_knew_are_appended_where_labels_are_open() {
    let late = json!({"coverage": 1.0, "deadline_seconds": 60});
    let harness = Harness::start(json!({"labels_mode": "open", "data": {"late_labels": late}})).await;
    let chunk = pushed(&harness, 2, 0).await;
    assert_eq!(harness.state(|state| state.labels.clone()), ["ham", "spam"], "no label is no name");
    label(&harness, &[("r0", "eggs")]).await.unwrap();
    assert_eq!(harness.state(|state| state.labels.clone()), ["ham", "spam", "eggs"]);
    assert_eq!(harness.state(|state| state.chunks[&id(&chunk)].labels.clone()), [("eggs".to_owned(), 1)].into());
}

#[tokio::test]
async fn labels_that_come_at_the_same_time_are_all_kept() {
    let harness = start(1.0).await;
    let chunk = pushed(&harness, 8, 0).await;
    let rows: Vec<String> = (0..8).map(|at| format!("r{at}")).collect();
    let pushes = rows.iter().map(|row| {
        let harness = &harness;
        async move { label(harness, &[(row, "ham")]).await }
    });
    for answer in futures::future::join_all(pushes).await {
        assert_eq!(counts(&answer.unwrap()), [1, 0, 0, 0]);
    }
    let chunk = harness.state(|state| state.chunks[&id(&chunk)].clone());
    assert_eq!((chunk.unlabelled_rows(), chunk.state), (0, ChunkState::Sealed));
}

#[tokio::test]
async fn a_label_that_changes_once_it_was_trained_on_is_listed() {
    let harness = start(1.0).await;
    let chunk = pushed(&harness, 4, 4).await;
    let (pipeline, state) = (TICKETS.parse().unwrap(), ChunkState::InRun { run: 1 });
    label(&harness, &[("r0", "spam")]).await.unwrap();
    let in_run = harness.state(|known| domain::chunk::Chunk { state, ..known.chunks[&id(&chunk)].clone() });
    let event = Event { pipeline, kind: EventKind::ChunkReceived { chunk: Box::new(in_run) } };
    harness.journal.commit(move |_, _| Ok::<_, std::convert::Infallible>((vec![event], ()))).await.unwrap();

    let answer = label(&harness, &[("r1", "spam"), ("r2", "spam")]).await.unwrap();
    assert_eq!(counts(&answer), [0, 2, 0, 0]);
    let request = v1::ListCorrectionsRequest { parent: TICKETS.to_owned(), page_size: 0, page_token: String::new() };
    let listed = harness.chunks.clone().list_corrections(request).await.unwrap().into_inner();
    let [correction] = &listed.corrections[..] else { panic!("{listed:?}") };
    assert_eq!((&correction.chunk, correction.rows, correction.at_ms), (&chunk.name, 2, 1_700_000_000_000));
}
