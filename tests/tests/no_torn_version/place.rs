//! A control role in this process, on a store's folder, and who reads of it.

use std::path::Path;
use std::sync::Arc;

use domain::chunk::{Chunk, ChunkState, ObjectRef, Shard, Split};
use domain::id::{ChunkId, PipelineId, Version};
use domain::manifest::{Candidate, Cost, SnapshotMeta};
use domain::planning::{self, Refusal};
use domain::report::{Baseline, EvalReport, Verdict};
use domain::run::RunEvent;
use domain::state::{Event, EventKind, State};
use object_store::ObjectStore;
use perennial_proto::v1;
use perennial_proto::v1::pull_version_response::Part;
use perennial_proto::v1::registry_service_client::RegistryServiceClient;
use perennial_proto::v1::registry_service_server::RegistryServiceServer;
use registry::publish::MANIFEST;
use registry::{ModelLimits, Publisher, Registry};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use store::journal::Journal;
use store::roots::Roots;
use store::{layout, objects};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Status, Streaming};

pub const FILES: [&str; 4] = ["README.md", "adapter_model.safetensors", "head.safetensors", "snapshot.json"];

pub fn id() -> PipelineId {
    "namespaces/default/pipelines/p".parse().unwrap()
}

/// A store's folder.
pub struct Place {
    pub folder: tempfile::TempDir,
    pub store: Arc<dyn ObjectStore>,
}

/// A control role on it.
pub struct Control {
    pub journal: Arc<Journal>,
}

impl Place {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = store::open(&format!("file://{}", folder.path().display())).unwrap();
        Self { folder, store }
    }

    /// Another folder with the same files.
    pub fn copy(&self) -> Self {
        let copy = Self::new();
        copy_into(self.folder.path(), copy.folder.path());
        copy
    }

    /// A process starts, or starts again, and reaches the store through `seen`.
    pub async fn boot(&self, seen: Arc<dyn ObjectStore>) -> Control {
        Control { journal: Arc::new(Journal::open(seen, "test", || 1).await.unwrap()) }
    }

    /// What is seen of the versions and aliases now: each of them is whole, or says that it is retired.
    pub async fn look(&self, control: &Control) -> Vec<v1::Version> {
        let listed = self.look_at_versions(control).await;
        let reader = Reader::of(control, self.store.clone()).await;
        for alias in ["@champion", "@previous", "@challenger"] {
            if let Some(version) = reader.get(alias).await {
                assert!(listed.contains(&version), "{alias} is one of those that are listed");
                reader.pull(alias, &version).await;
            }
        }
        listed
    }

    /// What somebody sees whose process has lost the store: where an alias is now it cannot say.
    pub async fn look_at_versions(&self, control: &Control) -> Vec<v1::Version> {
        let reader = Reader::of(control, self.store.clone()).await;
        let listed = reader.list().await;
        for version in &listed {
            let name = version.number.to_string();
            match version.retired_at_ms {
                0 => {
                    self.check(version);
                    reader.pull(&name, version).await;
                }
                _ => reader.is_refused(&name).await,
            }
        }
        self.check_folders();
        listed
    }

    /// Every file is in the store, and the manifest names exactly these.
    fn check(&self, version: &v1::Version) {
        for file in &version.files {
            let bytes = std::fs::read(self.folder.path().join(&file.path)).unwrap();
            assert_eq!((hex::encode(Sha256::digest(&bytes)), bytes.len() as u64), (file.sha256.clone(), file.bytes));
        }
        let named = whole(&self.folder.path().join(&version.folder)).expect("it has a manifest");
        let mut listed: Vec<&str> = version.files.iter().map(|file| file.path.rsplit('/').next().unwrap()).collect();
        assert_eq!(listed.pop(), Some(MANIFEST), "the manifest is last");
        assert_eq!(named, listed);
    }

    /// A folder with a manifest is whole, whether or not anybody lists it yet.
    fn check_folders(&self) {
        let Ok(folders) = std::fs::read_dir(self.folder.path().join("adapters/default")) else { return };
        folders.for_each(|folder| drop(whole(&folder.unwrap().path())));
    }
}

