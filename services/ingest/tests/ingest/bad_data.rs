//! Payloads and places that are refused: each with its code and a text its producer can act on.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use perennial_proto::v1;
use serde_json::json;
use tonic::Code;

use crate::harness::{Harness, header, jsonl, many, refused};

fn parquet(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

fn strings(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

/// Refused with `INVALID_ARGUMENT` and these words; nothing recorded, nothing stored.
async fn bad(header: v1::ChunkHeader, payload: &[u8], parts: &[&str]) {
    let harness = Harness::start(json!({})).await;
    refused(harness.push(header, payload).await, Code::InvalidArgument, parts);
    assert!(harness.state(|state| state.chunks.is_empty()));
    assert_eq!(harness.objects().await, Vec::<String>::new());
}

#[tokio::test]
async fn parquet_is_taken() {
    let harness = Harness::start(json!({})).await;
    let file = parquet(vec![("text", strings(&["a", "b"])), ("label", strings(&["ham", "spam"]))]);
    let chunk = harness.push(header(), &file).await.unwrap().chunk.unwrap();
    assert_eq!((chunk.state.as_str(), chunk.train_rows + chunk.held_out_rows), ("sealed", 2));
}

#[tokio::test]
async fn truncated_parquet() {
    let file = parquet(vec![("text", strings(&["a", "b"])), ("label", strings(&["ham", "spam"]))]);
    bad(header(), &file[..file.len() / 2], &["not a whole Parquet file", "push all of it"]).await;
}

#[tokio::test]
async fn a_missing_column() {
    let file = parquet(vec![("text", strings(&["a"])), ("intent", strings(&["ham"]))]);
    bad(header(), &file, &["column `label` is missing", "`text`, `intent`"]).await;
    let header = v1::ChunkHeader { label_column: "class".to_owned(), ..header() };
    bad(header, &jsonl(&[("a", "ham")]), &["line 1", "`class`", "`label`, `text`"]).await;
}

#[tokio::test]
async fn a_mistyped_column() {
    let numbers: ArrayRef = Arc::new(Float64Array::from(vec![0.5]));
    let file = parquet(vec![("text", strings(&["a"])), ("label", numbers)]);
    bad(header(), &file, &["column `label`", "Float64", "expected a string"]).await;
    bad(header(), b"{\"text\": 5, \"label\": \"ham\"}\n", &["line 1", "`text`", "found `5`", "expected a string"])
        .await;
}

#[tokio::test]
async fn a_row_without_a_value() {
    let file = parquet(vec![("text", strings(&[""])), ("label", strings(&["ham"]))]);
    bad(header(), &file, &["row 0, column `text`", "an empty string", "leave the row out"]).await;
}

#[tokio::test]
async fn an_empty_chunk() {
    bad(header(), b"", &["there are no rows"]).await;
    let file = parquet(vec![("text", strings(&[])), ("label", strings(&[]))]);
    bad(header(), &file, &["there are no rows"]).await;
}

#[tokio::test]
async fn a_payload_of_no_known_format() {
    bad(header(), b"a,b\n1,2\n", &["no format that is read here"]).await;
    let header = v1::ChunkHeader { format: v1::Format::Parquet.into(), ..header() };
    bad(header, &jsonl(&[("a", "ham")]), &["not a whole Parquet file"]).await;
}

#[tokio::test]
async fn a_file_under_a_root_is_copied_in() {
    let harness = Harness::start(json!({})).await;
    let file = harness.root.path().join("rows.jsonl");
    std::fs::write(&file, many(10)).unwrap();
    let uri = format!("file://{}", file.display());
    let answer = harness.register(header(), &uri).await.unwrap();
    assert_eq!(answer.chunk.as_ref().unwrap().state, "sealed");
    std::fs::remove_file(&file).unwrap();
    assert!(harness.objects().await.iter().any(|path| path.ends_with("/raw")));
    // The same bytes are the same chunk, however they come.
    assert!(harness.push(header(), &many(10)).await.unwrap().already_exists);
}

#[tokio::test]
async fn a_place_outside_the_roots_is_refused() {
    let harness = Harness::start(json!({})).await;
    let root = harness.root.path().display().to_string();
    let register = async |uri: &str| harness.register(header(), uri).await;
    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    let uri = format!("file://{}", elsewhere.path().display());
    refused(register(&uri).await, Code::PermissionDenied, &[&uri, &root, "`roots`"]);
    let uri = format!("file://{root}/../x.jsonl");
    refused(register(&uri).await, Code::PermissionDenied, &["`..` is not allowed", &root]);
    refused(register("s3://bucket/x.jsonl").await, Code::PermissionDenied, &["s3", &root]);
    refused(
        register("ftp://host/x.jsonl").await,
        Code::InvalidArgument,
        &["`uri`", "scheme `ftp`", "file, s3, gs, az"],
    );
    refused(register("/data/x.jsonl").await, Code::InvalidArgument, &["`uri`", "file:///absolute/path"]);
    let uri = format!("file://{root}/none.jsonl");
    refused(register(&uri).await, Code::NotFound, &["none.jsonl"]);
    assert!(harness.state(|state| state.chunks.is_empty()));
}

#[tokio::test]
async fn a_registered_file_has_the_digest_and_size_it_should() {
    let harness = Harness::start(json!({})).await;
    let uri = format!("file://{}", harness.root.path().join("rows.jsonl").display());
    std::fs::write(harness.root.path().join("rows.jsonl"), many(10)).unwrap();
    let wrong = v1::ChunkHeader { sha256: "a".repeat(64), ..header() };
    refused(harness.register(wrong, &uri).await, Code::InvalidArgument, &[&"a".repeat(64)]);
    std::fs::write(harness.root.path().join("rows.jsonl"), vec![b' '; 100_001]).unwrap();
    refused(harness.register(header(), &uri).await, Code::InvalidArgument, &["limit of 100000 bytes"]);
}
