//! Starts, kills and talks to `perenniald --role all` with its worker.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

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
use serde_json::{Value, json};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::digits::labels;

/// Nothing in a test takes longer.
pub const DEADLINE: Duration = Duration::from_secs(240);

pub struct Options {
    /// Rows of [`crate::digits`] may be registered from here.
    pub roots: Vec<PathBuf>,
    pub slots: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { roots: Vec::new(), slots: 4 }
    }
}

/// A daemon with its worker and a folder of its own. Killed when dropped.
pub struct Cluster {
    folder: tempfile::TempDir,
    options: Options,
    port: u16,
    daemon: Option<Child>,
}

/// A binary of this workspace, built into the folder that this test runs from.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let folder = test.parent().and_then(Path::parent).expect("tests lie in target/PROFILE/deps");
    let binary = folder.join(name);
    assert!(binary.is_file(), "{} is not built: `cargo build --workspace` first", binary.display());
    binary
}

/// `PATH` with the binaries of this workspace first.
pub fn path() -> String {
    let folder = binary("perennial").parent().expect("a file lies in a folder").to_owned();
    format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default())
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

/// The shortest pipeline over [`crate::digits`]: a small network, experience replay, quick checkpoints.
pub fn pipeline(name: &str) -> Value {
    json!({
        "name": name,
        "model": "mlp:32",
        "labels": labels(),
        "method": "er",
        "rehearsal": {"memory_size": 200},
        "training": {
            "epochs": 4, "batch_size": 32, "optimizer": "sgd", "learning_rate": 0.2,
            "checkpoint_steps": 20,
        },
        "evaluation": {"held_out_fraction": 0.2},
        "gate": {"max_forgetting": 0.2, "max_average_accuracy_drop": 0.05},
        "seed": 7,
    })
}

impl Cluster {
    pub async fn start(options: Options) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let mut cluster = Self { folder, options, port: free_port(), daemon: None };
        cluster.boot().await;
        cluster
    }

    /// A daemon started by a line of shell, such as the README's, that works in `folder`. Only its port and its end are
    /// this test's.
    pub async fn start_by(line: &str, folder: tempfile::TempDir) -> Self {
        let mut cluster = Self { folder, options: Options::default(), port: free_port(), daemon: None };
        let line = format!("exec {line} --die-with-parent --listen 127.0.0.1:{}", cluster.port);
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &line]).current_dir(cluster.folder.path()).env("PATH", path());
        cluster.spawn(command);
        cluster.wait_until_serving().await;
        cluster
    }

    fn spawn(&mut self, mut command: Command) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).expect("a log can be opened");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        self.daemon = Some(command.spawn().expect("the daemon starts"));
    }

    /// Where everything of it lies.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts the daemon over what the folder holds, and waits until it serves.
    pub async fn boot(&mut self) {
        let store = self.store();
        let mut command = Command::new(binary("perenniald"));
        // A test that is killed takes its daemon with it.
        command.args(["--role", "all", "--die-with-parent", "--listen", &format!("127.0.0.1:{}", self.port)]);
        command.args(["--store", store.to_str().expect("a plain path")]);
        command.args(["--set", "recovery_budget=3s", "--set", &format!("worker.slots={}", self.options.slots)]);
        command.args(["--set", &format!("worker.cache={}", self.folder.path().join("cache").display())]);
        let roots: Vec<&str> = self.options.roots.iter().map(|root| root.to_str().expect("a plain path")).collect();
        command.args(["--set", &format!("roots={}", json!(roots))]);
        self.spawn(command);
        self.wait_until_serving().await;
    }

    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    pub fn log(&self) -> PathBuf {
        self.folder.path().join("log.jsonl")
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// SIGKILL. The worker notices that its parent is gone.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().expect("it runs");
            daemon.wait().expect("it was ours");
        }
    }

    pub fn channel(&self) -> Channel {
        Endpoint::from_shared(self.url()).expect("a URL").timeout(DEADLINE).connect_lazy()
    }

    async fn wait_until_serving(&mut self) {
        let log = self.log();
        let mut health = tonic_health::pb::health_client::HealthClient::new(self.channel());
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        let asked = async {
            loop {
                pace.tick().await;
                let request = tonic_health::pb::HealthCheckRequest::default();
                if health.check(request).await.is_ok() {
                    return;
                }
                if let Ok(Some(status)) = self.daemon.as_mut().expect("just started").try_wait() {
                    panic!(
                        "perenniald ended with {status}: {}",
                        std::fs::read_to_string(self.log()).unwrap_or_default()
                    );
                }
            }
        };
        let served = tokio::time::timeout(DEADLINE, asked).await;
        assert!(served.is_ok(), "not serving: {}", std::fs::read_to_string(&log).unwrap_or_default());
    }

    pub fn pipelines(&self) -> PipelineServiceClient<Channel> {
        PipelineServiceClient::new(self.channel())
    }

    pub fn chunks(&self) -> ChunkServiceClient<Channel> {
        ChunkServiceClient::new(self.channel())
    }

    pub fn ingest(&self) -> IngestServiceClient<Channel> {
        IngestServiceClient::new(self.channel()).max_encoding_message_size(2 * MAX_MESSAGE_BYTES)
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

    pub async fn push(
        &self,
        pipeline: &str,
        task: &str,
        split: v1::Split,
        payload: &[u8],
    ) -> Result<v1::PushChunkResponse, Status> {
        let header = v1::ChunkHeader {
            pipeline: resource(pipeline),
            task: task.to_owned(),
            split: split.into(),
            format: v1::Format::Jsonl.into(),
            ..Default::default()
        };
        self.push_as(header, payload, FRAME_BYTES).await
    }

    pub async fn push_as(
        &self,
        header: v1::ChunkHeader,
        payload: &[u8],
        frame: usize,
    ) -> Result<v1::PushChunkResponse, Status> {
        let frames = payload.chunks(frame).map(|frame| Part::Frame(frame.to_vec()));
        let parts: Vec<_> = [Part::Header(header)].into_iter().chain(frames).collect();
        let requests = parts.into_iter().map(|part| v1::PushChunkRequest { part: Some(part) });
        Ok(self.ingest().push_chunk(futures::stream::iter(requests)).await?.into_inner())
    }

    pub async fn start_run(&self, pipeline: &str, chunks: &[String]) -> Result<v1::Run, Status> {
        let request = v1::StartRunRequest { pipeline: resource(pipeline), chunks: chunks.to_vec() };
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

    pub async fn version(&self, pipeline: &str, reference: &str) -> Result<v1::Version, Status> {
        let name = format!("{}/versions/{reference}", resource(pipeline));
        let request = v1::GetVersionRequest { name };
        Ok(self.registry().get_version(request).await?.into_inner().version.expect("a version"))
    }

    pub async fn list_chunks(&self, pipeline: &str) -> Vec<v1::Chunk> {
        let request = v1::ListChunksRequest { parent: resource(pipeline), ..Default::default() };
        self.chunks().list_chunks(request).await.expect("the pipeline is known").into_inner().chunks
    }

    fn last_log(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(40).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// `namespaces/default/pipelines/{name}`.
pub fn resource(pipeline: &str) -> String {
    format!("namespaces/default/pipelines/{pipeline}")
}
