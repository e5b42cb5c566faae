//! PipelineService.

use std::sync::Arc;

use domain::id::PipelineId;
use domain::pipeline::{Model, Pipeline};
use domain::planning;
use perennial_proto::convert::{self, Invalid, from_json, pipeline_id};
use perennial_proto::limits::page;
use perennial_proto::v1;
use perennial_proto::v1::pipeline_service_server::PipelineService;
use store::journal::Journal;
use store::roots::Roots;
use tonic::{Request, Response, Status};

use crate::error::Error;

pub struct Pipelines {
    journal: Arc<Journal>,
    /// Where base models may come from.
    roots: Roots,
}

impl Pipelines {
    pub fn new(journal: Arc<Journal>, roots: Roots) -> Self {
        Self { journal, roots }
    }

    async fn apply(&self, spec: Pipeline) -> Result<PipelineId, Error> {
        if let Model::Folder(folder) = &spec.model {
            let resolved = self.roots.resolve(&folder.uri);
            resolved.map_err(|error| Invalid::new("model.uri", perennial_proto::status::chain(&error)))?;
        }
        let id = spec.id();
        let decide = move |state: &_, _at| Ok((planning::apply_spec(state, &spec)?, ()));
        self.journal.commit(decide).await?;
        Ok(id)
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
        let pipeline = Some(self.show(&pipeline_id("name", &request.into_inner().name)?)?);
        Ok(Response::new(v1::GetPipelineResponse { pipeline }))
    }

    async fn list_pipelines(
        &self,
        request: Request<v1::ListPipelinesRequest>,
    ) -> Result<Response<v1::ListPipelinesResponse>, Status> {
        let request = request.into_inner();
        let prefix = format!("{}/", request.parent);
        let pipelines = self.journal.read(|state| {
            let of_parent = state.pipelines.iter().filter(|(id, _)| id.to_string().starts_with(&prefix));
            of_parent.map(|(_, current)| convert::pipeline(current)).collect()
        });
        let (pipelines, next_page_token) = page(pipelines, request.page_size, &request.page_token)?;
        Ok(Response::new(v1::ListPipelinesResponse { pipelines, next_page_token }))
    }
}
