//! A payload on its way in: on disk, not in memory, hashed as it comes, never above the limit. Where it is said beforehand
//! which payload it will be, it goes into the store as it comes, too.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::sync::Arc;

use bytes::BytesMut;
use domain::chunk::ObjectRef;
use object_store::ObjectStore;
use perennial_proto::status::chain;
use sha2::{Digest, Sha256};
use store::objects::{self, Writer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::warn;

use crate::Error;

/// Takes frames. The file has no name: it is gone when this process is.
pub struct Spool {
    /// What is not on disk yet.
    gathered: BytesMut,
    disk: Disk,
    bytes: u64,
    limit: u64,
    copy: Option<Copy>,
}

/// What is on disk, and its digest.
struct Written {
    file: File,
    hash: Sha256,
}

/// Writing and hashing go on beside receiving.
enum Disk {
    Idle(Written),
    Busy(JoinHandle<io::Result<Written>>),
    /// An error ended it.
    Broken,
}

/// The payload's object, which is there once it is finished.
struct Copy {
    store: Arc<dyn ObjectStore>,
    writer: Writer,
    places: Arc<Semaphore>,
    /// To hold what is not sent yet, once that is much.
    place: Option<OwnedSemaphorePermit>,
}

/// Bytes that go to disk together.
const WRITE: usize = 256 << 10;
/// So much of a payload is held in any case.
const LITTLE: u64 = 256 << 10;

/// A whole payload.
pub struct Payload {
    file: File,
    /// Lower-case hex.
    pub sha256: String,
    copy: Option<Copy>,
}

impl Spool {
    pub fn new(limit: u64) -> Result<Self, Error> {
        let disk = Disk::Idle(Written { file: tempfile::tempfile()?, hash: Sha256::new() });
        Ok(Self { gathered: BytesMut::new(), disk, bytes: 0, limit, copy: None })
    }

    /// Sends what comes to where the payload will be kept, if it is little or one of the `places` is free.
    pub fn copied(self, store: Arc<dyn ObjectStore>, path: String, places: Arc<Semaphore>) -> Self {
        Self { copy: Some(Copy { store, writer: Writer::new(path), places, place: None }), ..self }
    }

    pub async fn write(&mut self, frame: &[u8]) -> Result<(), Error> {
        self.bytes += frame.len() as u64;
        if self.bytes > self.limit {
            return Err(Error::ChunkTooLarge { limit: self.limit });
        }
        self.gathered.extend_from_slice(frame);
        if self.gathered.len() >= WRITE {
            let gathered = self.gathered.split().freeze();
            let disk = self.disk.take().idle().await?;
            self.disk = Disk::Busy(spawn_blocking(move || disk.and(&gathered)));
        }
        self.copy.take_if(|copy| self.bytes > LITTLE && !copy.finds_place());
        if let Some(Copy { store, writer, .. }) = &mut self.copy
            && let Err(error) = writer.write(&**store, frame).await
        {
            // What is on disk is sent once it is whole. A part that failed is gone: the rest of them is worth nothing.
            warn!(error = chain(&error), "a payload is not sent as it comes any more");
            self.copy = None;
        }
        Ok(())
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The payload, if it is the `expected` one.
    pub async fn finish(mut self, expected: Option<&str>) -> Result<Payload, Error> {
        let (disk, rest) = (self.disk.take().idle().await?, self.gathered);
        let Written { file, hash } = spawn_blocking(move || disk.and(&rest)).await??;
        let sha256 = hex::encode(hash.finalize());
        if let Some(expected) = expected
            && expected != sha256
        {
            let expected = expected.to_owned();
            return Err(Error::Digest { expected, found: sha256 });
        }
        Ok(Payload { file, sha256, copy: self.copy })
    }
}

impl Written {
    fn and(mut self, bytes: &[u8]) -> io::Result<Self> {
        self.hash.update(bytes);
        self.file.write_all(bytes)?;
        Ok(self)
    }
}

impl Disk {
    fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Broken)
    }

    async fn idle(self) -> Result<Written, Error> {
        match self {
            Self::Idle(written) => Ok(written),
            Self::Busy(writing) => Ok(writing.await??),
            Self::Broken => Err(io::Error::other("an earlier write failed").into()),
        }
    }
}

impl Copy {
    fn finds_place(&mut self) -> bool {
        self.place = self.place.take().or_else(|| self.places.clone().try_acquire_owned().ok());
        self.place.is_some()
    }
}

