//! Rows that cannot be used: what is said of each, and what becomes of the others.

use perennial_proto::v1;
use serde_json::json;
use tonic::{Code, Response};

use crate::harness::{Harness, TICKETS, header, jsonl, refused};

/// Four rows, of which the second has an unknown label and the third no text.
fn rows() -> Vec<u8> {
    let mut rows = jsonl(&[("a", "ham"), ("b", "spma"), ("", "ham"), ("c", "spam"), ("c", "spam")]);
    rows.extend(b"no JSON\n");
    rows
}

async fn quarantined(harness: &Harness) -> v1::Chunk {
    let header = v1::ChunkHeader { split: v1::Split::Train.into(), ..header() };
    let chunk = harness.push(header, &rows()).await.unwrap().chunk.unwrap();
    assert_eq!(
        (chunk.state.as_str(), chunk.bad_rows, chunk.train_rows, chunk.duplicate_rows),
        ("quarantined", 3, 2, 1)
    );
    chunk
}

async fn bad_rows(harness: &Harness, chunk: &v1::Chunk, page_size: i32, page_token: String) -> v1::ListBadRowsResponse {
    let request = v1::ListBadRowsRequest { chunk: chunk.name.clone(), page_size, page_token };
    harness.chunks.clone().list_bad_rows(request).await.unwrap().into_inner()
}

async fn release(harness: &Harness, chunk: &v1::Chunk) -> Result<v1::ReleaseChunksResponse, tonic::Status> {
    let request = v1::ReleaseChunksRequest { pipeline: TICKETS.to_owned(), chunks: vec![chunk.name.clone()] };
    harness.chunks.clone().release_chunks(request).await.map(Response::into_inner)
}

async fn drop(harness: &Harness, chunk: &v1::Chunk) -> Result<v1::DropChunksResponse, tonic::Status> {
    let request = v1::DropChunksRequest { pipeline: TICKETS.to_owned(), chunks: vec![chunk.name.clone()] };
    harness.chunks.clone().drop_chunks(request).await.map(Response::into_inner)
}

#[tokio::test]
async fn every_bad_row_is_listed_with_its_reason() {
    let harness = Harness::start(json!({})).await;
    let chunk = quarantined(&harness).await;
    assert!(chunk.reason.starts_with("3 of 6 rows cannot be used: row 1 ("), "{}", chunk.reason);
    let first = bad_rows(&harness, &chunk, 2, String::new()).await;
    let rest = bad_rows(&harness, &chunk, 2, first.next_page_token).await;
    let said = [
        (1, "label `spma`, which is not among the pipeline's 2 labels; did you mean `spam`?"),
        (2, "line 3, field `text`: found an empty string"),
        (5, "line 6 is not a JSON object"),
    ];
    for (row, (position, reason)) in first.rows.iter().chain(&rest.rows).zip(said) {
        assert!(row.row == position && row.reason.contains(reason), "{row:?}");
    }
    assert!(rest.rows.len() == 1 && rest.next_page_token.is_empty());
}

#[tokio::test]
async fn the_other_rows_train_once_they_are_released() {
    let harness = Harness::start(json!({})).await;
    let chunk = quarantined(&harness).await;
    let released = release(&harness, &chunk).await.unwrap().chunks.remove(0);
    assert_eq!((released.state.as_str(), released.train_rows, released.bad_rows), ("sealed", 2, 3));
    let again = harness.push(v1::ChunkHeader { split: v1::Split::Train.into(), ..header() }, &rows()).await.unwrap();
    assert!(again.already_exists && again.chunk.unwrap().state == "sealed");
    refused(
        drop(&harness, &chunk).await,
        Code::FailedPrecondition,
        &["is sealed; only chunks that wait in quarantine"],
    );
}

#[tokio::test]
async fn a_dropped_chunk_stays_where_it_is() {
    let harness = Harness::start(json!({})).await;
    let chunk = quarantined(&harness).await;
    let dropped = drop(&harness, &chunk).await.unwrap().chunks.remove(0);
    assert!(dropped.state == "quarantined" && dropped.reason.starts_with("dropped: 3 of 6"), "{dropped:?}");
    refused(release(&harness, &chunk).await, Code::FailedPrecondition, &["was dropped"]);
    let again = harness.push(v1::ChunkHeader { split: v1::Split::Train.into(), ..header() }, &rows()).await.unwrap();
    assert!(again.already_exists && again.chunk.unwrap().reason.starts_with("dropped"));
}

#[tokio::test]
async fn a_chunk_without_a_good_row_waits_for_better_data() {
    let harness = Harness::start(json!({})).await;
    let chunk = harness.push(header(), &jsonl(&[("a", "eggs")])).await.unwrap().chunk.unwrap();
    refused(release(&harness, &chunk).await, Code::FailedPrecondition, &["push it again"]);
}

#[tokio::test]
async fn a_payload_that_was_sealed_elsewhere_meanwhile_is_not_released() {
    let harness = Harness::start(json!({})).await;
    let chunk = quarantined(&harness).await;
    harness.apply(json!({"labels": ["ham", "spam", "spma"]})).await;
    let other = v1::ChunkHeader { task: "other".to_owned(), split: v1::Split::Train.into(), ..header() };
    let other = harness.push(other, &rows()).await.unwrap().chunk.unwrap();
    assert_eq!(other.bad_rows, 2);
    release(&harness, &other).await.unwrap();
    refused(release(&harness, &chunk).await, Code::AlreadyExists, &["task `other`"]);
}

#[tokio::test]
async fn open_labels_of_a_released_chunk_are_appended() {
    let harness = Harness::start(json!({"labels_mode": "open"})).await;
    let chunk = harness.push(header(), &jsonl(&[("a", "eggs"), ("", "ham")])).await.unwrap().chunk.unwrap();
    assert_eq!((chunk.bad_rows, harness.state(|state| state.labels.len())), (1, 2));
    release(&harness, &chunk).await.unwrap();
    assert_eq!(harness.state(|state| state.labels.clone()), ["ham", "spam", "eggs"]);
}
