//! A payload that already lies in a store: read from under one of the allowed roots and copied in.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::chunk::ObjectRef;
use futures::StreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use perennial_proto::convert::Invalid;
use store::roots::Roots;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::Error;
use crate::limits::Limits;
use crate::spool::{Payload, Spool};

const SCHEMES: [&str; 5] = ["file", "s3", "gs", "az", "memory"];

/// A form that no root could allow is the caller's mistake, not a matter of permission.
pub fn check(uri: &str) -> Result<(), Invalid> {
    let Some((scheme, _)) = uri.split_once("://") else {
        return Err(Invalid::new("uri", format!("`{uri}` is not a URI; write a local file as file:///absolute/path")));
    };
    if SCHEMES.contains(&scheme) {
        return Ok(());
    }
    let known = SCHEMES.join(", ");
    Err(Invalid::new("uri", format!("`{uri}` has scheme `{scheme}`, which is not known; known are {known}")))
}

/// The payload at `uri`, if it is the one that `sha256` says.
pub async fn fetch(roots: &Arc<Roots>, uri: &str, sha256: Option<&str>, limits: &Limits) -> Result<Payload, Error> {
    let place = Place { uri, idle: limits.idle };
    let (roots, name) = (roots.clone(), uri.to_owned());
    // Follows links on disk.
    let (store, path) = spawn_blocking(move || roots.resolve(&name).map_err(Error::from)).await??;
    let mut spool = Spool::new(limits.max_chunk_bytes)?;
    place.copy(&*store, &path, &mut spool).await?;
    spool.finish(sha256).await
}

/// A payload that was received, whatever its limit was then.
pub async fn copy(store: &dyn ObjectStore, raw: &ObjectRef, limits: &Limits) -> Result<Payload, Error> {
    let mut spool = Spool::new(raw.bytes)?;
    Place { uri: &raw.path, idle: limits.idle }.copy(store, &Path::from(raw.path.as_str()), &mut spool).await?;
    spool.finish(Some(&raw.sha256)).await
}

struct Place<'a> {
    uri: &'a str,
    idle: Duration,
}

impl Place<'_> {
    async fn copy(&self, store: &dyn ObjectStore, path: &Path, spool: &mut Spool) -> Result<(), Error> {
        let object = self.wait(store.get(path)).await?;
        let mut pieces = object.into_stream();
        while let Some(piece) = self.wait(async { pieces.next().await.transpose() }).await? {
            let piece: Bytes = piece;
            spool.write(&piece).await?;
        }
        Ok(())
    }

    async fn wait<T>(&self, step: impl Future<Output = object_store::Result<T>>) -> Result<T, Error> {
        let (action, path) = ("read", self.uri.to_owned());
        match timeout(self.idle, step).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(source)) => Err(store::Error::Store { action, path, source }.into()),
            Err(_) => Err(store::Error::Timeout { action, path, after: self.idle }.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn what_is_no_uri_of_ours_is_named() {
        assert!(check("file:///data/x.parquet").is_ok() && check("s3://bucket/x").is_ok());
        assert!(check("/data/x.parquet").unwrap_err().reason.contains("file:///absolute/path"));
        assert!(check("ftp://host/x").unwrap_err().reason.contains("scheme `ftp`"));
    }
}
