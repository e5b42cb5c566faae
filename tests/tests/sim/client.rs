//! A client: real stubs over the simulated network.

use std::sync::Arc;
use std::time::Duration;

use perennial_proto::v1;
use perennial_proto::v1::chunk_service_client::ChunkServiceClient;
use perennial_proto::v1::ingest_service_client::IngestServiceClient;
use perennial_proto::v1::pipeline_service_client::PipelineServiceClient;
use perennial_proto::v1::push_chunk_request::Part;
use perennial_proto::v1::registry_service_client::RegistryServiceClient;
use perennial_proto::v1::run_service_client::RunServiceClient;
use tokio::time::sleep;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::history::History;
use crate::life::Life;
use crate::net::{CONTROL, dial};
use crate::world::World;

pub const CLIENTS: [&str; 3] = ["client-1", "client-2", "client-3"];
pub const PIPELINE: &str = "namespaces/default/pipelines/notes";
const ANSWER_WITHIN: Duration = Duration::from_secs(12);
/// Bytes: most payloads in one, some in pieces.
const FRAMES: [usize; 4] = [64, 4096, 4096, 4096];
const ALL: i32 = 1000;

#[derive(Clone)]
pub struct Client {
    pub world: Arc<World>,
    pub history: Arc<History>,
    control: Channel,
    ingest: [Channel; 2],
}

/// Whether the call had no effect, whatever else is the matter.
pub fn is_refusal(status: &Status) -> bool {
    use Code::{Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound};
    matches!(status.code(), Aborted | AlreadyExists | FailedPrecondition | InvalidArgument | NotFound)
}

pub fn within<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(ANSWER_WITHIN);
    request
}

impl Client {
    pub fn new(world: &Arc<World>, history: &Arc<History>, host: &'static str) -> Self {
        let life = Life::new();
        let to = |name: &str| {
            let endpoint = Endpoint::from_shared(format!("http://{name}:7420")).expect("a URL");
            dial(world, host, &life)(endpoint.connect_timeout(ANSWER_WITHIN).http2_keep_alive_interval(ANSWER_WITHIN))
        };
        Self {
            world: world.clone(),
            history: history.clone(),
            control: to(CONTROL),
            ingest: [to("ingest-1"), to("ingest-2")],
        }
    }

    pub fn chunks(&self) -> ChunkServiceClient<Channel> {
        ChunkServiceClient::new(self.control.clone())
    }

    pub fn pipelines(&self) -> PipelineServiceClient<Channel> {
        PipelineServiceClient::new(self.control.clone())
    }

    pub fn registry(&self) -> RegistryServiceClient<Channel> {
        RegistryServiceClient::new(self.control.clone())
    }

    pub fn runs(&self) -> RunServiceClient<Channel> {
        RunServiceClient::new(self.control.clone())
    }

    pub fn ingest(&self) -> IngestServiceClient<Channel> {
        IngestServiceClient::new(self.world.dice.one(&self.ingest))
    }

    pub async fn push(&self, header: v1::ChunkHeader, payload: &[u8]) -> Result<v1::PushChunkResponse, Status> {
        let rest = &payload[header.offset as usize..];
        let frames = rest.chunks(self.world.dice.one(&FRAMES)).map(|frame| Part::Frame(frame.to_vec()));
        let parts: Vec<Part> = [Part::Header(header)].into_iter().chain(frames).collect();
        let requests = parts.into_iter().map(|part| v1::PushChunkRequest { part: Some(part) });
        let request = within(futures::stream::iter(requests));
        Ok(self.ingest().push_chunk(request).await?.into_inner())
    }

    pub async fn start_run(&self) -> Result<(), Status> {
        let request = v1::StartRunRequest { pipeline: PIPELINE.to_owned(), ..Default::default() };
        let run = self.runs().start_run(within(request)).await?.into_inner().run.unwrap_or_default();
        self.history.started(&self.world, run.number);
        Ok(())
    }

    pub async fn all_chunks(&self) -> Result<Vec<v1::Chunk>, Status> {
        let request = v1::ListChunksRequest { parent: PIPELINE.to_owned(), page_size: ALL, ..Default::default() };
        Ok(self.chunks().list_chunks(within(request)).await?.into_inner().chunks)
    }

    pub async fn all_runs(&self) -> Result<Vec<v1::Run>, Status> {
        let request = v1::ListRunsRequest { parent: PIPELINE.to_owned(), page_size: ALL, ..Default::default() };
        Ok(self.runs().list_runs(within(request)).await?.into_inner().runs)
    }

    pub async fn all_producers(&self) -> Result<Vec<v1::Producer>, Status> {
        let request = v1::ListProducersRequest { parent: PIPELINE.to_owned(), page_size: ALL, ..Default::default() };
        Ok(self.chunks().list_producers(within(request)).await?.into_inner().producers)
    }

    pub async fn all_versions(&self) -> Result<Vec<v1::Version>, Status> {
        let request = v1::ListVersionsRequest { parent: PIPELINE.to_owned(), page_size: ALL, ..Default::default() };
        let versions = self.registry().list_versions(within(request)).await?.into_inner().versions;
        for version in &versions {
            self.history.saw(&self.world, version).await;
        }
        Ok(versions)
    }

    /// Makes what was refused trainable again.
    pub async fn release(&self, chunks: &[v1::Chunk]) -> Result<(), Status> {
        let refused = chunks.iter().filter(|chunk| chunk.state == "refused");
        let chunks: Vec<String> = refused.map(|chunk| chunk.name.clone()).collect();
        if !chunks.is_empty() {
            let request = v1::ReleaseChunksRequest { pipeline: PIPELINE.to_owned(), chunks };
            self.chunks().release_chunks(within(request)).await?;
        }
        Ok(())
    }

    /// Again and again, until it is answered.
    pub async fn insist<T, F>(&self, call: impl Fn() -> F) -> T
    where
        F: Future<Output = Result<T, Status>>,
    {
        loop {
            match call().await {
                Ok(answer) => return answer,
                Err(status) if is_refusal(&status) => self.world.broken(format!("refused: {status:?}")),
                Err(_) => sleep(self.world.dice.time(50, 1000)).await,
            }
        }
    }
}
