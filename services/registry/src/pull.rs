//! Streams files in frames: a version's, manifest last, so that a copy is whole when its manifest is; or a base model's,
//! whose digest says whether a copy is whole.

use std::pin::Pin;
use std::sync::Arc;

use domain::chunk::ObjectRef;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{GetResult, ObjectStore, ObjectStoreExt};
use perennial_proto::limits::FRAME_BYTES;
use perennial_proto::v1::{self, pull_version_response::Part};
use tonic::Status;

use crate::error::Error;

type Frames = Pin<Box<dyn Stream<Item = Result<v1::PullVersionResponse, Status>> + Send>>;

pub fn stream(store: Arc<dyn ObjectStore>, files: Vec<ObjectRef>) -> Frames {
    let one = move |file: ObjectRef| {
        let store = store.clone();
        stream::once(async move { frames(&*store, file).await }).try_flatten()
    };
    Box::pin(stream::iter(files).then(move |file| std::future::ready(one(file))).flatten())
}

async fn frames(
    objects: &dyn ObjectStore,
    file: ObjectRef,
) -> Result<impl Stream<Item = Result<v1::PullVersionResponse, Status>> + use<>, Status> {
    let path = file.path.clone();
    let failed = move |source| Error::Store(store::Error::Store { action: "read", path: path.clone(), source });
    let object = objects.get(&Path::from(file.path.as_str())).await.map_err(&failed)?;
    let name = file.path.rsplit('/').next().unwrap_or_default().to_owned();
    let begin = Part::File(v1::File { path: name, sha256: file.sha256, bytes: file.bytes });
    let parts = content(object, failed).map_ok(Part::Frame);
    let all = stream::once(async { Ok::<_, Status>(begin) }).chain(parts);
    Ok(all.map_ok(|part| v1::PullVersionResponse { part: Some(part) }))
}

/// An object's bytes, in frames that the wire takes.
fn content(
    object: GetResult,
    failed: impl Fn(object_store::Error) -> Error,
) -> impl Stream<Item = Result<Vec<u8>, Status>> {
    let bytes = object.into_stream().map_err(move |e| Status::from(failed(e)));
    let frames = bytes.map_ok(|bytes| {
        let cut = |from| bytes.slice(from..bytes.len().min(from + FRAME_BYTES)).to_vec();
        let frames: Vec<_> = (0..bytes.len()).step_by(FRAME_BYTES).map(|from| Ok(cut(from))).collect();
        stream::iter(frames)
    });
    frames.try_flatten()
}

type ModelFrames = Pin<Box<dyn Stream<Item = Result<v1::PullModelResponse, Status>> + Send>>;

/// A base model's folder: its files' names and paths in `store`.
pub fn model(store: Arc<dyn ObjectStore>, files: Vec<(String, String)>) -> ModelFrames {
    let one = move |(name, path): (String, String)| {
        let store = store.clone();
        stream::once(async move { model_frames(&*store, name, path).await }).try_flatten()
    };
    Box::pin(stream::iter(files).then(move |file| std::future::ready(one(file))).flatten())
}

async fn model_frames(
    objects: &dyn ObjectStore,
    name: String,
    path: String,
) -> Result<impl Stream<Item = Result<v1::PullModelResponse, Status>> + use<>, Status> {
    use v1::pull_model_response::Part;
    let key = Path::from(path.as_str());
    let failed = move |source| Error::Store(store::Error::Store { action: "read", path: path.clone(), source });
    let object = objects.get(&key).await.map_err(&failed)?;
    let begin = Part::File(v1::ModelFile { name, bytes: object.meta.size });
    let parts = content(object, failed).map_ok(Part::Frame);
    let all = stream::once(async { Ok::<_, Status>(begin) }).chain(parts);
    Ok(all.map_ok(|part| v1::PullModelResponse { part: Some(part) }))
}
