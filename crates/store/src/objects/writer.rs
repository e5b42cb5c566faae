//! An object on its way into the store.

use bytes::BytesMut;
use domain::chunk::ObjectRef;
use futures::FutureExt;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};
use tokio::runtime::Handle;

use super::{PART, PARTS, key, request};
use crate::Error;

/// Takes an object's bytes as they come, and sends them in parts if they are many. Nothing is under its path before it is
/// finished; what was sent of one that is dropped is thrown away. Parts stay where the process dies: stores have a rule for uploads
/// that nobody finishes.
pub struct Writer {
    path: String,
    bytes: u64,
    /// Not sent yet.
    part: BytesMut,
    parts: Option<WriteMultipart>,
}

impl Writer {
    pub fn new(path: impl Into<String>) -> Self {
        let path = path.into();
        Self { path, bytes: 0, part: BytesMut::new(), parts: None }
    }

    pub async fn write(&mut self, store: &dyn ObjectStore, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let (fits, rest) = bytes.split_at(bytes.len().min(PART - self.part.len()));
            self.part.extend_from_slice(fits);
            bytes = rest;
            if self.part.len() == PART {
                self.send(store).await?;
            }
        }
        Ok(())
    }

    async fn send(&mut self, store: &dyn ObjectStore) -> Result<(), Error> {
        if self.parts.is_none() {
            let upload = request("begin to upload", &self.path, store.put_multipart(&key(&self.path)?)).await?;
            self.parts = Some(WriteMultipart::new_with_chunk_size(upload, PART));
        }
        let parts = self.parts.as_mut().expect("they have begun");
        request("upload", &self.path, parts.wait_for_capacity(PARTS)).await?;
        let part = self.part.split().freeze();
        self.bytes += part.len() as u64;
        parts.put(part);
        Ok(())
    }

    /// `sha256`: of all that was written.
    pub async fn finish(mut self, store: &dyn ObjectStore, sha256: String) -> Result<ObjectRef, Error> {
        if self.parts.is_some() && !self.part.is_empty() {
            self.send(store).await?;
        }
        match self.parts.take() {
            Some(parts) => {
                // Goes on if nobody waits any more, and throws the parts away if it fails.
                let finish = tokio::spawn(parts.finish()).map(|ended| ended.expect("it does not panic"));
                request("finish the upload of", &self.path, finish).await.map(drop)?;
            }
            None => {
                let whole = self.part.split().freeze();
                self.bytes = whole.len() as u64;
                request("write", &self.path, store.put(&key(&self.path)?, whole.into())).await?;
            }
        }
        Ok(ObjectRef { path: std::mem::take(&mut self.path), sha256, bytes: self.bytes })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let (Some(parts), Ok(runtime)) = (self.parts.take(), Handle::try_current()) {
            // A store that does not answer now removes it by its own rule for uploads that nobody finishes.
            runtime.spawn(parts.abort());
        }
    }
}
