//! Both services and a pipeline table on one port, over a store in memory, and a real client.

use std::sync::Arc;

use domain::Timestamp;
use domain::id::PipelineId;
use domain::pipeline::Pipeline;
use domain::planning;
use domain::state::PipelineState;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use perennial_ingest::{Allowance, Ingest, Limits, Record, Watcher};
use perennial_proto::convert::{self, pipeline_id};
use perennial_proto::status;
use perennial_proto::v1;
use perennial_proto::v1::chunk_service_client::ChunkServiceClient;
use perennial_proto::v1::chunk_service_server::ChunkServiceServer;
use perennial_proto::v1::ingest_service_client::IngestServiceClient;
use perennial_proto::v1::ingest_service_server::IngestServiceServer;
use perennial_proto::v1::pipeline_service_server::{PipelineService, PipelineServiceServer};
use perennial_proto::v1::push_chunk_request::Part;
use serde_json::{Value, json};
use store::journal::Journal;
use store::roots::Roots;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status};

pub const TICKETS: &str = "namespaces/default/pipelines/tickets";
pub const FRAME: usize = 64;
const NOW: fn() -> Timestamp = || 1_700_000_000_000;

/// The registry's half that ingest asks for.
struct Pipelines(Arc<Journal>);

#[tonic::async_trait]
impl PipelineService for Pipelines {
    async fn get_pipeline(
        &self,
        request: Request<v1::GetPipelineRequest>,
    ) -> Result<Response<v1::GetPipelineResponse>, Status> {
        let id = pipeline_id("name", &request.into_inner().name)?;
        let found = self.0.read(|state| planning::pipeline(state, &id).map(convert::pipeline));
        let pipeline = Some(found.map_err(|e| status::refused(&e))?);
        Ok(Response::new(v1::GetPipelineResponse { pipeline }))
    }
    async fn apply_pipeline(
        &self,
        _: Request<v1::ApplyPipelineRequest>,
    ) -> Result<Response<v1::ApplyPipelineResponse>, Status> {
        Err(Status::unimplemented("apply"))
    }
    async fn list_pipelines(
        &self,
        _: Request<v1::ListPipelinesRequest>,
    ) -> Result<Response<v1::ListPipelinesResponse>, Status> {
        let pipelines = self.0.read(|state| state.pipelines.values().map(convert::pipeline).collect());
        Ok(Response::new(v1::ListPipelinesResponse { pipelines, next_page_token: String::new() }))
    }
}

pub struct Harness {
    pub journal: Arc<Journal>,
    pub store: Arc<dyn ObjectStore>,
    pub ingest: IngestServiceClient<Channel>,
    pub chunks: ChunkServiceClient<Channel>,
    /// The only allowed root.
    pub root: tempfile::TempDir,
    /// Where both serve.
    address: String,
}

impl Harness {
    /// `change` changes the pipeline `tickets`: text, labels `ham` and `spam`, closed.
    pub async fn start(change: Value) -> Self {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let journal = Journal::open(store.clone(), "test", NOW).await.unwrap();
        let journal = Arc::new(journal);
        let root = tempfile::tempdir().unwrap();
        let (address, ingest, chunks) = serve(store.clone(), journal.clone(), root.path(), NOW, limits()).await;
        let harness = Self { journal, store, ingest, chunks, root, address };
        harness.apply(change).await;
        harness
    }

    pub async fn apply(&self, change: Value) {
        let mut spec = json!({"name": "tickets", "model": "mlp:10", "method": "er", "labels": ["ham", "spam"]});
        spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let pipeline: Pipeline = serde_json::from_value(spec).unwrap();
        let decide = move |state: &_, _| Ok::<_, planning::Refusal>((planning::apply_spec(state, &pipeline)?, ()));
        self.journal.commit(decide).await.unwrap();
    }

    /// A second ingest process beside the first, whose clock is another.
    pub async fn again(&self, clock: fn() -> Timestamp) -> IngestServiceClient<Channel> {
        serve(self.store.clone(), self.journal.clone(), self.root.path(), clock, limits()).await.1
    }

    /// Another one that allows each client so much.
    pub async fn limited(&self, client: Allowance) -> IngestServiceClient<Channel> {
        self.serve(Limits { client, ..limits() }).await
    }

    /// Another one within these limits.
    pub async fn serve(&self, limits: Limits) -> IngestServiceClient<Channel> {
        serve(self.store.clone(), self.journal.clone(), self.root.path(), NOW, limits).await.1
    }

    /// As after a start of the process.
    pub fn role(&self, limits: Limits) -> Ingest {
        role(self.store.clone(), &self.address, self.root.path(), NOW, limits)
    }

