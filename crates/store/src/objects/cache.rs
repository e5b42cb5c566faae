//! Objects on the local disk, named by digest: fetched once per machine, then only opened.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use domain::chunk::ObjectRef;
use futures::StreamExt;
use object_store::{ObjectStore, ObjectStoreExt};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::{key, request, verify};
use crate::{Error, unique};

/// A folder that may be shared by several processes: a file appears whole or not at all.
#[derive(Clone)]
pub struct Cache {
    store: Arc<dyn ObjectStore>,
    folder: PathBuf,
    /// One fetch at a time for each digest.
    fetching: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>,
}

impl Cache {
    pub fn new(store: Arc<dyn ObjectStore>, folder: PathBuf) -> Self {
        Self { store, folder, fetching: Arc::default() }
    }

    /// The local file with the object's bytes. Its digest was checked when it was fetched.
    pub async fn fetch(&self, object: &ObjectRef) -> Result<PathBuf, Error> {
        let file = self.file(object)?;
        let turn = self.turn(&object.sha256);
        let held = turn.lock().await;
        let outcome =
            if is_whole(&file, object).await { Ok(file) } else { self.download(object, &file).await.map(|()| file) };
        drop(held);
        self.forget(&object.sha256, turn);
        outcome
    }

    /// Removes the object's file. Whoever has it open may read on.
    pub fn discard(&self, sha256: &str) {
        if let Some(file) = self.place(sha256) {
            // One that is not there is what is wanted.
            let _ = std::fs::remove_file(file);
        }
    }

    fn file(&self, object: &ObjectRef) -> Result<PathBuf, Error> {
        self.place(&object.sha256).ok_or_else(|| Error::Digest {
            path: object.path.clone(),
            wanted: object.sha256.clone(),
            found: "not looked for: the wanted one is no SHA-256 in hex".to_owned(),
        })
    }

    /// A digest comes from a stored manifest: it is checked before it becomes a file name.
    fn place(&self, sha256: &str) -> Option<PathBuf> {
        let digest = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        digest.then(|| self.folder.join(&sha256[..2]).join(sha256))
    }

    fn turn(&self, sha256: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        fetching.entry(sha256.to_owned()).or_default().clone()
    }

    fn forget(&self, sha256: &str, turn: Arc<tokio::sync::Mutex<()>>) {
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        // Two: the map's and ours. Nobody waits.
        if Arc::strong_count(&turn) == 2 {
            fetching.remove(sha256);
        }
    }

    async fn download(&self, object: &ObjectRef, file: &Path) -> Result<(), Error> {
        let folder = file.parent().unwrap_or(&self.folder);
        tokio::fs::create_dir_all(folder).await.map_err(Error::file("create", folder))?;
        let partial = Partial(file.with_extension(format!("{}.tmp", unique::token())));
        let found = self.write(object, &partial.0).await?;
        verify(object, found)?;
        tokio::fs::rename(&partial.0, file).await.map_err(Error::file("rename to", file))
    }

    /// Streams the object into `target` and returns its digest.
    async fn write(&self, object: &ObjectRef, target: &Path) -> Result<String, Error> {
        let path = object.path.as_str();
        let key = key(path)?;
        let mut file = tokio::fs::File::create(target).await.map_err(Error::file("create", target))?;
        let found = request("read", path, self.store.get(&key)).await?;
        let (mut body, mut hash) = (found.into_stream(), Sha256::new());
        while let Some(part) = request("read", path, async { body.next().await.transpose() }).await? {
            hash.update(&part);
            file.write_all(&part).await.map_err(Error::file("write", target))?;
        }
        file.sync_all().await.map_err(Error::file("write", target))?;
        Ok(hex::encode(hash.finalize()))
    }
}

async fn is_whole(file: &Path, object: &ObjectRef) -> bool {
    tokio::fs::metadata(file).await.is_ok_and(|found| found.len() == object.bytes)
}

/// A file that is removed unless it was renamed away, also when its fetch is cancelled.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // After a rename it is gone, which is what is wanted.
        let _ = std::fs::remove_file(&self.0);
    }
}
