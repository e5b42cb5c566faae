//! A payload that arrives in several pushes: each part is durable as soon as it is whole, so that a push which broke goes
//! on behind it, at this ingest process or at another.
//!
//! A part is named by where it lies in which payload: writing one twice writes the same bytes. What no push made whole
//! within a day goes when the next resumable one begins.

use std::time::Duration;

use bytes::BytesMut;
use domain::Timestamp;
use domain::id::PipelineId;
use object_store::ObjectStore;
use store::objects::Entry;
use store::{layout, objects};
use tracing::warn;

use crate::Error;
use crate::header::Resume;
use crate::limits::Limits;
use crate::spool::{Payload, Spool};

const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// What of a payload is durable.
pub struct Upload<'a> {
    store: &'a dyn ObjectStore,
    folder: String,
    /// From the payload's beginning, without a gap.
    parts: Vec<Entry>,
}

impl<'a> Upload<'a> {
    pub async fn open(store: &'a dyn ObjectStore, pipeline: &PipelineId, sha256: &str) -> Result<Self, Error> {
        let folder = layout::upload(pipeline, sha256);
        let mut end = 0;
        let follows = |entry: &Entry| {
            let follows = entry.path == name(&folder, end);
            end += entry.bytes;
            follows
        };
        let parts = objects::entries(store, &folder).await?.into_iter().take_while(follows).collect();
        Ok(Self { store, folder, parts })
    }

    pub fn durable_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// Takes the payload from `offset` on, which is where one of its parts ends.
    pub async fn resume(self, offset: u64, mut spool: Spool, limits: &Limits) -> Result<Receiver<'a>, Error> {
        for part in &self.parts {
            if spool.bytes() >= offset {
                break;
            }
            match objects::read(self.store, &part.path).await {
                // Another push of the payload has ended meanwhile.
                Err(error) if error.kind() == store::Kind::NotFound => {
                    return Err(Error::Offset { offset, durable: spool.bytes() });
                }
                part => spool.write(&part?).await?,
            }
        }
        if spool.bytes() != offset {
            return Err(Error::Offset { offset, durable: self.durable_bytes() });
        }
        Ok(Receiver { upload: self, spool, part: BytesMut::new(), part_bytes: limits.part_bytes })
    }

    /// The payload is a chunk now, or nothing. Parts that stay are a matter of space alone.
    pub async fn clear(self) {
        let cleared = async { clear(self.store, &objects::list(self.store, &self.folder).await?).await };
        if let Err(error) = cleared.await {
            warn!(folder = %self.folder, error = %perennial_proto::status::chain(&error), "parts of an upload stay for a day");
        }
    }
}

/// Removes the parts of uploads that were written more than a day before `now`.
pub async fn sweep(store: &dyn ObjectStore, pipeline: &PipelineId, now: Timestamp) -> Result<(), Error> {
    let old = |entry: &Entry| u128::from(now.saturating_sub(entry.modified)) > KEPT.as_millis();
    let listed = objects::entries(store, &layout::uploads(pipeline)).await?;
    let paths: Vec<String> = listed.into_iter().filter(old).map(|entry| entry.path).collect();
    Ok(clear(store, &paths).await?)
}

async fn clear(store: &dyn ObjectStore, paths: &[String]) -> Result<(), store::Error> {
    for path in paths {
        objects::delete(store, path).await?;
    }
    Ok(())
}

/// Names sort by offset.
fn name(folder: &str, offset: u64) -> String {
    format!("{folder}/{offset:020}")
}

/// Makes what arrives durable, part by part.
pub struct Receiver<'a> {
    upload: Upload<'a>,
    spool: Spool,
    /// What is not durable yet.
    part: BytesMut,
    part_bytes: usize,
}

impl<'a> Receiver<'a> {
    pub async fn write(&mut self, mut frame: &[u8]) -> Result<(), Error> {
        while !frame.is_empty() {
            let room = self.part_bytes - self.part.len();
            let (fits, rest) = frame.split_at(room.min(frame.len()));
            self.spool.write(fits).await?;
            self.part.extend_from_slice(fits);
            frame = rest;
            if self.part.len() == self.part_bytes {
                self.put().await?;
            }
        }
        Ok(())
    }

    async fn put(&mut self) -> Result<(), Error> {
        let part = self.part.split().freeze();
        let begins = self.spool.bytes() - part.len() as u64;
        objects::put(self.upload.store, &name(&self.upload.folder, begins), part).await?;
        Ok(())
    }

    /// The payload, if it is the announced one; else its parts are worth nothing. A client that went away ends its stream
    /// like one that has sent everything: how much that is tells them apart.
    pub async fn finish(mut self, announced: &Resume) -> Result<(Payload, Upload<'a>), Error> {
        let (arrived, total) = (self.spool.bytes(), announced.total_bytes);
        if arrived < total {
            return Err(Error::CutShort { arrived, total });
        }
        if !self.part.is_empty() {
            self.put().await?;
        }
        match self.spool.finish(Some(&announced.sha256)).await {
            Ok(payload) => Ok((payload, self.upload)),
            Err(error) => {
                self.upload.clear().await;
                Err(error)
            }
        }
    }
}
