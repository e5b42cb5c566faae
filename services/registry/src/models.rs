//! Base models pushed as folders, stored by digest.

use std::collections::BTreeMap;
use std::io::Write;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use perennial_proto::convert::Invalid;
use perennial_proto::v1::{self, push_model_request::Part};
use sha2::{Digest, Sha256};
use store::{layout, objects};
use tonic::Streaming;

use crate::error::Error;

/// Longest silence of an upload.
const IDLE: std::time::Duration = std::time::Duration::from_secs(60);

/// A file received whole.
struct Received {
    content: tempfile::NamedTempFile,
    sha256: Sha256,
}

/// Receives a folder, names it by its digest, and stores it if it is not there yet.
pub async fn push(
    store: &dyn ObjectStore,
    store_url: &str,
    mut parts: Streaming<v1::PushModelRequest>,
) -> Result<v1::PushModelResponse, Error> {
    let mut files: BTreeMap<String, Received> = BTreeMap::new();
    let mut current: Option<String> = None;
    while let Some(message) = next(&mut parts).await? {
        match message.part {
            Some(Part::File(name)) => {
                let name = checked(name)?;
                let content = tempfile::NamedTempFile::new().map_err(Error::Spool)?;
                files.insert(name.clone(), Received { content, sha256: Sha256::new() });
                current = Some(name);
            }
            Some(Part::Frame(bytes)) => {
                let file = current.as_ref().and_then(|name| files.get_mut(name));
                let file = file.ok_or_else(|| Invalid::new("frame", "came before any file name"))?;
                file.sha256.update(&bytes);
                file.content.write_all(&bytes).map_err(Error::Spool)?;
            }
            None => return Err(Invalid::new("part", "is missing").into()),
        }
    }
    save(store, store_url, files).await
}

async fn next(parts: &mut Streaming<v1::PushModelRequest>) -> Result<Option<v1::PushModelRequest>, Error> {
    let message = tokio::time::timeout(IDLE, parts.message()).await;
    let silent = || tonic::Status::deadline_exceeded(format!("nothing was sent for {} s", IDLE.as_secs()));
    message.unwrap_or_else(|_| Err(silent())).map_err(|error| Error::Upload(Box::new(error)))
}

fn checked(name: String) -> Result<String, Invalid> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(legal) {
        return Err(Invalid::new("file", format!("`{name}` is not a plain file name")));
    }
    Ok(name)
}

async fn save(
    store: &dyn ObjectStore,
    store_url: &str,
    files: BTreeMap<String, Received>,
) -> Result<v1::PushModelResponse, Error> {
    for needed in ["config.json", "model.safetensors"] {
        if !files.contains_key(needed) {
            return Err(Invalid::new("file", format!("the folder has no `{needed}`")).into());
        }
    }
    let line =
        |(name, file): (&String, &Received)| format!("{}  {name}\n", hex::encode(file.sha256.clone().finalize()));
    let mut lines: Vec<String> = files.iter().map(line).collect();
    lines.sort();
    let sha256 = hex::encode(Sha256::digest(lines.concat()));
    let folder = layout::model(&sha256);
    let marker = Path::from(format!("{folder}/config.json"));
    let already_exists = store.head(&marker).await.is_ok();
    if !already_exists {
        // config.json last: its presence says that the folder is whole.
        let order = files.iter().filter(|(name, _)| *name != "config.json").chain(files.get_key_value("config.json"));
        for (name, file) in order {
            let path = format!("{folder}/{name}");
            objects::put_file(store, &path, file.content.path()).await.map_err(Error::Store)?;
        }
    }
    let uri = format!("{}/{folder}", store_url.trim_end_matches('/'));
    Ok(v1::PushModelResponse { uri, sha256, already_exists })
}
