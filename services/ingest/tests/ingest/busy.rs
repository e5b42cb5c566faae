//! More pushes at a time than a client may make.

use std::time::Duration;

use futures::{StreamExt, stream};
use perennial_ingest::Allowance;
use perennial_proto::v1;
use perennial_proto::v1::push_chunk_request::Part;
use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt;

use crate::harness::{FRAME, Harness, header, many};
use crate::resume::{arrives, resumable};

#[tokio::test]
async fn a_client_with_too_many_pushes_is_told_when_to_come_back() {
    let harness = Harness::start(json!({})).await;
    let ingest = harness.limited(Allowance { pushes: 1, bytes_per_second: None }).await;
    let payload = many(10);
    let frames = payload.chunks(FRAME).map(|frame| Part::Frame(frame.to_vec()));
    let parts: Vec<Part> = std::iter::once(Part::Header(resumable(&payload, 0))).chain(frames).collect();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    // The last frames wait.
    let (first, last) = parts.split_at(3);
    let ending = stream::once(async move { ended.await.ok() }).filter_map(|_| async { None });
    let messages = stream::iter(first.to_vec()).chain(ending).chain(stream::iter(last.to_vec()));
    let mut slow = ingest.clone();
    let held =
        tokio::spawn(
            async move { slow.push_chunk(messages.map(|part| v1::PushChunkRequest { part: Some(part) })).await },
        );
    arrives(&harness, &payload, 100).await;

    let second = async || {
        let parts = [Part::Header(header()), Part::Frame(many(1)[..FRAME.min(many(1).len())].to_vec())];
        let messages = stream::iter(parts.map(|part| v1::PushChunkRequest { part: Some(part) }));
        ingest.clone().push_chunk(messages).await
    };
    let status = second().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("client 127.0.0.1 has 1 pushes under way"), "{status:?}");
    let wait = status.get_error_details().retry_info().and_then(|info| info.retry_delay);
    assert_eq!(wait, Some(Duration::from_secs(1)));
    end.send(()).unwrap();
    assert!(held.await.unwrap().is_ok());
    assert!(second().await.is_ok());
}
