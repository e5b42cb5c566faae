//! A payload on its way in: on disk, not in memory, hashed as it comes, never above the limit.

use std::fs::File;
use std::io::{self, Seek};

use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::Error;

/// Takes frames. The file has no name: it is gone when this process is.
pub struct Spool {
    file: tokio::fs::File,
    hash: Sha256,
    bytes: u64,
    limit: u64,
}

/// A whole payload.
pub struct Payload {
    file: File,
    /// Lower-case hex.
    pub sha256: String,
}

impl Spool {
    pub fn new(limit: u64) -> Result<Self, Error> {
        let file = tokio::fs::File::from_std(tempfile::tempfile()?);
        Ok(Self { file, hash: Sha256::new(), bytes: 0, limit })
    }

    pub async fn write(&mut self, frame: &[u8]) -> Result<(), Error> {
        self.bytes += frame.len() as u64;
        if self.bytes > self.limit {
            return Err(Error::ChunkTooLarge { limit: self.limit });
        }
        self.hash.update(frame);
        Ok(self.file.write_all(frame).await?)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The payload, if it is the `expected` one.
    pub async fn finish(mut self, expected: Option<&str>) -> Result<Payload, Error> {
        self.file.flush().await?;
        let sha256 = hex::encode(self.hash.finalize());
        if let Some(expected) = expected
            && expected != sha256
        {
            let expected = expected.to_owned();
            return Err(Error::Digest { expected, found: sha256 });
        }
        let file = self.file.into_std().await;
        Ok(Payload { file, sha256 })
    }
}

impl Payload {
    /// The file, from its beginning. There is one place in it: whoever reads it reads it alone.
    pub fn open(&self) -> io::Result<File> {
        let mut file = self.file.try_clone()?;
        file.rewind()?;
        Ok(file)
    }
}
