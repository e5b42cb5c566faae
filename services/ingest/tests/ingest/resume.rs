//! Pushes that break and go on.

use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use perennial_proto::v1;
use perennial_proto::v1::push_chunk_request::Part;
use serde_json::json;
use store::{layout, objects};
use tonic::Code;

use crate::harness::{FRAME, Harness, TICKETS, header, many, refused};

const DEADLINE: Duration = Duration::from_secs(30);

pub fn resumable(payload: &[u8], offset: u64) -> v1::ChunkHeader {
    let total_bytes = payload.len() as u64;
    v1::ChunkHeader { sha256: objects::sha256(payload), total_bytes, offset, ..header() }
}

async fn durable(harness: &Harness, payload: &[u8]) -> u64 {
    let query = v1::QueryUploadRequest { pipeline: TICKETS.to_owned(), sha256: objects::sha256(payload) };
    harness.ingest.clone().query_upload(query).await.unwrap().into_inner().durable_bytes
}

/// Waits until so many bytes of the payload are durable.
pub async fn arrives(harness: &Harness, payload: &[u8], bytes: u64) {
    let arrives = async {
        while durable(harness, payload).await < bytes {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, arrives).await.unwrap();
}

/// Sends the payload's first frames and hangs up once what is whole of them is durable.
async fn break_off(harness: &Harness, payload: &[u8], offset: u64, frames: usize) -> u64 {
    let sent = payload[offset as usize..].chunks(FRAME).take(frames).map(|frame| Part::Frame(frame.to_vec()));
    let parts: Vec<Part> = std::iter::once(Part::Header(resumable(payload, offset))).chain(sent).collect();
    let messages = stream::iter(parts).map(|part| v1::PushChunkRequest { part: Some(part) });
    let mut ingest = harness.ingest.clone();
    let push = tokio::spawn(async move { ingest.push_chunk(messages.chain(stream::pending())).await });
    let whole = offset + (frames * FRAME) as u64 / 100 * 100;
    arrives(harness, payload, whole).await;
    push.abort();
    assert!(push.await.unwrap_err().is_cancelled());
    whole
}

#[tokio::test]
async fn a_push_that_breaks_twice_goes_on_where_it_was_durable_and_leaves_only_the_chunk() {
    let harness = Harness::start(json!({})).await;
    let payload = many(40);
    assert_eq!(durable(&harness, &payload).await, 0);
    let first = break_off(&harness, &payload, 0, 5).await;
    assert_eq!(first, 300);
    let second = break_off(&harness, &payload, first, 4).await;
    assert_eq!(second, 500);
    let answer = harness.push(resumable(&payload, second), &payload[second as usize..]).await.unwrap();
    let chunk = answer.chunk.unwrap();
    assert_eq!((chunk.state.as_str(), chunk.train_rows + chunk.held_out_rows), ("sealed", 40));
    let whole = harness.state(|state| state.chunks.values().next().unwrap().raw.clone());
    assert_eq!(objects::get(&*harness.store, &whole).await.unwrap(), payload);
    let left = harness.objects().await;
    assert!(left.iter().all(|path| !path.contains("/uploads/")), "{left:?}");
}

#[tokio::test]
async fn an_offset_at_which_nothing_durable_ends_is_refused() {
    let harness = Harness::start(json!({})).await;
    let payload = many(40);
    break_off(&harness, &payload, 0, 5).await;
    for offset in [250, 400] {
        let answer = harness.push(resumable(&payload, offset), &payload[offset as usize..]).await;
        refused(answer, Code::Aborted, &["300 bytes of the payload are durable", &offset.to_string(), "QueryUpload"]);
    }
    // From where a part ends, or anew, it goes on.
    assert!(harness.push(resumable(&payload, 100), &payload[100..]).await.is_ok());
}

#[tokio::test]
async fn parts_of_another_payload_than_they_claim_are_dropped() {
    let harness = Harness::start(json!({})).await;
    let (payload, other) = (many(40), many(41));
    refused(harness.push(resumable(&payload, 0), &other).await, Code::InvalidArgument, &["it changed on its way"]);
    assert_eq!(durable(&harness, &payload).await, 0);
    assert!(harness.objects().await.is_empty());
    let query = v1::QueryUploadRequest { pipeline: TICKETS.to_owned(), sha256: "beef".to_owned() };
    refused(harness.ingest.clone().query_upload(query).await, Code::InvalidArgument, &["`sha256`", "64 hexadecimal"]);
}

#[tokio::test]
async fn what_nobody_came_back_for_goes_when_the_next_resumable_push_begins() {
    let harness = Harness::start(json!({})).await;
    let pipeline = TICKETS.parse().unwrap();
    // Objects in memory are of today, by a clock that is years after the harness's.
    let forgotten = format!("{}/{:020}", layout::upload(&pipeline, &"a".repeat(64)), 0);
    objects::put(&*harness.store, &forgotten, "part".into()).await.unwrap();
    let payload = many(10);
    harness.push(resumable(&payload, 0), &payload).await.unwrap();
    assert!(harness.objects().await.contains(&forgotten));
    let ingest = harness.again(|| 4_000_000_000_000).await;
    let parts = [Part::Header(resumable(&many(12), 0)), Part::Frame(b"te".to_vec())];
    let messages = stream::iter(parts.map(|part| v1::PushChunkRequest { part: Some(part) }));
    refused(ingest.clone().push_chunk(messages).await, Code::Aborted, &["ended at 2 of 392 bytes"]);
    assert!(!harness.objects().await.contains(&forgotten));
}
