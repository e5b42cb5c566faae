//! How long a page of a long list of versions takes, over gRPC on this machine, from the first page to the last.
//!
//! ```text
//! cargo bench --workspace --bench version_page -- --clients 8
//! ```
//!
//! One line of JSON: the pages that were read, and the milliseconds from a request to its answer.

// A benchmark is made to read the clock.
#![allow(clippy::disallowed_methods)]

use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use domain::calibration::{Answer, Calibration};
use domain::chunk::{Chunk, ObjectRef, Shard};
use domain::draw::Draw;
use domain::evalset::{EvalSet, Part};
use domain::id::{ChunkId, PipelineId, Version};
use domain::manifest::{Candidate, ChunkData, Cost, Manifest, Parent, SnapshotData, SnapshotMeta};
use domain::pipeline::Pipeline;
use domain::planning;
use domain::report::{Baseline, EvalReport, Score, Verdict};
use domain::run::RunEvent;
use domain::state::{Event, EventKind, State};
use domain::version::AdapterVersion;
use object_store::ObjectStore;
use perennial_proto::v1;
use perennial_proto::v1::registry_service_client::RegistryServiceClient;
use perennial_proto::v1::registry_service_server::RegistryServiceServer;
use registry::{ModelLimits, Registry};
use serde_json::json;
use store::journal::Journal;
use store::log::{CommitLog, Options};
use store::roots::Roots;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};

#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 100_000)]
    versions: u64,
    #[arg(long, default_value_t = 100)]
    page_size: i32,
    /// Clients that go through all pages at the same time
    #[arg(long, default_value_t = 1)]
    clients: usize,
    /// Cargo gives it to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

const FILES: [&str; 8] = [
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "head.safetensors",
    "labels.json",
    "preprocessor_config.json",
    "snapshot.json",
    "perennial_manifest.json",
];
const TASKS: u64 = 5;
const ITEMS: u64 = 200;
/// Chunks that a rehearsal buffer refers to.
const REMEMBERED: u64 = 5;

fn object(path: String) -> ObjectRef {
    let sha256 = format!("{:016x}", Draw::new(1).named(&path).bits()).repeat(4);
    ObjectRef { path, sha256, bytes: 81_000_000 }
}

fn chunk(number: u64) -> ChunkData {
    let id = ChunkId(format!("{:032x}", Draw::new(7).at(number).bits()));
    let train = vec![Shard::new(object(format!("namespaces/default/pipelines/tickets/chunks/{id}/0")), 500)];
    ChunkData { id, task: format!("task-{}", number % TASKS).parse().expect("a name"), train }
}

fn eval_set(task: u64) -> EvalSet {
    let ChunkData { id, train, task } = chunk(task);
    EvalSet { task, number: 1, parts: vec![Part { chunk: id, rows: ITEMS, shards: train }] }
}

fn score(set: &EvalSet, draw: Draw) -> Score {
    let right: Vec<bool> = (0..ITEMS).map(|item| draw.at(item).unit() < 0.9).collect();
    let answer = |(item, right): (usize, &bool)| Answer {
        confidence: draw.at(item as u64).at(1).unit(),
        right: *right,
        brier: 0.2,
    };
    Score {
        task: set.task.clone(),
        eval_set: set.number,
        digest: set.digest(),
        items: ITEMS,
        correct: right.iter().filter(|right| **right).count() as u64,
        loss: 0.3,
        calibration: Calibration::of(right.iter().enumerate().map(answer)),
        right: Some(right.into_iter().collect()),
    }
}

/// A line of versions, each with what a run leaves: files, a report on five tasks, a buffer.
struct Line {
    id: PipelineId,
    pipeline: Pipeline,
    sets: Vec<EvalSet>,
    state: State,
}

impl Line {
    fn new() -> Self {
        let spec = json!({"name": "tickets", "model": "mlp:10", "method": "er", "labels": ["ham", "spam"]});
        let pipeline: Pipeline = serde_json::from_value(spec).expect("a pipeline");
        let sets = (0..TASKS).map(eval_set).collect();
        let mut line = Self { id: pipeline.id(), pipeline, sets, state: State::default() };
        for event in planning::apply_spec(&line.state, &line.pipeline).expect("a pipeline") {
            line.state.apply(&event, 0).expect("it applies");
        }
        line
    }

    fn happen(&mut self, kind: EventKind) {
        self.state.apply(&Event { pipeline: self.id.clone(), kind }, 1).expect("it applies");
    }

    fn files(number: u64) -> Vec<ObjectRef> {
        FILES.map(|file| object(format!("adapters/default/tickets-v{number:04}/{file}"))).into()
    }

    fn manifest(&self, number: u64) -> Manifest {
        let remembered: Vec<ChunkData> = (number.saturating_sub(REMEMBERED)..number).map(chunk).collect();
        let parent = (number > 1).then(|| number - 1);
        Manifest {
            run: number,
            update: number - 1,
            pipeline: self.pipeline.clone(),
            labels: self.pipeline.labels.clone(),
            parent: parent.map(|parent| Parent { version: Version(parent), files: Self::files(parent) }),
            chunks: vec![chunk(number)],
            snapshot: parent.map(|parent| SnapshotData { object: Self::files(parent)[6].clone(), chunks: remembered }),
            late: Vec::new(),
            eval_sets: self.sets.clone(),
            import: None,
        }
    }

