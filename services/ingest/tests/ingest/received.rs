//! What an answer that does not wait for the rows promises, and what becomes of them.

use std::time::Duration;

use domain::chunk::{Chunk, Reading};
use domain::id::{ChunkId, PipelineId};
use perennial_ingest::Limits;
use perennial_proto::convert::to_json;
use perennial_proto::v1;
use serde_json::json;
use store::{layout, objects};
use tonic::Code;

use crate::harness::{Harness, TICKETS, header, jsonl, many, refused};

fn pipeline() -> PipelineId {
    TICKETS.parse().unwrap()
}

fn at_once() -> v1::ChunkHeader {
    v1::ChunkHeader { wait: false, ..header() }
}

/// The only chunk, once its rows are checked.
async fn checked(harness: &Harness) -> Chunk {
    harness.journal.rows_checked(&pipeline(), None).await.unwrap();
    harness.state(|state| state.chunks.values().next().unwrap().clone())
}

/// A chunk as it is when whoever received it died before it looked at the rows.
async fn left_behind(harness: &Harness, payload: &[u8]) -> ChunkId {
    let sha256 = objects::sha256(payload);
    let task = "main".parse().unwrap();
    let id = ChunkId::of(&sha256, &task, domain::chunk::Split::Auto, None, "label");
    let path = layout::chunk_raw(&pipeline(), &id);
    let raw = objects::put(&*harness.store, &path, payload.to_vec().into()).await.unwrap();
    let reading = Reading { format: "jsonl".to_owned(), input: None, label: "label".to_owned() };
    let received = Chunk::received(id.clone(), task, domain::chunk::Split::Auto, raw, 1_700_000_000_000);
    let received_json = to_json(&Chunk { reading: Some(reading), ..received });
    let request = v1::RecordChunkRequest { pipeline: TICKETS.to_owned(), received_json, ..Default::default() };
    harness.chunks.clone().record_chunk(request).await.unwrap();
    id
}

/// Until nobody waits for it.
async fn patrol(harness: &Harness) {
    let ticks = tokio::time::interval(Duration::from_millis(10));
    let patrol = tokio::spawn(harness.role(Limits::default()).patrol(ticks));
    harness.journal.rows_checked(&pipeline(), None).await.unwrap();
    patrol.abort();
}

#[tokio::test]
async fn a_payload_that_is_durable_is_acked_and_its_rows_end_as_if_somebody_had_waited() {
    let (waits, harness) = (Harness::start(json!({})).await, Harness::start(json!({})).await);
    waits.push(header(), &many(200)).await.unwrap();
    let answer = harness.push(at_once(), &many(200)).await.unwrap();
    let acked = answer.chunk.unwrap();
    assert_eq!((acked.state.as_str(), acked.train_rows, answer.already_exists), ("received", 0, false));
    assert_eq!(checked(&harness).await, checked(&waits).await);
    assert_eq!(harness.objects().await, waits.objects().await);
    assert!(harness.push(at_once(), &many(200)).await.unwrap().already_exists);
}

#[tokio::test]
async fn what_is_not_what_it_was_taken_for_is_refused_before_anything_is_kept() {
    let harness = Harness::start(json!({})).await;
    refused(harness.push(at_once(), b"").await, Code::InvalidArgument, &["there are no rows"]);
    refused(harness.push(at_once(), b"{\"text\":").await, Code::InvalidArgument, &["line 1 is not a JSON object"]);
    let other = v1::ChunkHeader { label_column: "class".to_owned(), ..at_once() };
    refused(harness.push(other, &many(3)).await, Code::InvalidArgument, &["class"]);
    assert!(harness.state(|state| state.chunks.is_empty()));
    assert_eq!(harness.objects().await, Vec::<String>::new());
}

#[tokio::test]
async fn what_turns_out_not_to_be_readable_waits_in_quarantine() {
    let harness = Harness::start(json!({})).await;
    let payload = [many(1), b"x\n".repeat(10_001)].concat();
    harness.push(at_once(), &payload).await.unwrap();
    let chunk = checked(&harness).await;
    let reason = chunk.state.reason().unwrap();
    assert!(reason.contains("10000"), "{reason}");
    assert_eq!((chunk.state.name(), chunk.train_rows()), ("quarantined", 0));
}

#[tokio::test]
async fn rows_are_checked_in_the_order_in_which_their_payloads_came() {
    let harness = Harness::start(json!({"labels_mode": "open"})).await;
    let names: Vec<String> = (0..20).map(|number| format!("label-{:02}", 19 - number)).collect();
    for name in &names {
        harness.push(at_once(), &jsonl(&[("a", name), ("b", "ham")])).await.unwrap();
    }
    harness.journal.rows_checked(&pipeline(), None).await.unwrap();
    assert_eq!(harness.state(|state| state.labels[2..].to_vec()), names);
}

