//! Brings what a manifest names to local files, once per node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use domain::chunk::{ObjectRef, Shard};
use domain::pipeline::ModelFolder;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::objects::{Cache, list, sha256};
use crate::roots::Roots;
use crate::{Error, unique};

/// A node's digest-keyed cache, and the places that base models may come from.
pub struct Fetcher {
    cache: Cache,
    roots: Roots,
    folder: PathBuf,
}

impl Fetcher {
    pub fn new(cache: Cache, roots: Roots, folder: PathBuf) -> Self {
        Self { cache, roots, folder }
    }

    /// Local files by SHA-256, those of late labels too.
    pub async fn shards(&self, shards: Vec<Shard>) -> Result<BTreeMap<String, PathBuf>, Error> {
        let mut files = BTreeMap::new();
        for object in shards.iter().flat_map(Shard::objects) {
            let file = self.cache.fetch(object).await?;
            files.insert(object.sha256.clone(), file);
        }
        Ok(files)
    }

    pub async fn file(&self, object: &ObjectRef) -> Result<PathBuf, Error> {
        self.cache.fetch(object).await
    }

    /// Removes the copy of an object, if there is one.
    pub fn discard(&self, sha256: &str) {
        self.cache.discard(sha256);
    }

    /// Lays objects out under their own names in a new folder.
    pub async fn lay_out(&self, objects: &[ObjectRef], folder: &Path) -> Result<(), Error> {
        tokio::fs::create_dir_all(folder).await.map_err(Error::file("create", folder))?;
        for object in objects {
            let cached = self.cache.fetch(object).await?;
            let name = object.path.rsplit('/').next().unwrap_or(&object.path);
            let target = folder.join(name);
            tokio::fs::copy(&cached, &target).await.map_err(Error::file("write", &target))?;
        }
        Ok(())
    }

    /// A base model's folder, checked against its digest and kept under it.
    pub async fn model(&self, model: &ModelFolder) -> Result<PathBuf, Error> {
        let kept = self.folder.join("models").join(&model.sha256);
        if kept.is_dir() {
            return Ok(kept);
        }
        let (store, path) = self.roots.resolve(&model.uri)?;
        let partial = Partial(kept.with_extension(unique::token()));
        tokio::fs::create_dir_all(&partial.0).await.map_err(Error::file("create", &partial.0))?;
        let found = download(&*store, path.as_ref(), &partial.0).await?;
        let found = found.ok_or_else(|| nothing_at(&model.uri))?;
        if found != model.sha256 {
            return Err(Error::Digest { path: model.uri.clone(), wanted: model.sha256.clone(), found });
        }
        match tokio::fs::rename(&partial.0, &kept).await {
            Err(_) if kept.is_dir() => {}
            renamed => renamed.map_err(Error::file("rename", &partial.0))?,
        }
        Ok(kept)
    }
}

/// A folder that is removed unless it was renamed away, also when its download is cancelled.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // After a rename it is gone, which is what is wanted.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn nothing_at(uri: &str) -> Error {
    let source = object_store::Error::NotFound { path: uri.to_owned(), source: "it holds no file".into() };
    Error::Store { action: "read", path: uri.to_owned(), source }
}

/// Downloads a folder's own files and says its digest: SHA-256 over the sorted lines `<sha256>  <name>\n`.
/// None: there are no files.
async fn download(store: &dyn ObjectStore, from: &str, to: &Path) -> Result<Option<String>, Error> {
    let mut lines = Vec::new();
    for (name, path) in folder_files(store, from).await? {
        let key = object_store::path::Path::from(path.as_str());
        let object = store.get(&key).await.map_err(Error::store("read", &path))?;
        let bytes = object.bytes().await.map_err(Error::store("read", &path))?;
        let target = to.join(&name);
        tokio::fs::write(&target, &bytes).await.map_err(Error::file("write", &target))?;
        lines.push(format!("{}  {name}\n", sha256(&bytes)));
    }
    lines.sort();
    Ok((!lines.is_empty()).then(|| sha256(lines.concat().as_bytes())))
}

/// A model folder's own files, name and path, which are all that its digest knows of it.
pub async fn folder_files(store: &dyn ObjectStore, folder: &str) -> Result<Vec<(String, String)>, Error> {
    let own = |path: String| {
        let name = path.strip_prefix(folder)?.trim_start_matches('/').to_owned();
        (!name.is_empty() && !name.contains('/')).then_some((name, path))
    };
    Ok(list(store, folder).await?.into_iter().filter_map(own).collect())
}
