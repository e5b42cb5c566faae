//! A file on its way to the server, which has it when this returns, however often the connection breaks.

use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use indicatif::ProgressBar;
use perennial_proto::v1;
use perennial_proto::v1::push_chunk_request::Part;
use tonic::Code;

use super::client::{Context, within};
use super::failure::Failure;
use super::progress;
use super::upload::{self, Broken, LocalFile};

/// Larger files are kept by the server as they arrive; smaller ones are sent again from their beginning.
const RESUMABLE: u64 = 16 << 20;

pub struct Push<'a> {
    pub ctx: &'a Context,
    pub header: v1::ChunkHeader,
    pub file: LocalFile,
}

impl Push<'_> {
    pub async fn until_answered(mut self) -> Result<v1::PushChunkResponse, Failure> {
        self.header.total_bytes = if self.file.bytes > RESUMABLE { self.file.bytes } else { 0 };
        let bar = progress::transfer(self.file.bytes, &self.file.path.display().to_string());
        let mut waits = waits();
        loop {
            let before = self.header.offset;
            match self.attempt(&bar).await {
                Err(failure) if failure.is_transient() => {
                    if self.header.offset > before {
                        waits = self::waits();
                    }
                    let Some(wait) = waits.next() else { return Err(failure) };
                    bar.suspend(|| eprintln!("{failure}\nonce more in {}", humantime::format_duration(wait)));
                    tokio::time::sleep(wait).await;
                }
                outcome => {
                    bar.finish_and_clear();
                    return outcome;
                }
            }
        }
    }

    async fn attempt(&mut self, bar: &ProgressBar) -> Result<v1::PushChunkResponse, Failure> {
        let mut client = self.ctx.ingest().await?;
        if self.header.total_bytes > 0 {
            let (pipeline, sha256) = (self.header.pipeline.clone(), self.file.sha256.clone());
            let query = self.ctx.request(v1::QueryUploadRequest { pipeline, sha256 });
            match client.query_upload(query).await {
                Ok(found) => self.header.offset = found.into_inner().durable_bytes,
                // A server from before there was a way to go on.
                Err(status) if status.code() == Code::Unimplemented => self.header.total_bytes = 0,
                Err(status) => return Err(status.into()),
            }
        }
        bar.set_position(self.header.offset);
        let broken = Broken::default();
        let frames = upload::frames(self.file.path.clone(), self.header.offset, bar.clone(), broken.clone());
        let deadline = upload::deadline(self.file.bytes, self.ctx.timeout);
        let outcome = client.push_chunk(within(deadline, parts(self.header.clone(), frames))).await;
        Ok(broken.or(outcome.map_err(Failure::from))?.into_inner())
    }
}

/// Before each further attempt; some 20 seconds together, in which a server restarts or another takes over.
fn waits() -> impl Iterator<Item = Duration> {
    std::iter::successors(Some(Duration::from_millis(250)), |wait| Some((*wait * 2).min(Duration::from_secs(5))))
        .take(8)
}

fn parts(
    header: v1::ChunkHeader,
    frames: impl Stream<Item = bytes::Bytes> + Send + 'static,
) -> impl Stream<Item = v1::PushChunkRequest> + Send + 'static {
    let part = |part| v1::PushChunkRequest { part: Some(part) };
    stream::iter([part(Part::Header(header))]).chain(frames.map(move |frame| part(Part::Frame(frame.into()))))
}
