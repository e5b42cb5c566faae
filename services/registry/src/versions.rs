//! RegistryService: versions, aliases, rollback and lineage. How files come and go is next door.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use domain::buffer::Snapshot;
use domain::chunk::ObjectRef;
use domain::id::{ChunkId, PipelineId, Version};
use domain::pipeline::Model;
use domain::planning::{self, Refusal};
use domain::state::{Event, PipelineState, State};
use domain::version::{AdapterVersion, from_there_on, lineage};
use futures::Stream;
use object_store::ObjectStore;
use perennial_proto::convert::{self, Invalid, VersionRef, from_json, pipeline_id, version_ref};
use perennial_proto::limits::page_of;
use perennial_proto::v1;
use perennial_proto::v1::registry_service_server::RegistryService;
use store::fetch::folder_files;
use store::journal::Journal;
use store::objects;
use store::roots::Roots;
use tonic::{Request, Response, Status, Streaming};

use crate::error::Error;
use crate::upload::ModelLimits;
use crate::{diff, import, models, pull};

pub struct Registry {
    journal: Arc<Journal>,
    store: Arc<dyn ObjectStore>,
    /// The store's URL, under which pushed models are named.
    store_url: String,
    models: ModelLimits,
    /// Where base models may come from.
    roots: Roots,
}

/// The version that a reference means now.
fn resolve<'a>(
    id: &PipelineId,
    current: &'a PipelineState,
    reference: VersionRef,
) -> Result<&'a AdapterVersion, Error> {
    let number = match reference {
        VersionRef::Number(number) => number,
        VersionRef::Alias(alias) => {
            let none = || Error::NoAlias { pipeline: id.clone(), alias: alias.name() };
            *current.aliases.get(&alias).ok_or_else(none)?
        }
    };
    Ok(current.versions.get(&number).ok_or(Refusal::UnknownVersion(number))?)
}

/// Those that continue from `ancestor`, oldest first.
fn descendants(current: &PipelineState, ancestor: Version) -> Result<Vec<&AdapterVersion>, Refusal> {
    if !current.versions.contains_key(&ancestor) {
        return Err(Refusal::UnknownVersion(ancestor));
    }
    let from = from_there_on(&current.versions, |version| version.number == ancestor);
    Ok(from.into_iter().filter(|version| version.number != ancestor).collect())
}

/// Those in whose lineage a version absorbed the chunk.
fn saw(current: &PipelineState, chunk: &ChunkId) -> Result<BTreeSet<Version>, Refusal> {
    if !current.chunks.contains_key(chunk) {
        return Err(Refusal::UnknownChunk(chunk.clone()));
    }
    let found = from_there_on(&current.versions, |version| version.chunks.contains(chunk));
    Ok(found.into_iter().map(|version| version.number).collect())
}

impl Registry {
    pub fn new(
        journal: Arc<Journal>,
        store: Arc<dyn ObjectStore>,
        store_url: String,
        models: ModelLimits,
        roots: Roots,
    ) -> Self {
        Self { journal, store, store_url, models, roots }
    }

    /// Where an alias is now decides what is served: an answer from before another control role moved it is no answer.
    async fn confirm(&self, name: &str) -> Result<(), Error> {
        match version_ref("name", name)? {
            (_, VersionRef::Alias(_)) => self.journal.confirm().await.map_err(Error::uncommitted::<Refusal>),
            (_, VersionRef::Number(_)) => Ok(()),
        }
    }

    fn find<T>(&self, name: &str, then: impl FnOnce(&PipelineState, &AdapterVersion) -> T) -> Result<T, Error> {
        let (id, reference) = version_ref("name", name)?;
        self.journal.read(|state| {
            let current = planning::pipeline(state, &id)?;
            Ok(then(current, resolve(&id, current, reference)?))
        })
    }

    fn show(&self, id: &PipelineId, version: Version) -> Result<v1::Version, Error> {
        self.find(&format!("{id}/versions/{}", version.0), convert::adapter_version)
    }

    fn list(&self, request: &v1::ListVersionsRequest) -> Result<v1::ListVersionsResponse, Error> {
        let id = pipeline_id("parent", &request.parent)?;
        let (chunk, ancestor) = (ChunkId(request.chunk.clone()), convert::version(request.descends_from));
        self.journal.read(|state| {
            let current = planning::pipeline(state, &id)?;
            let mut versions: Box<dyn Iterator<Item = &AdapterVersion>> = Box::new(current.versions.values());
            if let Some(ancestor) = ancestor {
                let found = descendants(current, ancestor)?;
                versions = Box::new(found.into_iter());
            }
            if !chunk.0.is_empty() {
                let saw = saw(current, &chunk)?;
                versions = Box::new(versions.filter(move |version| saw.contains(&version.number)));
            }
            let (page, next_page_token) = page_of(versions, request.page_size, &request.page_token)?;
            let versions = page.into_iter().map(|version| convert::adapter_version(current, version)).collect();
            Ok(v1::ListVersionsResponse { versions, next_page_token })
        })
    }

