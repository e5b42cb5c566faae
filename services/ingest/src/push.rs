//! A payload streamed by its producer: one header, then frames.

use futures::{Stream, StreamExt};
use perennial_proto::v1::PushChunkRequest;
use perennial_proto::v1::push_chunk_request::Part;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::Error;
use crate::header::Header;
use crate::limits::Limits;

/// The stream of one push. Each wait for its producer ends after [`Limits::idle`].
pub struct Push<'a, S> {
    stream: S,
    limits: &'a Limits,
    /// So many have come.
    frames: u64,
}

impl<'a, S> Push<'a, S>
where
    S: Stream<Item = Result<PushChunkRequest, Status>> + Unpin,
{
    pub fn new(stream: S, limits: &'a Limits) -> Self {
        Self { stream, limits, frames: 0 }
    }

    pub async fn header(&mut self) -> Result<Header, Error> {
        match self.next().await? {
            Some(Part::Header(header)) => Ok(header.try_into()?),
            Some(Part::Frame(_)) | None => Err(Error::NoHeader),
        }
    }

    /// What follows the header, one by one.
    pub async fn frame(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let limit = self.limits.max_frame_bytes;
        match self.next().await? {
            Some(Part::Header(_)) => Err(Error::SecondHeader { after: self.frames }),
            Some(Part::Frame(frame)) if frame.len() > limit => Err(Error::FrameTooLarge { bytes: frame.len(), limit }),
            Some(Part::Frame(frame)) => {
                self.frames += 1;
                Ok(Some(frame))
            }
            None => Ok(None),
        }
    }

    async fn next(&mut self) -> Result<Option<Part>, Error> {
        let idle = self.limits.idle;
        let message = timeout(idle, self.stream.next()).await.map_err(|_| Error::Idle(idle))?;
        match message.transpose().map_err(|status| self.broken(status))? {
            Some(PushChunkRequest { part: Some(part) }) => Ok(Some(part)),
            // A part of a later protocol: without it the payload would be another one.
            Some(PushChunkRequest { part: None }) => Err(Error::EmptyMessage),
            None => Ok(None),
        }
    }

    /// The transport has a limit of its own, far above ours, and stops a message before it is read.
    fn broken(&self, status: Status) -> Error {
        match status.code() {
            Code::OutOfRange => Error::MessageTooLarge { limit: self.limits.max_frame_bytes },
            _ => Error::Stream(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::{Payload, Spool};
    use futures::stream;
    use perennial_proto::v1::ChunkHeader;

    fn limits() -> Limits {
        Limits { max_frame_bytes: 4, max_chunk_bytes: 6, ..Limits::default() }
    }

    fn header() -> Part {
        let pipeline = "namespaces/default/pipelines/tickets".to_owned();
        Part::Header(ChunkHeader { pipeline, ..ChunkHeader::default() })
    }

    fn frame(bytes: &[u8]) -> Part {
        Part::Frame(bytes.to_vec())
    }

    async fn push(parts: Vec<Part>) -> Result<Payload, Error> {
        let limits = limits();
        let messages = parts.into_iter().map(|part| Ok(PushChunkRequest { part: Some(part) }));
        let mut push = Push::new(stream::iter(messages), &limits);
        push.header().await?;
        let mut spool = Spool::new(limits.max_chunk_bytes)?;
        while let Some(frame) = push.frame().await? {
            spool.write(&frame).await?;
        }
        spool.finish(None).await
    }

    #[tokio::test]
    async fn frames_join_in_order() {
        let payload = push(vec![header(), frame(b"abc"), frame(b"def")]).await.unwrap();
        assert_eq!(payload.sha256, hex::encode(<sha2::Sha256 as sha2::Digest>::digest(b"abcdef")));
        assert_eq!(std::io::read_to_string(payload.open().unwrap()).unwrap(), "abcdef");
    }

    #[tokio::test]
    async fn a_stream_out_of_order_or_over_a_limit_is_refused() {
        let text = async |parts| push(parts).await.err().unwrap().to_string();
        assert!(text(vec![]).await.contains("begins with its header"));
        assert!(text(vec![frame(b"a")]).await.contains("begins with its header"));
        assert!(text(vec![header(), frame(b"a"), header()]).await.contains("second one came after 1 frames"));
        assert!(text(vec![header(), frame(b"abcde")]).await.contains("5 bytes is over the limit of 4 bytes"));
        assert!(text(vec![header(), frame(b"abcd"), frame(b"efg")]).await.contains("limit of 6 bytes"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_producer_is_given_up() {
        let limits = limits();
        let error = Push::new(stream::pending(), &limits).header().await.unwrap_err();
        assert_eq!(error.to_string(), "nothing arrived for 30 s; push the chunk again");
    }
}
