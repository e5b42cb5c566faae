//! The two services' faces: parse, call, reply.

use perennial_proto::convert::{Invalid, chunk_id, to_json};
use perennial_proto::v1;
use perennial_proto::v1::chunk_service_server::ChunkService;
use perennial_proto::v1::ingest_service_server::IngestService;
use tonic::{Request, Response, Status, Streaming};

use crate::record::Recorded;
use crate::{Ingest, Record, Taken};

#[tonic::async_trait]
impl IngestService for Ingest {
    async fn push_chunk(
        &self,
        request: Request<Streaming<v1::PushChunkRequest>>,
    ) -> Result<Response<v1::PushChunkResponse>, Status> {
        let client = request.remote_addr().map(|address| address.ip());
        let Taken { chunk, already_exists } = self.push(request.into_inner(), client).await?;
        Ok(Response::new(v1::PushChunkResponse { chunk: Some(chunk), already_exists }))
    }

    async fn query_upload(
        &self,
        request: Request<v1::QueryUploadRequest>,
    ) -> Result<Response<v1::QueryUploadResponse>, Status> {
        let durable_bytes = self.durable_bytes(request.into_inner()).await?;
        Ok(Response::new(v1::QueryUploadResponse { durable_bytes }))
    }

    async fn register_chunk(
        &self,
        request: Request<v1::RegisterChunkRequest>,
    ) -> Result<Response<v1::RegisterChunkResponse>, Status> {
        let client = request.remote_addr().map(|address| address.ip());
        let request = request.into_inner();
        let header = request.header.ok_or_else(|| Invalid::new("header", "missing"))?;
        let Taken { chunk, already_exists } = self.register(header, &request.uri, client).await?;
        Ok(Response::new(v1::RegisterChunkResponse { chunk: Some(chunk), already_exists }))
    }
}

#[tonic::async_trait]
impl ChunkService for Record {
    async fn record_chunk(
        &self,
        request: Request<v1::RecordChunkRequest>,
    ) -> Result<Response<v1::RecordChunkResponse>, Status> {
        let Recorded { wire, chunk, already_exists } = self.record(request.into_inner()).await?;
        let recorded_json = chunk.map_or_else(Vec::new, |chunk| to_json(&chunk));
        Ok(Response::new(v1::RecordChunkResponse { chunk: Some(wire), already_exists, recorded_json }))
    }

    async fn get_chunk(&self, request: Request<v1::GetChunkRequest>) -> Result<Response<v1::GetChunkResponse>, Status> {
        let (pipeline, id) = chunk_id("name", &request.into_inner().name)?;
        let chunk = Some(self.get(&pipeline, &id)?);
        Ok(Response::new(v1::GetChunkResponse { chunk }))
    }

    async fn list_chunks(
        &self,
        request: Request<v1::ListChunksRequest>,
    ) -> Result<Response<v1::ListChunksResponse>, Status> {
        Ok(Response::new(self.list(request.get_ref())?))
    }

    async fn get_shift(&self, request: Request<v1::GetShiftRequest>) -> Result<Response<v1::GetShiftResponse>, Status> {
        Ok(Response::new(self.shift(request.get_ref())?))
    }

    async fn open_producer(
        &self,
        request: Request<v1::OpenProducerRequest>,
    ) -> Result<Response<v1::OpenProducerResponse>, Status> {
        let producer = Some(self.open(request.into_inner()).await?);
        Ok(Response::new(v1::OpenProducerResponse { producer }))
    }

    async fn list_producers(
        &self,
        request: Request<v1::ListProducersRequest>,
    ) -> Result<Response<v1::ListProducersResponse>, Status> {
        Ok(Response::new(self.producers(request.get_ref())?))
    }

    async fn drop_chunks(
        &self,
        request: Request<v1::DropChunksRequest>,
    ) -> Result<Response<v1::DropChunksResponse>, Status> {
        let chunks = self.drop(request.into_inner()).await?;
        Ok(Response::new(v1::DropChunksResponse { chunks }))
    }

    async fn list_bad_rows(
        &self,
        request: Request<v1::ListBadRowsRequest>,
    ) -> Result<Response<v1::ListBadRowsResponse>, Status> {
        Ok(Response::new(self.bad_rows(request.get_ref()).await?))
    }

    async fn push_labels(
        &self,
        request: Request<v1::PushLabelsRequest>,
    ) -> Result<Response<v1::PushLabelsResponse>, Status> {
        Ok(Response::new(self.push_labels(request.into_inner()).await?))
    }

    async fn list_corrections(
        &self,
        request: Request<v1::ListCorrectionsRequest>,
    ) -> Result<Response<v1::ListCorrectionsResponse>, Status> {
        Ok(Response::new(self.corrections(request.get_ref())?))
    }

    async fn release_chunks(
        &self,
        request: Request<v1::ReleaseChunksRequest>,
    ) -> Result<Response<v1::ReleaseChunksResponse>, Status> {
        let chunks = self.release(request.into_inner()).await?;
        Ok(Response::new(v1::ReleaseChunksResponse { chunks }))
    }
}
