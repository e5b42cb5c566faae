//! Base models pushed as folders, stored by digest.

use std::collections::BTreeMap;
use std::io::Write;

use futures::{Stream, StreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use perennial_proto::convert::Invalid;
use perennial_proto::v1::{self, push_model_request::Part};
use sha2::{Digest, Sha256};
use store::{layout, objects};
use tonic::Status;

use crate::error::Error;

/// Longest silence of an upload.
const IDLE: std::time::Duration = std::time::Duration::from_secs(60);

/// A model folder has a dozen files, a large one some dozens of shards. Each is open until the folder is whole.
const MAX_FILES: usize = 256;

/// Or an index of shards in its place.
const WEIGHTS: &str = "model.safetensors";

/// What one upload may cost this process. It is spooled on disk until it is whole.
#[derive(Clone, Copy, Debug)]
pub struct ModelLimits {
    /// Of all files together.
    pub max_model_bytes: u64,
    pub max_frame_bytes: usize,
}

/// A file received whole.
struct Received {
    content: tempfile::NamedTempFile,
    sha256: Sha256,
}

/// Receives a folder, names it by its digest, and stores it if it is not there yet.
pub async fn push(
    store: &dyn ObjectStore,
    store_url: &str,
    limits: ModelLimits,
    mut parts: impl Stream<Item = Result<v1::PushModelRequest, Status>> + Unpin,
) -> Result<v1::PushModelResponse, Error> {
    let mut folder = Folder { limits, files: BTreeMap::new(), current: None, bytes: 0 };
    while let Some(message) = next(&mut parts).await? {
        match message.part {
            Some(Part::File(name)) => folder.begin(name)?,
            Some(Part::Frame(frame)) => folder.append(&frame)?,
            None => return Err(Invalid::new("part", "is missing").into()),
        }
    }
    save(store, store_url, folder.files).await
}

/// What has arrived.
struct Folder {
    limits: ModelLimits,
    files: BTreeMap<String, Received>,
    current: Option<String>,
    bytes: u64,
}

impl Folder {
    fn begin(&mut self, name: String) -> Result<(), Error> {
        let name = checked(name)?;
        if self.files.contains_key(&name) {
            return Err(Invalid::new("file", format!("`{name}` came twice")).into());
        }
        if self.files.len() == MAX_FILES {
            let (what, limit) = ("the folder".to_owned(), format!("{MAX_FILES} files"));
            return Err(Error::TooLarge { what, limit, remedy: "push the model's own files alone" });
        }
        let content = tempfile::NamedTempFile::new().map_err(Error::Spool)?;
        self.files.insert(name.clone(), Received { content, sha256: Sha256::new() });
        self.current = Some(name);
        Ok(())
    }

    fn append(&mut self, frame: &[u8]) -> Result<(), Error> {
        self.bytes += frame.len() as u64;
        let ModelLimits { max_model_bytes, max_frame_bytes } = self.limits;
        if frame.len() > max_frame_bytes {
            let (what, limit) =
                (format!("a frame of {} bytes", frame.len()), format!("{max_frame_bytes} bytes a frame"));
            return Err(Error::TooLarge { what, limit, remedy: "send smaller frames" });
        }
        if self.bytes > max_model_bytes {
            let (what, limit) = ("the model".to_owned(), format!("{max_model_bytes} bytes a model"));
            return Err(Error::TooLarge { what, limit, remedy: "the daemon's `limits.max_model_bytes` may be raised" });
        }
        let file = self.current.as_ref().and_then(|name| self.files.get_mut(name));
        let file = file.ok_or_else(|| Invalid::new("frame", "came before any file name"))?;
        file.sha256.update(frame);
        file.content.write_all(frame).map_err(Error::Spool)
    }
}

async fn next<S>(parts: &mut S) -> Result<Option<v1::PushModelRequest>, Error>
where
    S: Stream<Item = Result<v1::PushModelRequest, Status>> + Unpin,
{
    let message = tokio::time::timeout(IDLE, parts.next()).await;
    let silent = || Status::deadline_exceeded(format!("nothing was sent for {} s", IDLE.as_secs()));
    let message = message.unwrap_or_else(|_| Some(Err(silent())));
    message.transpose().map_err(|error| Error::Upload(Box::new(error)))
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
    let has = |name: &str| files.contains_key(name);
    for (needed, there) in
        [("config.json", has("config.json")), (WEIGHTS, has(WEIGHTS) || has("model.safetensors.index.json"))]
    {
        if !there {
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

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;
    use tonic::Code;

    const LIMITS: ModelLimits = ModelLimits { max_model_bytes: 10, max_frame_bytes: 4 };

    fn file(name: impl Into<String>) -> Part {
        Part::File(name.into())
    }

    fn frame(bytes: &str) -> Part {
        Part::Frame(bytes.as_bytes().to_vec())
    }

    async fn pushed(store: &InMemory, parts: Vec<Part>) -> Result<v1::PushModelResponse, Status> {
        let parts = parts.into_iter().map(|part| Ok(v1::PushModelRequest { part: Some(part) }));
        Ok(push(store, "s3://bucket/p/", LIMITS, futures::stream::iter(parts)).await?)
    }

    #[tokio::test]
    async fn a_folder_is_stored_once_under_its_digest() {
        let store = InMemory::new();
        let parts = || {
            vec![file("model.safetensors"), frame("abcd"), frame("ef"), file("config.json"), frame("{}"), frame(" \n")]
        };
        let first = pushed(&store, parts()).await.unwrap();
        let digest = |bytes: &str| objects::sha256(bytes.as_bytes());
        let mut lines =
            [format!("{}  model.safetensors\n", digest("abcdef")), format!("{}  config.json\n", digest("{} \n"))];
        lines.sort();
        assert_eq!((first.sha256.clone(), first.already_exists), (digest(&lines.concat()), false));
        assert_eq!(first.uri, format!("s3://bucket/p/models/{}", first.sha256));
        assert!(pushed(&store, parts()).await.unwrap().already_exists);
        let shards = vec![file("model-1.safetensors"), file("model.safetensors.index.json"), file("config.json")];
        assert!(!pushed(&store, shards).await.unwrap().already_exists);
    }

    #[tokio::test]
    async fn what_is_over_a_limit_or_out_of_order_is_refused_and_nothing_is_stored() {
        let store = InMemory::new();
        let many = (0..=MAX_FILES).map(|n| file(format!("f{n}"))).collect();
        let cases: Vec<(Vec<Part>, &[&str])> = vec![
            (vec![file("a"), frame("abcd"), frame("efgh"), frame("ijk")], &["10 bytes a model", "max_model_bytes"]),
            (vec![file("a"), frame("abcde")], &["a frame of 5 bytes", "4 bytes a frame", "smaller frames"]),
            (many, &["256 files", "the model's own files"]),
            (vec![frame("a")], &["before any file name"]),
            (vec![file("a"), file("a")], &["`a` came twice"]),
            (vec![file("../a")], &["`../a` is not a plain file name"]),
            (vec![file("config.json"), frame("{}")], &["no `model.safetensors`"]),
        ];
        for (parts, words) in cases {
            let status = pushed(&store, parts).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
            assert!(words.iter().all(|word| status.message().contains(word)), "{status:?}");
        }
        assert_eq!(objects::list(&store, "models").await.unwrap(), Vec::<String>::new());
    }
}
