//! Clients of a cluster whose processes die: they ask again until they are answered.

use std::time::Duration;

use perennial_proto::v1;
use tonic::{Code, Status};

use crate::cluster::{Cluster, DEADLINE, resource};

/// Asks again while nobody answers.
///
/// # Panics
///
/// If it is refused.
pub async fn insist<T>(ask: impl AsyncFn() -> Result<T, Status>) -> T {
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    let asked = async {
        loop {
            pace.tick().await;
            match ask().await {
                Ok(answer) => return answer,
                Err(status) if is_silence(&status) => {}
                Err(status) => panic!("{status:?}"),
            }
        }
    };
    tokio::time::timeout(DEADLINE, asked).await.expect("somebody answers in the end")
}

/// Whether whoever was asked, or somebody they asked, was away.
fn is_silence(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded)
}

/// As many as there may be on a page.
const PAGE: i32 = 1000;

pub async fn all_chunks(cluster: &Cluster, pipeline: &str) -> Vec<v1::Chunk> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let parent = resource(pipeline);
        let request = v1::ListChunksRequest { parent, page_size: PAGE, page_token, ..Default::default() };
        let page = insist(async || cluster.chunks().list_chunks(request.clone()).await).await.into_inner();
        all.extend(page.chunks);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

/// Waits until the rows of every chunk are checked.
pub async fn rows_checked(cluster: &Cluster, pipeline: &str) {
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    let waiting = async {
        while all_chunks(cluster, pipeline).await.iter().any(|chunk| chunk.state == "received") {
            pace.tick().await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.expect("somebody checks them");
}

/// The first page of them.
pub async fn all_versions(cluster: &Cluster, pipeline: &str) -> Vec<v1::Version> {
    let request = v1::ListVersionsRequest { parent: resource(pipeline), page_size: PAGE, ..Default::default() };
    insist(async || cluster.registry().list_versions(request.clone()).await).await.into_inner().versions
}

/// Runs until every chunk is absorbed. A run whose start was not answered may be under way or over; one that failed over too many
/// deaths leaves its chunks refused, and they are released.
pub async fn absorb(cluster: &Cluster, pipeline: &str) {
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    loop {
        let request = v1::ListRunsRequest { parent: resource(pipeline), page_size: PAGE, ..Default::default() };
        let runs = insist(async || cluster.runs().list_runs(request.clone()).await).await.into_inner().runs;
        if let Some(open) = runs.iter().find(|run| run.ended_at_ms == 0) {
            follow(cluster, &open.name).await;
        }
        let chunks = all_chunks(cluster, pipeline).await;
        if chunks.iter().all(|chunk| chunk.state == "absorbed") {
            return;
        }
        let refused = chunks.into_iter().filter(|chunk| chunk.state == "refused").map(|chunk| chunk.name).collect();
        let request = v1::ReleaseChunksRequest { pipeline: resource(pipeline), chunks: refused };
        if !request.chunks.is_empty() {
            tolerated(cluster.chunks().release_chunks(request).await);
        }
        tolerated(cluster.start_run(pipeline, &[]).await);
        pace.tick().await;
    }
}

/// Whether it was done shows later: nobody may have answered, or one that was not answered had done it before.
fn tolerated<T>(answer: Result<T, Status>) {
    let refused = answer.err().filter(|status| !is_silence(status) && status.code() != Code::FailedPrecondition);
    assert!(refused.is_none(), "{refused:?}");
}

async fn follow(cluster: &Cluster, run: &str) {
    let request = v1::WatchRunRequest { name: run.to_owned() };
    insist(async || {
        let mut stream = cluster.runs().watch_run(request.clone()).await?.into_inner();
        loop {
            match stream.message().await? {
                Some(message) if message.run.as_ref().is_some_and(|run| run.ended_at_ms > 0) => return Ok(()),
                Some(_) => {}
                None => return Err(Status::unavailable("the stream ended before the run")),
            }
        }
    })
    .await;
}