#[tokio::test]
async fn a_numbered_push_counts_when_it_is_acked_and_once() {
    let harness = Harness::start(json!({})).await;
    let open = v1::OpenProducerRequest { pipeline: TICKETS.to_owned(), producer: "kiosk".to_owned() };
    harness.chunks.clone().open_producer(open).await.unwrap();
    let origin = |sequence| Some(v1::Origin { producer: "kiosk".to_owned(), epoch: 1, sequence });
    for rows in [1, 2, 3] {
        let header = v1::ChunkHeader { origin: origin(rows), ..at_once() };
        assert!(!harness.push(header.clone(), &many(rows as usize)).await.unwrap().already_exists);
        assert!(harness.push(header, &many(rows as usize)).await.unwrap().already_exists);
    }
    harness.journal.rows_checked(&pipeline(), None).await.unwrap();
    let state = harness.state(Clone::clone);
    assert!(state.chunks.values().all(|chunk| chunk.state.name() == "sealed"));
    assert_eq!((state.arrivals.len(), state.producers.values().next().unwrap().next), (3, 4));
}

#[tokio::test]
async fn what_a_process_received_before_it_died_another_one_checks() {
    let (waits, harness) = (Harness::start(json!({})).await, Harness::start(json!({})).await);
    waits.push(header(), &many(200)).await.unwrap();
    left_behind(&harness, &many(200)).await;
    patrol(&harness).await;
    assert_eq!(checked(&harness).await, checked(&waits).await);
}

#[tokio::test]
async fn who_pushes_it_again_and_waits_needs_no_patrol() {
    let harness = Harness::start(json!({})).await;
    left_behind(&harness, &many(200)).await;
    let answer = harness.push(header(), &many(200)).await.unwrap();
    assert!(answer.already_exists);
    assert_eq!(answer.chunk.unwrap().state, "sealed");
    assert_eq!(harness.state(|state| state.arrivals.len()), 1);
}

#[tokio::test]
async fn rows_that_nobody_has_checked_bind_their_payload_and_hold_labels_up() {
    let harness = Harness::start(json!({"data": {"late_labels": {}}})).await;
    let payload = b"{\"text\": \"a\", \"row_id\": \"1\"}\n{\"text\": \"b\", \"row_id\": \"2\"}\n";
    let id = left_behind(&harness, payload).await;
    let other = v1::ChunkHeader { task: "other".to_owned(), ..header() };
    refused(harness.push(other, payload).await, Code::AlreadyExists, &[&id.0]);

    let labels = vec![v1::RowLabel { row_id: "1".to_owned(), label: "ham".to_owned() }];
    let request = v1::PushLabelsRequest { pipeline: TICKETS.to_owned(), labels, chunk: String::new() };
    let mut chunks = harness.chunks.clone();
    let (labelled, ()) = tokio::join!(chunks.push_labels(request), patrol(&harness));
    let labelled = labelled.unwrap().into_inner();
    assert_eq!((labelled.labelled_rows, labelled.unknown_count), (1, 0));
}

#[tokio::test]
async fn a_process_with_too_many_unchecked_payloads_takes_no_more() {
    let harness = Harness::start(json!({})).await;
    let mut full = harness.serve(Limits { unchecked: 0, ..Limits::default() }).await;
    let messages = crate::harness::messages(at_once(), &many(20));
    refused(full.push_chunk(futures::stream::iter(messages)).await, Code::ResourceExhausted, &["0 payloads wait"]);
    assert_eq!(harness.objects().await, Vec::<String>::new());
}

#[tokio::test]
async fn what_is_in_quarantine_keeps_what_is_known_of_it_when_it_is_pushed_again() {
    let harness = Harness::start(json!({})).await;
    let payload = jsonl(&[("a", "ham"), ("b", "eggs")]);
    assert_eq!(harness.push(header(), &payload).await.unwrap().chunk.unwrap().state, "quarantined");
    let state = harness.state(Clone::clone);
    let again = harness.push(at_once(), &payload).await.unwrap();
    assert!(again.already_exists);
    assert_eq!((again.chunk.unwrap().state.as_str(), harness.state(Clone::clone)), ("quarantined", state));
    harness.apply(json!({"labels": ["ham", "spam", "eggs"]})).await;
    assert_eq!(harness.push(at_once(), &payload).await.unwrap().chunk.unwrap().state, "sealed");
}

#[tokio::test]
async fn what_can_never_be_checked_does_not_hold_up_what_came_after_it() {
    let harness = Harness::start(json!({})).await;
    let id = left_behind(&harness, &many(20)).await;
    let raw = harness.state(|state| state.chunks[&id].raw.clone());
    objects::put(&*harness.store, &raw.path, "damaged".into()).await.unwrap();
    patrol(&harness).await;
    let chunk = checked(&harness).await;
    assert_eq!(chunk.state.name(), "quarantined");
    assert!(chunk.state.reason().unwrap().contains("the payload's SHA-256 is"), "{:?}", chunk.state);
}