fn copy_into(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_into(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// What the folder's manifest names, all of which is there. None: it has no manifest.
pub fn whole(folder: &Path) -> Option<Vec<String>> {
    let text = std::fs::read(folder.join(MANIFEST)).ok()?;
    let manifest: Value = serde_json::from_slice(&text).expect("a manifest is whole");
    let files = manifest["files"].as_array().unwrap().iter().map(|file| {
        let name = file["name"].as_str().unwrap().to_owned();
        let bytes = std::fs::read(folder.join(&name)).unwrap_or_else(|_| panic!("{name} is there"));
        assert_eq!(file["sha256"].as_str().unwrap(), hex::encode(Sha256::digest(bytes)), "{name}");
        name
    });
    Some(files.collect())
}

impl Control {
    async fn happen(&self, kinds: Vec<EventKind>) {
        let events = kinds.into_iter().map(|kind| Event { pipeline: id(), kind }).collect();
        self.journal.commit(move |_, _| Ok::<_, Refusal>((events, ()))).await.unwrap();
    }

    /// The pipeline, with a retention or none.
    pub async fn create(&self, retention: Value) {
        let spec = json!({"name": "p", "model": "mlp:8", "labels": ["a"], "method": "ft", "retention": retention});
        self.happen(vec![EventKind::PipelineApplied { pipeline_spec: serde_json::from_value(spec).unwrap() }]).await;
    }

    /// A run on a new chunk, up to the moment when it is to be published.
    pub async fn pass(&self, store: &dyn ObjectStore) -> Version {
        let object = |path: String| ObjectRef { path, sha256: "0".repeat(64), bytes: 1 };
        let name = self.journal.read(|state| format!("c{}", state.pipelines[&id()].chunks.len()));
        let chunk = json!({
            "id": name, "task": "main", "split": Split::Train, "held_out": [], "labels": {"a": 1},
            "train": [Shard::new(object(name.clone()), 1)], "raw": object(name.clone()),
            "received_at": 0, "state": ChunkState::Received,
        });
        let chunk: Chunk = serde_json::from_value(chunk).unwrap();
        let sealed = EventKind::ChunkSealed { chunk: ChunkId(name), new_labels: Vec::new() };
        self.happen(vec![EventKind::ChunkReceived { chunk: Box::new(chunk) }, sealed]).await;
        let start = |state: &State, _| planning::start_run(state, &id(), &[]).map(|(run, events)| (events, run));
        let run = self.journal.commit(start).await.unwrap();
        let version = self.journal.read(|state| state.pipelines[&id()].next_version());
        let report = EvalReport {
            baseline: Baseline::Base,
            candidate_scores: Vec::new(),
            baseline_scores: Vec::new(),
            verdict: Verdict::Pass,
        };
        let candidate = Box::new(candidate(store, run).await);
        let changes = [
            RunEvent::Started,
            RunEvent::Trained { attempt: 1, candidate },
            RunEvent::Judged { report, version: Some(version) },
        ];
        self.happen(changes.map(|change| EventKind::Run { run, change: Box::new(change) }).into()).await;
        version
    }

    /// Publishes whatever passed, and returns once it is published.
    pub async fn publish(&self, store: Arc<dyn ObjectStore>, version: Version) {
        let publishing = tokio::spawn(Publisher::new(self.journal.clone(), store).run(CancellationToken::new()));
        let mut changed = self.journal.watch();
        while !self.has(version) {
            changed.changed().await.expect("the log goes on");
        }
        publishing.abort();
    }

    fn has(&self, version: Version) -> bool {
        self.journal.read(|state| state.pipelines[&id()].versions.contains_key(&version))
    }
}

/// Files of a run of their own.
async fn candidate(store: &dyn ObjectStore, run: u64) -> Candidate {
    let mut files = Vec::new();
    for name in FILES {
        let path = format!("{}/{name}", layout::candidate(&id(), run, 1));
        files.push(objects::put(store, &path, format!("{name} of run {run}").into()).await.unwrap());
    }
    let snapshot = SnapshotMeta { object: files[3].clone(), chunks: Vec::new(), items: 0, seen: 0 };
    let (weights_sha256, cost) = ("w".to_owned(), Cost::default());
    Candidate { files, weights_sha256, finite: true, preprocessing: None, golden: Vec::new(), snapshot, cost }
}

/// A client, over the wire.
struct Reader {
    client: RegistryServiceClient<Channel>,
    serving: JoinHandle<()>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Reader {
    async fn of(control: &Control, store: Arc<dyn ObjectStore>) -> Self {
        let (limits, none) = (ModelLimits { max_model_bytes: 0, max_frame_bytes: 0 }, Roots::new::<&str>(&[]).unwrap());
        let service = Registry::new(control.journal.clone(), store, "memory:///".to_owned(), limits, none);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let server = Server::builder().add_service(RegistryServiceServer::new(service));
            // As the daemon does: small answers do not wait.
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self { client: RegistryServiceClient::connect(url).await.unwrap(), serving }
    }

    async fn list(&self) -> Vec<v1::Version> {
        let request = v1::ListVersionsRequest { parent: id().to_string(), ..Default::default() };
        self.client.clone().list_versions(request).await.unwrap().into_inner().versions
    }

    async fn get(&self, reference: &str) -> Option<v1::Version> {
        let request = v1::GetVersionRequest { name: format!("{}/versions/{reference}", id()) };
        match self.client.clone().get_version(request).await {
            Ok(answer) => answer.into_inner().version,
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::NotFound, "{status}");
                None
            }
        }
    }

    async fn ask(&self, reference: &str) -> Result<Streaming<v1::PullVersionResponse>, Status> {
        let request = v1::PullVersionRequest { name: format!("{}/versions/{reference}", id()) };
        Ok(self.client.clone().pull_version(request).await?.into_inner())
    }

    async fn is_refused(&self, reference: &str) {
        let refused = self.ask(reference).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains("is retired: `retention.versions` did not keep its files"), "{refused}");
    }

    /// Exactly the version's files arrive, whole.
    async fn pull(&self, reference: &str, version: &v1::Version) {
        let mut parts = self.ask(reference).await.unwrap();
        let mut arrived: Vec<(v1::File, Vec<u8>)> = Vec::new();
        while let Some(message) = parts.message().await.unwrap() {
            match message.part.unwrap() {
                Part::File(file) => arrived.push((file, Vec::new())),
                Part::Frame(frame) => arrived.last_mut().unwrap().1.extend(frame),
            }
        }
        let sums = |file: &v1::File| file.sha256.clone();
        let wanted: Vec<String> = version.files.iter().map(sums).collect();
        assert_eq!(arrived.iter().map(|(file, _)| sums(file)).collect::<Vec<_>>(), wanted, "{reference}");
        let found = arrived.iter().map(|(_, bytes)| hex::encode(Sha256::digest(bytes)));
        assert_eq!(found.collect::<Vec<_>>(), wanted, "{reference}");
    }
}