    pub fn watcher(&self) -> Watcher {
        Watcher::new(self.role(limits()), roots(self.root.path()), "memory:///")
    }

    pub async fn push(&self, header: v1::ChunkHeader, payload: &[u8]) -> Result<v1::PushChunkResponse, Status> {
        let answer = self.ingest.clone().push_chunk(futures::stream::iter(messages(header, payload))).await;
        answer.map(Response::into_inner)
    }

    pub async fn send(&self, parts: Vec<Part>) -> Result<v1::PushChunkResponse, Status> {
        let messages = parts.into_iter().map(|part| v1::PushChunkRequest { part: Some(part) });
        let answer = self.ingest.clone().push_chunk(futures::stream::iter(messages.collect::<Vec<_>>())).await;
        answer.map(Response::into_inner)
    }

    pub async fn register(&self, header: v1::ChunkHeader, uri: &str) -> Result<v1::RegisterChunkResponse, Status> {
        let request = v1::RegisterChunkRequest { header: Some(header), uri: uri.to_owned() };
        self.ingest.clone().register_chunk(request).await.map(Response::into_inner)
    }

    /// Looks at the pipeline's state.
    pub fn state<T>(&self, look: impl FnOnce(&PipelineState) -> T) -> T {
        let id: PipelineId = TICKETS.parse().unwrap();
        self.journal.read(|state| look(&state.pipelines[&id]))
    }

    pub async fn objects(&self) -> Vec<String> {
        store::objects::list(&*self.store, "namespaces").await.unwrap()
    }
}

async fn serve(
    store: Arc<dyn ObjectStore>,
    journal: Arc<Journal>,
    root: &std::path::Path,
    clock: fn() -> Timestamp,
    limits: Limits,
) -> (String, IngestServiceClient<Channel>, ChunkServiceClient<Channel>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let ingest = role(store.clone(), &address, root, clock, limits);
    let server = Server::builder()
        .add_service(IngestServiceServer::new(ingest))
        .add_service(ChunkServiceServer::new(Record::new(journal.clone(), store.clone())))
        .add_service(PipelineServiceServer::new(Pipelines(journal)))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    let clients = (IngestServiceClient::new(connect(&address)), ChunkServiceClient::new(connect(&address)));
    (address, clients.0, clients.1)
}

/// A connection each: the frames of a push must not hold up what ingest asks of control.
fn connect(address: &str) -> Channel {
    Endpoint::from_shared(address.to_owned()).unwrap().connect_lazy()
}

fn roots(root: &std::path::Path) -> Roots {
    Roots::new(&[format!("file://{}", root.display())]).unwrap()
}

fn role(
    store: Arc<dyn ObjectStore>,
    address: &str,
    root: &std::path::Path,
    clock: fn() -> Timestamp,
    limits: Limits,
) -> Ingest {
    Ingest::new(store, roots(root), connect(address), limits, clock)
}

fn limits() -> Limits {
    Limits { max_frame_bytes: FRAME, max_chunk_bytes: 100_000, part_bytes: 100, ..Limits::default() }
}

/// Those of a push.
pub fn messages(header: v1::ChunkHeader, payload: &[u8]) -> Vec<v1::PushChunkRequest> {
    let frames = payload.chunks(FRAME).map(|frame| Part::Frame(frame.to_vec()));
    let parts = std::iter::once(Part::Header(header)).chain(frames);
    parts.map(|part| v1::PushChunkRequest { part: Some(part) }).collect()
}

pub fn header() -> v1::ChunkHeader {
    v1::ChunkHeader { pipeline: TICKETS.to_owned(), wait: true, ..v1::ChunkHeader::default() }
}

/// Rows as JSONL: text and label.
pub fn jsonl(rows: &[(&str, &str)]) -> Vec<u8> {
    let line = |(text, label): &(&str, &str)| format!("{}\n", json!({"text": text, "label": label}));
    rows.iter().map(line).collect::<String>().into_bytes()
}

/// `n` rows, `ham` and `spam` in turn.
pub fn many(n: usize) -> Vec<u8> {
    let texts: Vec<String> = (0..n).map(|i| format!("text {i}")).collect();
    let rows: Vec<_> = texts.iter().enumerate().map(|(i, text)| (text.as_str(), ["ham", "spam"][i % 2])).collect();
    jsonl(&rows)
}

/// The code, and every part of the text that a user needs.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, parts: &[&str]) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), code, "{status:?}");
    for part in parts {
        assert!(status.message().contains(part), "`{part}` is not in: {}", status.message());
    }
}
