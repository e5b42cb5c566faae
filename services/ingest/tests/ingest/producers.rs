//! What a producer that numbers its pushes can rely on.

use perennial_proto::v1;
use serde_json::json;
use tonic::{Code, Status};

use crate::harness::{Harness, TICKETS, header, jsonl, many, refused};

async fn open(harness: &Harness, producer: &str) -> v1::Producer {
    let request = v1::OpenProducerRequest { pipeline: TICKETS.to_owned(), producer: producer.to_owned() };
    harness.chunks.clone().open_producer(request).await.unwrap().into_inner().producer.unwrap()
}

fn numbered(epoch: u64, sequence: u64) -> v1::ChunkHeader {
    let origin = Some(v1::Origin { producer: "kiosk".to_owned(), epoch, sequence });
    v1::ChunkHeader { origin, ..header() }
}

async fn push(harness: &Harness, epoch: u64, sequence: u64, rows: usize) -> Result<v1::PushChunkResponse, Status> {
    harness.push(numbered(epoch, sequence), &many(rows)).await
}

#[tokio::test]
async fn each_number_is_taken_once_in_order() {
    let harness = Harness::start(json!({})).await;
    let kiosk = open(&harness, "kiosk").await;
    assert_eq!((kiosk.epoch, kiosk.next_sequence), (1, 1));
    refused(push(&harness, 1, 2, 20).await, Code::FailedPrecondition, &["push 2 of producer `kiosk`", "1 is the next"]);
    let first = push(&harness, 1, 1, 20).await.unwrap();
    let state = harness.state(Clone::clone);
    let again = push(&harness, 1, 1, 20).await.unwrap();
    assert!(!first.already_exists && again.already_exists);
    assert_eq!((again.chunk, harness.state(Clone::clone)), (first.chunk, state));
    let id = harness.state(|state| state.arrivals[0].to_string());
    refused(push(&harness, 1, 1, 21).await, Code::AlreadyExists, &[&id, "other rows need the number 2"]);
    push(&harness, 1, 2, 21).await.unwrap();
    assert_eq!(harness.state(|state| state.arrivals.len()), 2);
}

#[tokio::test]
async fn a_producer_that_was_opened_again_elsewhere_is_shut_out() {
    let harness = Harness::start(json!({})).await;
    open(&harness, "kiosk").await;
    push(&harness, 1, 1, 20).await.unwrap();
    let other = open(&harness, "kiosk").await;
    assert_eq!((other.epoch, other.next_sequence), (2, 2));
    let state = harness.state(Clone::clone);
    for sequence in [1, 2] {
        refused(push(&harness, 1, sequence, 30).await, Code::Aborted, &["its epoch is 2", "this push is of epoch 1"]);
    }
    assert_eq!(harness.state(Clone::clone), state);
    assert!(push(&harness, 2, 1, 20).await.unwrap().already_exists, "what the first one pushed last is known");
    push(&harness, 2, 2, 30).await.unwrap();
}

#[tokio::test]
async fn a_number_is_not_used_up_by_rows_that_are_refused() {
    let harness = Harness::start(json!({})).await;
    open(&harness, "kiosk").await;
    let bad = harness.push(numbered(1, 1), b"{\"text\":").await;
    refused(bad, Code::InvalidArgument, &["line 1"]);
    push(&harness, 1, 1, 20).await.unwrap();
}

#[tokio::test]
async fn content_that_is_known_and_rows_in_quarantine_use_their_number_up() {
    let harness = Harness::start(json!({})).await;
    harness.push(header(), &many(20)).await.unwrap();
    open(&harness, "kiosk").await;
    assert!(push(&harness, 1, 1, 20).await.unwrap().already_exists);
    let unknown = jsonl(&[("a", "eggs")]);
    for _ in 0..2 {
        let answer = harness.push(numbered(1, 2), &unknown).await.unwrap();
        assert_eq!(answer.chunk.unwrap().state, "quarantined");
    }
    assert!(harness.push(numbered(1, 3), &unknown).await.unwrap().already_exists, "another push of the same rows");
    let request = v1::ListProducersRequest { parent: TICKETS.to_owned(), ..Default::default() };
    let known = harness.chunks.clone().list_producers(request).await.unwrap().into_inner().producers;
    assert_eq!(known, [v1::Producer { name: "kiosk".to_owned(), epoch: 1, next_sequence: 4 }]);
}

#[tokio::test]
async fn one_number_pushed_twice_at_once_is_one_chunk() {
    let harness = Harness::start(json!({})).await;
    open(&harness, "kiosk").await;
    let (one, two) = tokio::join!(push(&harness, 1, 1, 50), push(&harness, 1, 1, 50));
    assert_ne!(one.unwrap().already_exists, two.unwrap().already_exists);
    let (one, two) = tokio::join!(push(&harness, 1, 2, 51), push(&harness, 1, 2, 52));
    let lost = if one.is_ok() { two } else { one };
    refused(lost, Code::AlreadyExists, &["push 2 of producer `kiosk` was chunk"]);
    assert_eq!(harness.state(|state| state.arrivals.len()), 2);
}

#[tokio::test]
async fn a_producer_that_cannot_be_used_is_named() {
    let harness = Harness::start(json!({})).await;
    refused(push(&harness, 1, 1, 20).await, Code::FailedPrecondition, &["`kiosk` was never opened"]);
    refused(push(&harness, 0, 1, 20).await, Code::InvalidArgument, &["`header.origin.epoch`", "count from 1"]);
    let request = v1::OpenProducerRequest { pipeline: TICKETS.to_owned(), producer: "A kiosk".to_owned() };
    refused(harness.chunks.clone().open_producer(request).await, Code::InvalidArgument, &["`producer`", "`A kiosk`"]);
}
