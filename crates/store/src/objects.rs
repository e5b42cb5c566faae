//! Immutable objects: written with their digest, never read without it.

mod cache;
mod writer;

use std::path::{Path as FsPath, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use domain::Timestamp;
use domain::chunk::ObjectRef;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryFutureExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::Error;

pub use cache::Cache;
pub use writer::Writer;

/// The longest wait for one request.
const REQUEST: Duration = Duration::from_secs(180);
/// Files larger than this go up in parts.
const PART: usize = 8 << 20;
/// Of a file that is uploaded, at a time.
const READ: usize = 1 << 20;
/// Of one object, before its source counts as damaged.
const COPIES: usize = 2;
/// Parts of one file under way at a time.
const PARTS: usize = 4;

/// SHA-256, lower-case hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Writes `bytes` under `path`, whatever was there: a path holds one content only, so at worst
/// they are the same bytes again.
pub async fn put(store: &dyn ObjectStore, path: &str, bytes: Bytes) -> Result<ObjectRef, Error> {
    let object = describe(path, &bytes);
    let key = key(path)?;
    request("write", path, store.put(&key, bytes.into())).await?;
    Ok(object)
}

/// Writes `bytes` under `path` if nothing is there. Equal bytes count as written; others are
/// [`Error::Exists`].
pub async fn create(store: &dyn ObjectStore, path: &str, bytes: Bytes) -> Result<ObjectRef, Error> {
    let object = describe(path, &bytes);
    let key = key(path)?;
    let written = store.put_opts(&key, PutPayload::from(bytes), PutMode::Create.into());
    match request("create", path, written).await {
        Ok(_) => return Ok(object),
        Err(Error::Store { source: object_store::Error::AlreadyExists { .. }, .. }) => {}
        Err(error) => return Err(error),
    }
    let found = sha256(&read(store, path).await?);
    if found == object.sha256 {
        return Ok(object);
    }
    Err(Error::Exists { path: object.path, wanted: object.sha256, found })
}

/// Uploads a file under `path`, in parts if it is large.
pub async fn put_file(store: &dyn ObjectStore, path: &str, file: &FsPath) -> Result<ObjectRef, Error> {
    let source = tokio::fs::File::open(file).await.map_err(Error::file("open", file))?;
    upload(store, path, source, file).await
}

/// As [`put_file`], a file that is open and may have no name; from its beginning.
pub async fn put_open(store: &dyn ObjectStore, path: &str, file: std::fs::File) -> Result<ObjectRef, Error> {
    let (mut source, shown) = (tokio::fs::File::from_std(file), FsPath::new(path));
    source.rewind().await.map_err(Error::file("rewind what becomes", shown))?;
    upload(store, path, source, shown).await
}

/// `shown`: what an error calls the source.
async fn upload(
    store: &dyn ObjectStore,
    path: &str,
    mut source: tokio::fs::File,
    shown: &FsPath,
) -> Result<ObjectRef, Error> {
    let (mut writer, mut hash, mut buffer) = (Writer::new(path), Sha256::new(), vec![0; READ]);
    loop {
        let filled = source.read(&mut buffer).await.map_err(Error::file("read", shown))?;
        if filled == 0 {
            return writer.finish(store, hex::encode(hash.finalize())).await;
        }
        hash.update(&buffer[..filled]);
        writer.write(store, &buffer[..filled]).await?;
    }
}

/// The object's bytes, or an error if they are not the ones it names.
pub async fn get(store: &dyn ObjectStore, object: &ObjectRef) -> Result<Bytes, Error> {
    let bytes = read(store, &object.path).await?;
    verify(object, sha256(&bytes))?;
    Ok(bytes)
}

/// Whatever bytes are there. For objects whose own content says whether they are whole.
pub async fn read(store: &dyn ObjectStore, path: &str) -> Result<Bytes, Error> {
    let key = key(path)?;
    request("read", path, store.get(&key).and_then(|found| found.bytes())).await
}

fn verify(object: &ObjectRef, found: String) -> Result<(), Error> {
    if found == object.sha256 {
        return Ok(());
    }
    Err(Error::Digest { path: object.path.clone(), wanted: object.sha256.clone(), found })
}

/// Copies within the store, and reads the copy back; one that is damaged is made once more.
///
/// A whole copy that is there already stays: a local directory copies by link and rename, and renaming
/// a file onto itself leaves the temporary name behind.
pub async fn copy(store: &dyn ObjectStore, object: &ObjectRef, to: &str) -> Result<ObjectRef, Error> {
    let (from, target) = (key(&object.path)?, key(to)?);
    let copy = ObjectRef { path: to.to_owned(), ..object.clone() };
    for _ in 0..COPIES {
        if is_there(store, &copy).await? {
            return Ok(copy);
        }
        request("copy", &object.path, store.copy(&from, &target)).await?;
    }
    check(store, &copy).await?;
    Ok(copy)
}

/// An error unless the object's path holds the object's bytes.
pub async fn check(store: &dyn ObjectStore, object: &ObjectRef) -> Result<(), Error> {
    verify(object, digest(store, &object.path).await?)
}

/// Whether the object's path holds the object's bytes. Reads them only if there are as many as there should be.
async fn is_there(store: &dyn ObjectStore, object: &ObjectRef) -> Result<bool, Error> {
    let key = key(&object.path)?;
    match request("look at", &object.path, store.head(&key)).await {
        Ok(found) if found.size == object.bytes => Ok(digest(store, &object.path).await? == object.sha256),
        Ok(_) | Err(Error::Store { source: object_store::Error::NotFound { .. }, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn digest(store: &dyn ObjectStore, path: &str) -> Result<String, Error> {
    let key = key(path)?;
    let mut body = request("read", path, store.get(&key)).await?.into_stream();
    let mut hash = Sha256::new();
    while let Some(part) = request("read", path, async { body.next().await.transpose() }).await? {
        hash.update(&part);
    }
    Ok(hex::encode(hash.finalize()))
}

/// Uploads the files of a folder and the folders in it, in order of name. Links are not followed.
pub async fn upload_dir(store: &dyn ObjectStore, folder: &FsPath, prefix: &str) -> Result<Vec<ObjectRef>, Error> {
    let mut files = files(folder.to_owned(), prefix.to_owned()).await?;
    files.sort();
    let mut objects = Vec::with_capacity(files.len());
    for (path, file) in files {
        objects.push(put_file(store, &path, &file).await?);
    }
    Ok(objects)
}

fn files(folder: PathBuf, prefix: String) -> BoxFuture<'static, Result<Vec<(String, PathBuf)>, Error>> {
    async move {
        let mut found = Vec::new();
        let mut entries = tokio::fs::read_dir(&folder).await.map_err(Error::file("list", &folder))?;
        while let Some(entry) = entries.next_entry().await.map_err(Error::file("list", &folder))? {
            let path = format!("{prefix}/{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type().await.map_err(Error::file("look at", &entry.path()))?;
            if kind.is_dir() {
                found.extend(files(entry.path(), path).await?);
            } else if kind.is_file() {
                found.push((path, entry.path()));
            }
        }
        Ok(found)
    }
    .boxed()
}

/// Removes an object. One that is not there counts as removed.
pub async fn delete(store: &dyn ObjectStore, path: &str) -> Result<(), Error> {
    let key = key(path)?;
    match request("remove", path, store.delete(&key)).await {
        Err(Error::Store { source: object_store::Error::NotFound { .. }, .. }) => Ok(()),
        other => other,
    }
}

/// Paths under a folder, in order of name.
pub async fn list(store: &dyn ObjectStore, folder: &str) -> Result<Vec<String>, Error> {
    Ok(entries(store, folder).await?.into_iter().map(|entry| entry.path).collect())
}

/// What a listing says of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub path: String,
    pub bytes: u64,
    /// By the store's clock.
    pub modified: Timestamp,
    /// Another one for another content: the store's, or made of size and time where it has none.
    pub tag: String,
}

/// What lies under a folder, in order of name.
pub async fn entries(store: &dyn ObjectStore, folder: &str) -> Result<Vec<Entry>, Error> {
    let key = key(folder)?;
    let mut listing = store.list(Some(&key));
    let mut entries = Vec::new();
    while let Some(found) = request("list", folder, listing.next().map(Option::transpose)).await? {
        let modified = found.last_modified.timestamp_millis().max(0).unsigned_abs();
        let tag = found.e_tag.unwrap_or_else(|| format!("{}-{modified}", found.size));
        entries.push(Entry { path: found.location.to_string(), bytes: found.size, modified, tag });
    }
    entries.sort();
    Ok(entries)
}

fn describe(path: &str, bytes: &[u8]) -> ObjectRef {
    ObjectRef { path: path.to_owned(), sha256: sha256(bytes), bytes: bytes.len() as u64 }
}

fn key(path: &str) -> Result<Path, Error> {
    Path::parse(path).map_err(|e| Error::store("name", path)(e.into()))
}

async fn request<T>(
    action: &'static str,
    path: &str,
    future: impl Future<Output = object_store::Result<T>>,
) -> Result<T, Error> {
    match tokio::time::timeout(REQUEST, future).await {
        Ok(outcome) => outcome.map_err(Error::store(action, path)),
        Err(_) => Err(Error::Timeout { action, path: path.to_owned(), after: REQUEST }),
    }
}
