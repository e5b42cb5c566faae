//! Base models pushed as folders, stored by digest.

use futures::{Stream, StreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use perennial_proto::convert::Invalid;
use perennial_proto::v1::{self, push_model_request::Part};
use store::{layout, objects};
use tonic::Status;

use crate::error::Error;
use crate::upload::{self, Files, ModelLimits};

/// Or an index of shards in its place.
const WEIGHTS: &str = "model.safetensors";

/// Receives a folder, names it by its digest, and stores it if it is not there yet.
pub async fn push(
    store: &dyn ObjectStore,
    store_url: &str,
    limits: ModelLimits,
    messages: impl Stream<Item = Result<v1::PushModelRequest, Status>> + Unpin,
) -> Result<v1::PushModelResponse, Error> {
    let part = |message: v1::PushModelRequest| {
        message.part.map(|part| match part {
            Part::File(name) => upload::Part::File(name),
            Part::Frame(frame) => upload::Part::Frame(frame),
        })
    };
    let mut parts = messages.map(|message| message.map(part));
    let files = upload::receive(limits, &mut parts).await?;
    save(store, store_url, files).await
}

async fn save(store: &dyn ObjectStore, store_url: &str, files: Files) -> Result<v1::PushModelResponse, Error> {
    let has = |name: &str| files.contains_key(name);
    for (needed, there) in
        [("config.json", has("config.json")), (WEIGHTS, has(WEIGHTS) || has("model.safetensors.index.json"))]
    {
        if !there {
            return Err(Invalid::new("file", format!("the folder has no `{needed}`")).into());
        }
    }
    let sha256 = upload::digest(&files);
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
    use crate::upload::MAX_FILES;
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
