//! What the ingest role asks of the control role.

use std::time::Duration;

use domain::chunk::Chunk;
use domain::id::{ChunkId, PipelineId};
use domain::pipeline::Pipeline;
use perennial_proto::convert::{self, Invalid, from_json, to_json};
use perennial_proto::limits::MAX_MESSAGE_BYTES;
use perennial_proto::v1;
use perennial_proto::v1::chunk_service_client::ChunkServiceClient;
use perennial_proto::v1::pipeline_service_client::PipelineServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::Error;
use crate::header::Header;
use crate::record::Recorded;
use crate::seal::Facts;

/// Every call has a deadline, and may be repeated.
#[derive(Clone)]
pub struct Control {
    pipelines: PipelineServiceClient<Channel>,
    chunks: ChunkServiceClient<Channel>,
    deadline: Duration,
}

impl Control {
    pub fn new(channel: Channel, deadline: Duration) -> Self {
        let pipelines = PipelineServiceClient::new(channel.clone());
        let chunks = ChunkServiceClient::new(channel);
        Self {
            pipelines: pipelines.max_decoding_message_size(MAX_MESSAGE_BYTES),
            chunks: chunks.max_decoding_message_size(MAX_MESSAGE_BYTES),
            deadline,
        }
    }

    pub async fn facts(&self, pipeline: &PipelineId) -> Result<Facts, Error> {
        let request = self.request(v1::GetPipelineRequest { name: pipeline.to_string() });
        let answer = self.pipelines.clone().get_pipeline(request).await.map_err(Error::Control)?;
        let found = answer.into_inner().pipeline.ok_or_else(|| missing("pipeline"))?;
        let pipeline = from_json("spec_json", &found.spec_json).map_err(Error::Answer)?;
        Ok(Facts { pipeline, labels: found.labels })
    }

    /// Those of every namespace.
    pub async fn pipelines(&self) -> Result<Vec<Pipeline>, Error> {
        let (mut pipelines, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListPipelinesRequest { parent: "namespaces/-".to_owned(), page_size: 0, page_token };
            let answer = self.pipelines.clone().list_pipelines(self.request(request)).await.map_err(Error::Control)?;
            let page = answer.into_inner();
            for found in page.pipelines {
                let pipeline: Pipeline = from_json("spec_json", &found.spec_json).map_err(Error::Answer)?;
                pipelines.push(pipeline);
            }
            if page.next_page_token.is_empty() {
                return Ok(pipelines);
            }
            page_token = page.next_page_token;
        }
    }

    /// Of each chunk that was taken from a watched prefix: the object's URI and tag.
    pub async fn taken(&self, pipeline: &PipelineId) -> Result<Vec<(String, String)>, Error> {
        let chunks = self.chunks(pipeline, "").await?.into_iter();
        let sources = chunks.map(|chunk| (chunk.source_uri, chunk.source_tag));
        Ok(sources.filter(|(uri, _)| !uri.is_empty()).collect())
    }

    /// Those whose rows nobody has checked yet, in the order in which they came.
    pub async fn unchecked(&self, pipeline: &PipelineId) -> Result<Vec<Chunk>, Error> {
        let chunks = self.chunks(pipeline, "received").await?;
        let chunk = |chunk: v1::Chunk| from_json("received_json", &chunk.received_json).map_err(Error::Answer);
        chunks.into_iter().map(chunk).collect()
    }

    /// `state`: empty for all.
    async fn chunks(&self, pipeline: &PipelineId, state: &str) -> Result<Vec<v1::Chunk>, Error> {
        let (mut chunks, mut page_token) = (Vec::new(), String::new());
        loop {
            let (parent, state) = (pipeline.to_string(), state.to_owned());
            let request = v1::ListChunksRequest { parent, page_size: 1000, page_token, state };
            let answer = self.chunks.clone().list_chunks(self.request(request)).await.map_err(Error::Control)?;
            let page = answer.into_inner();
            chunks.extend(page.chunks);
            if page.next_page_token.is_empty() {
                return Ok(chunks);
            }
            page_token = page.next_page_token;
        }
    }

    pub async fn known(&self, pipeline: &PipelineId, chunk: &ChunkId) -> Result<Option<v1::Chunk>, Error> {
        let name = format!("{pipeline}/chunks/{chunk}");
        let request = self.request(v1::GetChunkRequest { name });
        match self.chunks.clone().get_chunk(request).await {
            Ok(answer) => Ok(answer.into_inner().chunk),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(Error::Control(status)),
        }
    }

    pub async fn record(
        &self,
        header: &Header,
        chunk: &Chunk,
        new_labels: Vec<String>,
        quarantine_reason: String,
    ) -> Result<Recorded, Error> {
        let chunk_json = to_json(chunk);
        self.send(header, v1::RecordChunkRequest { chunk_json, new_labels, quarantine_reason, ..Default::default() })
            .await
    }

    /// The rows of the chunk are not checked yet.
    pub async fn receive(&self, header: &Header, chunk: &Chunk) -> Result<Recorded, Error> {
        let received_json = to_json(chunk);
        self.send(header, v1::RecordChunkRequest { received_json, ..Default::default() }).await
    }

    /// A chunk that is recorded was pushed again.
    pub async fn record_again(&self, header: &Header, chunk: &ChunkId) -> Result<Recorded, Error> {
        self.send(header, v1::RecordChunkRequest { known: chunk.to_string(), ..Default::default() }).await
    }

    async fn send(&self, header: &Header, request: v1::RecordChunkRequest) -> Result<Recorded, Error> {
        let request = self.request(v1::RecordChunkRequest {
            pipeline: header.pipeline.to_string(),
            origin: header.origin.as_ref().map(convert::origin),
            ..request
        });
        let answer = self.chunks.clone().record_chunk(request).await.map_err(Error::Control)?.into_inner();
        let wire = answer.chunk.ok_or_else(|| missing("chunk"))?;
        let json = Some(&answer.recorded_json).filter(|json| !json.is_empty());
        let chunk = json.map(|json| from_json("recorded_json", json)).transpose().map_err(Error::Answer)?;
        Ok(Recorded { wire, chunk, already_exists: answer.already_exists })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.deadline);
        request
    }
}

fn missing(field: &str) -> Error {
    Error::Answer(Invalid::new(field, "missing"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Status;
    use tonic::transport::Endpoint;

    #[tokio::test]
    async fn a_control_role_that_is_away_is_unavailable() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let channel = Endpoint::from_shared(address).unwrap().connect_lazy();
        let control = Control::new(channel, Duration::from_secs(5));
        let pipeline = "namespaces/default/pipelines/tickets".parse().unwrap();
        let status = Status::from(control.facts(&pipeline).await.unwrap_err());
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().starts_with("the control role does not answer"), "{status}");
    }
}