    fn report(&self, number: u64) -> EvalReport {
        let scores = |number| {
            let draw = Draw::new(3).at(number);
            self.sets.iter().zip(0..).map(|(set, task)| score(set, draw.at(task))).collect()
        };
        let baseline = if number > 1 { Baseline::Version(Version(number - 1)) } else { Baseline::Base };
        EvalReport {
            baseline,
            candidate_scores: scores(number),
            baseline_scores: scores(number - 1),
            verdict: Verdict::Pass,
        }
    }

    fn publish(&mut self, number: u64) {
        let ChunkData { id, task, train } = chunk(number);
        let raw = json!({
            "id": id, "task": task, "split": "auto", "train": train, "held_out": [], "labels": {"ham": 500},
            "raw": object("raw".to_owned()), "received_at": 1, "state": {"state": "sealed"},
        });
        let arrived: Chunk = serde_json::from_value(raw).expect("a chunk");
        self.happen(EventKind::ChunkReceived { chunk: Box::new(arrived) });
        let manifest = self.manifest(number);
        let version = AdapterVersion {
            number: Version(number),
            parent: manifest.parent.as_ref().map(|parent| parent.version),
            run: number,
            update: manifest.update,
            chunks: vec![id],
            labels: manifest.labels.clone(),
            snapshot: SnapshotMeta {
                object: Self::files(number)[6].clone(),
                chunks: (number.saturating_sub(REMEMBERED)..=number).map(|number| chunk(number).id).collect(),
                items: 500,
                seen: 500 * number,
            },
            files: Self::files(number),
            weights_sha256: object(number.to_string()).sha256,
            report: self.report(number),
            cost: Cost { steps: 60, ..Cost::default() },
            published_at: 1_700_000_000_000 + number,
        };
        let candidate = Box::new(Candidate {
            files: Vec::new(),
            weights_sha256: String::new(),
            finite: true,
            preprocessing: None,
            golden: Vec::new(),
            snapshot: version.snapshot.clone(),
            cost: Cost::default(),
        });
        self.happen(EventKind::RunQueued { manifest: Box::new(manifest), opened: Vec::new() });
        let report = version.report.clone();
        let judged = RunEvent::Judged { report, version: Some(version.number) };
        for change in [RunEvent::Started, RunEvent::Trained { attempt: 1, candidate }, judged] {
            self.happen(EventKind::Run { run: number, change: Box::new(change) });
        }
        self.happen(EventKind::VersionPublished { version: Box::new(version) });
    }
}

/// A log whose snapshot is the state.
async fn written(state: State, store: Arc<dyn ObjectStore>) {
    let (mut log, _) = CommitLog::open(store, "bench", 0, Options::default()).await.expect("an empty log");
    let first = state.pipelines.iter().next().expect("a pipeline");
    let kind = EventKind::PipelineApplied { pipeline_spec: Box::new(first.1.pipeline.clone()) };
    log.append(1, vec![Event { pipeline: first.0.clone(), kind }]).await.expect("the disk has room");
    log.snapshot(&state).await.expect("the disk has room");
}

async fn serve(store: Arc<dyn ObjectStore>) -> String {
    let journal = Arc::new(Journal::open(store.clone(), "bench", || 1).await.expect("it opens"));
    let (limits, roots) = (ModelLimits { max_model_bytes: 0, max_frame_bytes: 0 }, Roots::new::<&str>(&[]));
    let service = Registry::new(journal, store, String::new(), limits, roots.expect("no roots"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    tokio::spawn(async move {
        let server = Server::builder().add_service(RegistryServiceServer::new(service));
        // As the daemon does.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        server.serve_with_incoming(incoming).await.expect("it serves");
    });
    url
}

/// Milliseconds of each page, from the first to the last.
async fn read(mut client: RegistryServiceClient<Channel>, parent: String, page_size: i32) -> (Vec<f64>, u64) {
    let (mut page_token, mut times, mut seen) = (String::new(), Vec::new(), 0);
    loop {
        let request = v1::ListVersionsRequest { parent: parent.clone(), page_size, page_token, ..Default::default() };
        let start = Instant::now();
        let page = client.list_versions(request).await.expect("a page").into_inner();
        times.push(1000.0 * start.elapsed().as_secs_f64());
        seen += page.versions.len() as u64;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return (times, seen);
        }
    }
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = store::open(&format!("file://{}", folder.path().display())).expect("a store");
    let mut line = Line::new();
    (1..=args.versions).for_each(|number| line.publish(number));
    let parent = line.id.to_string();
    written(line.state, store.clone()).await;
    let url = serve(store).await;
    let mut reading = Vec::new();
    for _ in 0..args.clients {
        let client = RegistryServiceClient::connect(url.clone()).await.expect("it listens");
        let client = client.max_decoding_message_size(usize::MAX);
        reading.push(tokio::spawn(read(client, parent.clone(), args.page_size)));
    }
    let mut times = Vec::new();
    for reader in reading {
        let (more, seen) = reader.await.expect("it reads");
        assert_eq!(seen, args.versions);
        times.extend(more);
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "{}",
        json!({
            "versions": args.versions, "page_size": args.page_size, "clients": args.clients, "pages": times.len(),
            "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0),
        })
    );
}
