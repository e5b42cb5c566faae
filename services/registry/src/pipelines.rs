//! PipelineService.

use std::sync::Arc;

use domain::id::PipelineId;
use domain::pipeline::{Model, Pipeline};
use domain::planning::{self, Refusal};
use perennial_proto::convert::{self, Invalid, from_json, namespace, pipeline_id};
use perennial_proto::limits::page;
use perennial_proto::v1;
use perennial_proto::v1::pipeline_service_server::PipelineService;
use store::journal::Journal;
use store::roots::Roots;
use tonic::{Request, Response, Status};

use crate::error::Error;

/// A parent that stands for all of them.
const EVERY_NAMESPACE: &str = "namespaces/-";

pub struct Pipelines {
    journal: Arc<Journal>,
    /// Where base models may come from.
    roots: Roots,
    /// Where prefixes may be watched.
    watched: Roots,
}

impl Pipelines {
    pub fn new(journal: Arc<Journal>, roots: Roots, watched: Roots) -> Self {
        Self { journal, roots, watched }
    }

    async fn apply(&self, spec: Pipeline) -> Result<PipelineId, Error> {
        if let Model::Folder(folder) = &spec.model {
            let resolved = self.roots.resolve(&folder.uri);
            resolved.map_err(|error| Invalid::new("model.uri", perennial_proto::status::chain(&error)))?;
        }
        for source in &spec.sources {
            self.watchable(&source.uri)
                .map_err(|error| Invalid::new("sources.uri", perennial_proto::status::chain(&error)))?;
        }
        let id = spec.id();
        let decide = move |state: &_, _at| Ok((planning::apply_spec(state, &spec)?, ()));
        self.journal.commit(decide).await?;
        Ok(id)
    }

    /// A prefix may be there later.
    fn watchable(&self, uri: &str) -> Result<(), store::Error> {
        match self.watched.resolve(uri) {
            Err(error) if error.kind() != store::Kind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn show(&self, id: &PipelineId) -> Result<v1::Pipeline, Error> {
        let read = |state: &_| planning::pipeline(state, id).map(convert::pipeline);
        Ok(self.journal.read(read)?)
    }
}

#[tonic::async_trait]
impl PipelineService for Pipelines {
    async fn apply_pipeline(
        &self,
        request: Request<v1::ApplyPipelineRequest>,
    ) -> Result<Response<v1::ApplyPipelineResponse>, Status> {
        let spec = from_json("spec_json", &request.into_inner().spec_json)?;
        let id = self.apply(spec).await?;
        let pipeline = Some(self.show(&id)?);
        Ok(Response::new(v1::ApplyPipelineResponse { pipeline }))
    }

    async fn get_pipeline(
        &self,
        request: Request<v1::GetPipelineRequest>,
    ) -> Result<Response<v1::GetPipelineResponse>, Status> {
        let id = pipeline_id("name", &request.into_inner().name)?;
        if self.show(&id).is_err() {
            // It may have been registered with a control role that took over from this one.
            self.journal.confirm().await.map_err(Error::uncommitted::<Refusal>)?;
        }
        Ok(Response::new(v1::GetPipelineResponse { pipeline: Some(self.show(&id)?) }))
    }

    async fn list_pipelines(
        &self,
        request: Request<v1::ListPipelinesRequest>,
    ) -> Result<Response<v1::ListPipelinesResponse>, Status> {
        let request = request.into_inner();
        let parent = match request.parent.as_str() {
            EVERY_NAMESPACE => None,
            parent => Some(namespace("parent", parent)?),
        };
        let pipelines = self.journal.read(|state| {
            let of_parent =
                state.pipelines.iter().filter(|(id, _)| parent.as_ref().is_none_or(|parent| id.namespace == *parent));
            of_parent.map(|(_, current)| convert::pipeline(current)).collect()
        });
        let (pipelines, next_page_token) = page(pipelines, request.page_size, &request.page_token)?;
        Ok(Response::new(v1::ListPipelinesResponse { pipelines, next_page_token }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[tokio::test]
    async fn pipelines_are_listed_by_namespace_and_a_parent_that_is_none_is_refused() {
        let store = Arc::new(object_store::memory::InMemory::new());
        let journal = Arc::new(Journal::open(store, "test", || 0).await.unwrap());
        let service = Pipelines::new(journal, Roots::new::<&str>(&[]).unwrap(), Roots::new::<&str>(&[]).unwrap());
        for namespace in ["default", "default-2"] {
            let spec = serde_json::json!({"namespace": namespace, "name": "p", "model": "mlp:8", "labels": ["a"], "method": "er"});
            service.apply(serde_json::from_value(spec).unwrap()).await.unwrap();
        }
        let list = async |parent: &str| {
            let request = v1::ListPipelinesRequest { parent: parent.to_owned(), ..Default::default() };
            service.list_pipelines(Request::new(request)).await.map(Response::into_inner)
        };
        let names: Vec<String> =
            list("namespaces/default").await.unwrap().pipelines.into_iter().map(|pipeline| pipeline.name).collect();
        assert_eq!(names, ["namespaces/default/pipelines/p"]);
        assert_eq!(list("namespaces/-").await.unwrap().pipelines.len(), 2);
        let refused = list("default").await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("`parent`") && refused.message().contains("`default`"), "{refused:?}");
    }
}