    fn line(&self, request: &v1::GetLineageRequest) -> Result<v1::GetLineageResponse, Error> {
        let found = self.find(&request.name, |current, version| {
            let line = lineage(&current.versions, Some(version.number));
            let (line, next_page_token) = match (request.page_size, request.page_token.as_str()) {
                (0, "") => (line, String::new()),
                (size, token) => page_of(line, size, token)?,
            };
            let versions = line.iter().map(|version| convert::adapter_version(current, &current.versions[version]));
            Ok(v1::GetLineageResponse { versions: versions.collect(), next_page_token })
        });
        found?
    }

    async fn diff(&self, request: &v1::DiffVersionsRequest) -> Result<v1::DiffVersionsResponse, Error> {
        let ((id, one), (others, two)) = (version_ref("name", &request.name)?, version_ref("other", &request.other)?);
        if id != others {
            return Err(
                Invalid::new("other", format!("is of `{others}`; versions of one pipeline are compared")).into()
            );
        }
        let (mut found, snapshots) = self.journal.read(|state| {
            let current = planning::pipeline(state, &id)?;
            let [one, two] = [resolve(&id, current, one)?, resolve(&id, current, two)?];
            let snapshot = |version: &AdapterVersion| {
                planning::available(current, version.number).map(|version| version.snapshot.object.clone())
            };
            let snapshots = snapshot(one).and_then(|first| Ok([first, snapshot(two)?]));
            Ok::<_, Error>((diff::diff(current, one, two), snapshots))
        })?;
        match snapshots {
            Ok([one, two]) => {
                let (one, two) = (self.snapshot(&one).await?, self.snapshot(&two).await?);
                found.memory = self
                    .journal
                    .read(|state| Ok::<_, Error>(diff::memory(planning::pipeline(state, &id)?, &one, &two)))?;
            }
            Err(refusal) => found.memory_unknown = refusal.to_string(),
        }
        Ok(found)
    }

    async fn snapshot(&self, object: &ObjectRef) -> Result<Snapshot, Error> {
        let bytes = objects::get(&*self.store, object).await.map_err(Error::Store)?;
        Ok(from_json("snapshot", &bytes)?)
    }

    /// Where the base model with this digest lies: a digest that no pipeline starts from opens nothing.
    fn model_uri(&self, sha256: &str) -> Result<String, Error> {
        let uri = |current: &PipelineState| match &current.pipeline.model {
            Model::Folder(model) if model.sha256 == sha256 => Some(model.uri.clone()),
            _ => None,
        };
        let found = self.journal.read(|state| state.pipelines.values().find_map(uri));
        found.ok_or_else(|| Error::UnknownModel(sha256.to_owned()))
    }

    async fn alias(&self, request: v1::SetAliasRequest) -> Result<v1::Version, Error> {
        let id = pipeline_id("pipeline", &request.pipeline)?;
        let alias = convert::alias("alias", &request.alias)?;
        let to = convert::version(request.version).ok_or_else(|| Invalid::new("version", "is missing"))?;
        let expected = convert::expected(request.expected_version);
        let chunks = convert::disposition(request.chunks());
        let pipeline = id.clone();
        let decide =
            move |state: &_, _at| Ok((planning::set_alias(state, &pipeline, alias, to, expected, chunks)?, ()));
        self.journal.commit(decide).await?;
        self.show(&id, to)
    }

    async fn hold(&self, name: &str, reason: String) -> Result<v1::Version, Error> {
        if reason.trim().is_empty() {
            return Err(Invalid::new("reason", "is empty; say what the version is kept for").into());
        }
        self.keep(name, move |state, id, version| planning::hold(state, id, version, &reason)).await
    }

    /// Changes whether a version's files stay.
    async fn keep(
        &self,
        name: &str,
        change: impl FnOnce(&State, &PipelineId, Version) -> Result<Vec<Event>, Refusal> + Send + 'static,
    ) -> Result<v1::Version, Error> {
        let (id, reference) = version_ref("name", name)?;
        let pipeline = id.clone();
        let decide = move |state: &State, _at| {
            let version = resolve(&pipeline, planning::pipeline(state, &pipeline)?, reference)?.number;
            Ok::<_, Error>((change(state, &pipeline, version)?, version))
        };
        let version = self.journal.commit(decide).await.map_err(Error::uncommitted)?;
        self.show(&id, version)
    }

