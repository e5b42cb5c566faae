//! RegistryService: versions, aliases, rollback and lineage. How files come and go is next door.

use std::pin::Pin;
use std::sync::Arc;

use domain::id::{PipelineId, Version};
use domain::pipeline::Model;
use domain::planning::{self, Refusal};
use domain::state::{Event, PipelineState, State};
use domain::version::{AdapterVersion, lineage};
use futures::Stream;
use object_store::ObjectStore;
use perennial_proto::convert::{self, Invalid, VersionRef, pipeline_id, version_ref};
use perennial_proto::limits::page;
use perennial_proto::v1;
use perennial_proto::v1::registry_service_server::RegistryService;
use store::fetch::folder_files;
use store::journal::Journal;
use store::roots::Roots;
use tonic::{Request, Response, Status, Streaming};

use crate::error::Error;
use crate::upload::ModelLimits;
use crate::{import, models, pull};

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
        let version = Some(self.find(&request.into_inner().name, convert::adapter_version)?);
        Ok(Response::new(v1::GetVersionResponse { version }))
    }

    async fn list_versions(
        &self,
        request: Request<v1::ListVersionsRequest>,
    ) -> Result<Response<v1::ListVersionsResponse>, Status> {
        let request = request.into_inner();
        let id = pipeline_id("parent", &request.parent)?;
        let versions = self.journal.read(|state| {
            let current = planning::pipeline(state, &id).map_err(Error::from)?;
            let versions = current.versions.values().map(|version| convert::adapter_version(current, version));
            Ok::<_, Error>(versions.collect::<Vec<_>>())
        })?;
        let (versions, next_page_token) = page(versions, request.page_size, &request.page_token)?;
        Ok(Response::new(v1::ListVersionsResponse { versions, next_page_token }))
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
        let versions = self.find(&request.into_inner().name, |current, version| {
            let line = lineage(&current.versions, Some(version.number));
            line.iter().map(|v| convert::adapter_version(current, &current.versions[v])).collect()
        })?;
        Ok(Response::new(v1::GetLineageResponse { versions }))
    }

    type PullVersionStream = Pin<Box<dyn Stream<Item = Result<v1::PullVersionResponse, Status>> + Send>>;

    async fn pull_version(
        &self,
        request: Request<v1::PullVersionRequest>,
    ) -> Result<Response<Self::PullVersionStream>, Status> {
        let files = self.find(&request.into_inner().name, |current, version| {
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
