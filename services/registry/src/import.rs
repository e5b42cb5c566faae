//! An adapter that was trained elsewhere, on its way to be a pipeline's first version.
//!
//! What can be told without reading tensors is told here; the worker that carries the run out tells the rest.

mod adapter;

use std::sync::Arc;

use domain::id::PipelineId;
use domain::manifest::Import;
use domain::planning;
use domain::state::State;
use futures::{Stream, StreamExt};
use object_store::ObjectStore;
use perennial_proto::convert::{self, Invalid, pipeline_id};
use perennial_proto::v1::{self, import_version_request::Part};
use store::journal::Journal;
use store::{layout, objects};
use tonic::Status;

use crate::error::Error;
use crate::upload::{self, Files, ModelLimits};
use adapter::Adapter;
pub use adapter::Unfit;

/// Receives the files, stores them by their digest, and queues the run that publishes them.
pub async fn import(
    journal: &Journal,
    store: Arc<dyn ObjectStore>,
    limits: ModelLimits,
    mut messages: impl Stream<Item = Result<v1::ImportVersionRequest, Status>> + Unpin,
) -> Result<v1::Run, Error> {
    let header = header(&mut messages).await?;
    let id = pipeline_id("header.pipeline", &header.pipeline)?;
    // Before anything large is sent.
    journal.read(|state| planning::importable(state, &id).map(drop))?;
    let mut parts = messages.map(|message| message.and_then(part));
    let files = upload::receive(limits, &mut parts).await?;
    let adapter = Adapter::read(&files, &header.base_sha256)?;
    journal.read(|state| adapter.check(planning::importable(state, &id)?))?;
    let import = save(&*store, &id, files).await?;
    queue(journal, id, adapter, import).await
}

async fn header<S>(messages: &mut S) -> Result<v1::ImportHeader, Error>
where
    S: Stream<Item = Result<v1::ImportVersionRequest, Status>> + Unpin,
{
    match upload::next(messages).await?.and_then(|message| message.part) {
        Some(Part::Header(header)) => Ok(header),
        _ => Err(Invalid::new("header", "has to come first").into()),
    }
}

fn part(message: v1::ImportVersionRequest) -> Result<Option<upload::Part>, Status> {
    match message.part {
        Some(Part::Header(_)) => Err(Invalid::new("header", "came twice").into()),
        Some(Part::File(name)) => Ok(Some(upload::Part::File(name))),
        Some(Part::Frame(frame)) => Ok(Some(upload::Part::Frame(frame))),
        None => Ok(None),
    }
}

/// They stay: a version's manifest names them as what it came from.
async fn save(store: &dyn ObjectStore, pipeline: &PipelineId, files: Files) -> Result<Import, Error> {
    let folder = layout::import(pipeline, &upload::digest(&files));
    let mut objects = Vec::new();
    for (name, file) in &files {
        let object = objects::put_file(store, &format!("{folder}/{name}"), file.content.path()).await;
        objects.push(object.map_err(Error::Store)?);
    }
    Ok(Import { files: objects })
}

/// The pipeline may have changed while files were sent: what counts is what it is now.
async fn queue(journal: &Journal, id: PipelineId, adapter: Adapter, import: Import) -> Result<v1::Run, Error> {
    let pipeline = id.clone();
    let decide = move |state: &State, _at| {
        adapter.check(planning::importable(state, &pipeline)?)?;
        let (run, events) = planning::start_import(state, &pipeline, import)?;
        Ok::<_, Error>((events, run))
    };
    let run = journal.commit(decide).await.map_err(Error::uncommitted)?;
    journal.read(|state| {
        let current = planning::pipeline(state, &id)?;
        let run = current.runs.get(&run).ok_or(planning::Refusal::UnknownRun(run))?;
        Ok(convert::run(current, run, None))
    })
}