    async fn roll_back(&self, request: v1::RollbackRequest) -> Result<v1::Version, Error> {
        let id = pipeline_id("pipeline", &request.pipeline)?;
        let (to, chunks) = (convert::version(request.version), convert::disposition(request.chunks()));
        let (pipeline, expected) = (id.clone(), convert::expected(request.expected_version));
        let decide = move |state: &_, _at| {
            let (to, events) = planning::rollback(state, &pipeline, to, expected, chunks)?;
            Ok((events, to))
        };
        let to = self.journal.commit(decide).await?;
        self.show(&id, to)
    }
}

#[tonic::async_trait]
impl RegistryService for Registry {
    async fn get_version(
        &self,
        request: Request<v1::GetVersionRequest>,
    ) -> Result<Response<v1::GetVersionResponse>, Status> {
        let name = request.into_inner().name;
        self.confirm(&name).await?;
        let version = Some(self.find(&name, convert::adapter_version)?);
        Ok(Response::new(v1::GetVersionResponse { version }))
    }

    async fn list_versions(
        &self,
        request: Request<v1::ListVersionsRequest>,
    ) -> Result<Response<v1::ListVersionsResponse>, Status> {
        Ok(Response::new(self.list(&request.into_inner())?))
    }

    async fn set_alias(&self, request: Request<v1::SetAliasRequest>) -> Result<Response<v1::SetAliasResponse>, Status> {
        let version = Some(self.alias(request.into_inner()).await?);
        Ok(Response::new(v1::SetAliasResponse { version }))
    }

    async fn rollback(&self, request: Request<v1::RollbackRequest>) -> Result<Response<v1::RollbackResponse>, Status> {
        let version = Some(self.roll_back(request.into_inner()).await?);
        Ok(Response::new(v1::RollbackResponse { version }))
    }

    async fn get_lineage(
        &self,
        request: Request<v1::GetLineageRequest>,
    ) -> Result<Response<v1::GetLineageResponse>, Status> {
        Ok(Response::new(self.line(&request.into_inner())?))
    }

    async fn diff_versions(
        &self,
        request: Request<v1::DiffVersionsRequest>,
    ) -> Result<Response<v1::DiffVersionsResponse>, Status> {
        Ok(Response::new(self.diff(&request.into_inner()).await?))
    }

    type PullVersionStream = Pin<Box<dyn Stream<Item = Result<v1::PullVersionResponse, Status>> + Send>>;

    async fn pull_version(
        &self,
        request: Request<v1::PullVersionRequest>,
    ) -> Result<Response<Self::PullVersionStream>, Status> {
        let name = request.into_inner().name;
        self.confirm(&name).await?;
        let files = self.find(&name, |current, version| {
            planning::available(current, version.number).map(|version| version.files.clone())
        })?;
        let files = files.map_err(Error::from)?;
        Ok(Response::new(pull::stream(self.store.clone(), files)))
    }

    async fn push_model(
        &self,
        request: Request<Streaming<v1::PushModelRequest>>,
    ) -> Result<Response<v1::PushModelResponse>, Status> {
        let stored = models::push(&*self.store, &self.store_url, self.models, request.into_inner()).await?;
        Ok(Response::new(stored))
    }

    async fn import_version(
        &self,
        request: Request<Streaming<v1::ImportVersionRequest>>,
    ) -> Result<Response<v1::ImportVersionResponse>, Status> {
        let run = import::import(&self.journal, self.store.clone(), self.models, request.into_inner()).await?;
        Ok(Response::new(v1::ImportVersionResponse { run: Some(run) }))
    }

    type PullModelStream = Pin<Box<dyn Stream<Item = Result<v1::PullModelResponse, Status>> + Send>>;

    async fn pull_model(
        &self,
        request: Request<v1::PullModelRequest>,
    ) -> Result<Response<Self::PullModelStream>, Status> {
        let uri = self.model_uri(&request.into_inner().sha256)?;
        let (store, folder) = self.roots.resolve(&uri).map_err(Error::Store)?;
        let files = folder_files(&*store, folder.as_ref()).await.map_err(Error::Store)?;
        Ok(Response::new(pull::model(store, files)))
    }

    async fn hold_version(
        &self,
        request: Request<v1::HoldVersionRequest>,
    ) -> Result<Response<v1::HoldVersionResponse>, Status> {
        let v1::HoldVersionRequest { name, reason } = request.into_inner();
        let version = Some(self.hold(&name, reason).await?);
        Ok(Response::new(v1::HoldVersionResponse { version }))
    }

    async fn release_version(
        &self,
        request: Request<v1::ReleaseVersionRequest>,
    ) -> Result<Response<v1::ReleaseVersionResponse>, Status> {
        let version = Some(self.keep(&request.into_inner().name, planning::end_hold).await?);
        Ok(Response::new(v1::ReleaseVersionResponse { version }))
    }
}