impl Payload {
    /// The file, from its beginning. There is one place in it: whoever reads it reads it alone.
    pub fn open(&self) -> io::Result<File> {
        let mut file = self.file.try_clone()?;
        file.rewind()?;
        Ok(file)
    }

    /// Makes it durable: what is still to be sent of it, if it was sent as it came.
    pub async fn keep(&mut self, store: &dyn ObjectStore, path: &str) -> Result<ObjectRef, Error> {
        if let Some(Copy { store, writer, .. }) = self.copy.take() {
            match writer.finish(&*store, self.sha256.clone()).await {
                Ok(object) => return Ok(object),
                Err(error) => warn!(error = chain(&error), "a payload is sent again"),
            }
        }
        Ok(objects::put_open(store, path, self.open()?).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;
    use std::io::Read;

    const PATH: &str = "chunks/c/raw";

    struct Bench {
        store: Arc<InMemory>,
        places: Arc<Semaphore>,
    }

    impl Bench {
        fn new(places: usize) -> Self {
            Self { store: Arc::default(), places: Arc::new(Semaphore::new(places)) }
        }

        async fn spooled(&self, payload: &[u8], expected: Option<&str>) -> Result<Payload, Error> {
            self.spooled_into(self.store.clone(), payload, expected).await
        }

        async fn spooled_into(
            &self,
            store: Arc<dyn ObjectStore>,
            payload: &[u8],
            expected: Option<&str>,
        ) -> Result<Payload, Error> {
            let spool = Spool::new(1 << 30)?;
            let mut spool = spool.copied(store, PATH.to_owned(), self.places.clone());
            for frame in payload.chunks(100_000) {
                spool.write(frame).await?;
            }
            spool.finish(expected).await
        }

        async fn objects(&self) -> Vec<String> {
            objects::list(&*self.store, "").await.unwrap()
        }
    }

    fn payload(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at * 7 + at / 251) as u8).collect()
    }

    #[tokio::test]
    async fn what_is_on_disk_what_is_kept_and_the_digest_agree() {
        for (bytes, places) in [(0, 1), (5, 0), (300_000, 1), (300_000, 0), (20_000_000, 1), (20_000_000, 0)] {
            let (bench, content) = (Bench::new(places), payload(bytes));
            let mut spooled = bench.spooled(&content, None).await.unwrap();
            assert_eq!(spooled.sha256, objects::sha256(&content));
            let mut read = Vec::new();
            spooled.open().unwrap().read_to_end(&mut read).unwrap();
            assert!(read == content, "{bytes} bytes, {places} places");
            assert!(bench.objects().await.is_empty(), "nothing is there before it is kept");
            let object = spooled.keep(&*bench.store, PATH).await.unwrap();
            assert_eq!((object.bytes, &object.sha256), (bytes as u64, &spooled.sha256));
            assert!(objects::get(&*bench.store, &object).await.unwrap() == content);
            drop(spooled);
            assert_eq!(bench.places.available_permits(), places);
        }
    }

    #[tokio::test]
    async fn of_another_payload_than_the_announced_one_nothing_is_kept_and_its_place_is_free_again() {
        let (bench, other) = (Bench::new(1), objects::sha256(b"another"));
        let error = bench.spooled(&payload(20_000_000), Some(&other)).await.err().unwrap();
        assert!(matches!(error, Error::Digest { .. }), "{error}");
        assert!(bench.objects().await.is_empty());
        assert_eq!(bench.places.available_permits(), 1);
    }

    #[tokio::test]
    async fn a_payload_finds_no_place_while_others_hold_them_all_and_is_kept_all_the_same() {
        let bench = Bench::new(1);
        let first = bench.spooled(&payload(300_000), None).await.unwrap();
        let mut second = bench.spooled(&payload(300_000), None).await.unwrap();
        assert!(first.copy.is_some() && second.copy.is_none());
        second.keep(&*bench.store, PATH).await.unwrap();
        assert_eq!(bench.objects().await, [PATH]);
    }

    #[tokio::test]
    async fn a_payload_whose_parts_the_store_lost_is_sent_again() {
        let (bench, content, folder) = (Bench::new(1), payload(20_000_000), tempfile::tempdir().unwrap());
        let store = object_store::local::LocalFileSystem::new_with_prefix(folder.path()).unwrap();
        let mut spooled = bench.spooled_into(Arc::new(store), &content, None).await.unwrap();
        folder.close().unwrap();
        let object = spooled.keep(&*bench.store, PATH).await.unwrap();
        assert!(objects::get(&*bench.store, &object).await.unwrap() == content);
        assert_eq!(bench.places.available_permits(), 1);
    }
}
