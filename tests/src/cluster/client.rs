//! What tests ask of a cluster.

use std::future::Future;

use perennial_proto::limits::{FRAME_BYTES, MAX_MESSAGE_BYTES};
use perennial_proto::v1;
use perennial_proto::v1::chunk_service_client::ChunkServiceClient;
use perennial_proto::v1::evaluation_service_client::EvaluationServiceClient;
use perennial_proto::v1::ingest_service_client::IngestServiceClient;
use perennial_proto::v1::pipeline_service_client::PipelineServiceClient;
use perennial_proto::v1::push_chunk_request::Part;
use perennial_proto::v1::registry_service_client::RegistryServiceClient;
use perennial_proto::v1::rehearsal_service_client::RehearsalServiceClient;
use perennial_proto::v1::run_service_client::RunServiceClient;
use serde_json::Value;
use tonic::Status;
use tonic::transport::Channel;

use super::{Cluster, DEADLINE, resource, to};

impl Cluster {
    pub fn channel(&self) -> Channel {
        to(self.port)
    }

    pub fn pipelines(&self) -> PipelineServiceClient<Channel> {
        PipelineServiceClient::new(self.channel())
    }

    pub fn chunks(&self) -> ChunkServiceClient<Channel> {
        ChunkServiceClient::new(self.channel())
    }

    pub fn ingest(&self) -> IngestServiceClient<Channel> {
        IngestServiceClient::new(to(self.ingest_port)).max_encoding_message_size(2 * MAX_MESSAGE_BYTES)
    }

    pub fn runs(&self) -> RunServiceClient<Channel> {
        RunServiceClient::new(self.channel())
    }

    pub fn registry(&self) -> RegistryServiceClient<Channel> {
        RegistryServiceClient::new(self.channel())
    }

    pub fn rehearsal(&self) -> RehearsalServiceClient<Channel> {
        RehearsalServiceClient::new(self.channel())
    }

    pub fn evaluations(&self) -> EvaluationServiceClient<Channel> {
        EvaluationServiceClient::new(self.channel())
    }

    pub async fn apply(&self, spec: &Value) -> Result<v1::Pipeline, Status> {
        let request = v1::ApplyPipelineRequest { spec_json: spec.to_string().into_bytes() };
        Ok(self.pipelines().apply_pipeline(request).await?.into_inner().pipeline.expect("it was applied"))
    }

    /// Its rows are checked when this returns.
    pub async fn push(
        &self,
        pipeline: &str,
        task: &str,
        split: v1::Split,
        payload: &[u8],
    ) -> Result<v1::PushChunkResponse, Status> {
        let header = v1::ChunkHeader { wait: true, ..jsonl(pipeline, task, split) };
        self.push_as(header, payload, FRAME_BYTES).await
    }

    /// It is durable when this returns.
    pub async fn leave(
        &self,
        pipeline: &str,
        task: &str,
        split: v1::Split,
        payload: &[u8],
    ) -> Result<v1::PushChunkResponse, Status> {
        self.push_as(jsonl(pipeline, task, split), payload, FRAME_BYTES).await
    }

    /// A push that does not hold the cluster, which may be killed meanwhile.
    pub fn push_as(
        &self,
        header: v1::ChunkHeader,
        payload: &[u8],
        frame: usize,
    ) -> impl Future<Output = Result<v1::PushChunkResponse, Status>> + Send + use<> {
        let frames = payload.chunks(frame).map(|frame| Part::Frame(frame.to_vec()));
        let parts: Vec<_> = [Part::Header(header)].into_iter().chain(frames).collect();
        let requests = parts.into_iter().map(|part| v1::PushChunkRequest { part: Some(part) });
        let mut ingest = self.ingest();
        async move { Ok(ingest.push_chunk(futures::stream::iter(requests)).await?.into_inner()) }
    }

    pub async fn start_run(&self, pipeline: &str, chunks: &[String]) -> Result<v1::Run, Status> {
        let request =
            v1::StartRunRequest { pipeline: resource(pipeline), chunks: chunks.to_vec(), ..Default::default() };
        Ok(self.runs().start_run(request).await?.into_inner().run.expect("it was started"))
    }

    /// The run at the first moment that `when` holds. Panics if it ends before, or never gets there.
    pub async fn watch(&self, run: &str, when: impl Fn(&v1::Run) -> bool) -> v1::Run {
        let watched = async {
            let request = v1::WatchRunRequest { name: run.to_owned() };
            let mut stream = self.runs().watch_run(request).await.expect("the run is known").into_inner();
            let mut last = None;
            while let Some(message) = stream.message().await.expect("the stream goes on") {
                let run = message.run.expect("a run");
                if when(&run) {
                    return run;
                }
                last = Some(run);
            }
            panic!("the run ended: {last:?}\n{}", self.last_log());
        };
        let watched = tokio::time::timeout(DEADLINE, watched).await;
        watched.unwrap_or_else(|_| panic!("run {run} took too long\n{}", self.last_log()))
    }

    pub async fn ended(&self, run: &str) -> v1::Run {
        self.watch(run, |run| run.ended_at_ms > 0).await
    }

    /// Starts a run over what waits and follows it to its end.
    pub async fn update(&self, pipeline: &str) -> v1::Run {
        let run = self.start_run(pipeline, &[]).await.expect("there is something to train");
        self.ended(&run.name).await
    }

    /// To the version that the champion continues from.
    pub async fn roll_back(&self, pipeline: &str) -> v1::Version {
        let request = v1::RollbackRequest { pipeline: resource(pipeline), ..Default::default() };
        self.registry().rollback(request).await.expect("there is one").into_inner().version.expect("a version")
    }

    pub async fn version(&self, pipeline: &str, reference: &str) -> Result<v1::Version, Status> {
        let name = format!("{}/versions/{reference}", resource(pipeline));
        let request = v1::GetVersionRequest { name };
        Ok(self.registry().get_version(request).await?.into_inner().version.expect("a version"))
    }

    pub async fn list_chunks(&self, pipeline: &str) -> Vec<v1::Chunk> {
        let request = v1::ListChunksRequest { parent: resource(pipeline), ..Default::default() };
        self.chunks().list_chunks(request).await.expect("the pipeline is known").into_inner().chunks
    }
}

fn jsonl(pipeline: &str, task: &str, split: v1::Split) -> v1::ChunkHeader {
    v1::ChunkHeader {
        pipeline: resource(pipeline),
        task: task.to_owned(),
        split: split.into(),
        format: v1::Format::Jsonl.into(),
        ..Default::default()
    }
}
