//! A control plane with one pipeline, and the lives of its versions.

use perennial_domain::chunk::{Chunk, ChunkState, ObjectRef, Shard, Split};
use perennial_domain::id::{ChunkId, PipelineId, Version};
use perennial_domain::manifest::{Candidate, Cost, SnapshotMeta};
use perennial_domain::planning;
use perennial_domain::report::{Baseline, EvalReport, Verdict};
use perennial_domain::run::{RunEvent, RunState};
use perennial_domain::state::{Event, EventKind, PipelineState, State};
use perennial_domain::version::AdapterVersion;
use serde_json::{Value, json};

pub struct Story {
    pub state: State,
    pub id: PipelineId,
}

fn object(name: &str) -> ObjectRef {
    ObjectRef { path: name.to_owned(), sha256: name.to_owned(), bytes: 1 }
}

impl Story {
    pub fn new() -> Self {
        let id = "namespaces/default/pipelines/p".parse().unwrap();
        let mut story = Self { id, state: State::default() };
        story.specify(|_| ());
        story
    }

    /// Applies the pipeline's shortest file with a change.
    pub fn specify(&mut self, change: impl FnOnce(&mut Value)) {
        let mut spec = json!({"name": "p", "model": "mlp:8", "labels": ["a", "b"], "method": "er"});
        change(&mut spec);
        let events = planning::apply_spec(&self.state, &serde_json::from_value(spec).unwrap()).unwrap();
        self.apply(events);
    }

    pub fn now(&self) -> &PipelineState {
        &self.state.pipelines[&self.id]
    }

    pub fn apply(&mut self, events: Vec<Event>) {
        events.iter().for_each(|event| self.state.apply(event, 0).unwrap());
    }

    pub fn happen(&mut self, kind: EventKind) {
        self.apply(vec![Event { pipeline: self.id.clone(), kind }]);
    }

    pub fn chunk(&mut self, name: &str) -> ChunkId {
        let id = ChunkId(name.to_owned());
        let chunk = json!({
            "id": id, "task": "t", "split": Split::Auto, "train": [Shard { object: object(name), rows: 10 }],
            "held_out": [], "labels": {"a": 10}, "raw": object(name), "received_at": 0, "state": ChunkState::Received,
        });
        let chunk: Chunk = serde_json::from_value(chunk).unwrap();
        self.happen(EventKind::ChunkReceived { chunk: Box::new(chunk) });
        self.happen(EventKind::ChunkSealed { chunk: id.clone(), new_labels: vec![] });
        id
    }

    pub fn start(&mut self) -> u64 {
        let (run, events) = planning::start_run(&self.state, &self.id, &[]).unwrap();
        self.apply(events);
        run
    }

    pub fn change(&mut self, run: u64, change: RunEvent) {
        self.happen(EventKind::Run { run, change: Box::new(change) });
    }

    /// Whether the change applies. It is not made.
    pub fn may(&self, run: u64, change: RunEvent) -> bool {
        let kind = EventKind::Run { run, change: Box::new(change) };
        self.state.clone().apply(&Event { pipeline: self.id.clone(), kind }, 0).is_ok()
    }

    pub fn train(&mut self, run: u64, attempt: u32) {
        let candidate = Candidate {
            files: vec![object("f")],
            weights_sha256: "w".into(),
            finite: true,
            preprocessing: None,
            golden: vec![],
            snapshot: SnapshotMeta { object: object("s"), chunks: vec![], items: 0, seen: 0 },
            cost: Cost::default(),
        };
        self.change(run, RunEvent::Started);
        self.change(run, RunEvent::Trained { attempt, candidate: Box::new(candidate) });
    }

    pub fn pass(&mut self, run: u64) {
        let (candidate_scores, baseline_scores) = (vec![], vec![]);
        let report = EvalReport { baseline: Baseline::Base, candidate_scores, baseline_scores, verdict: Verdict::Pass };
        let version = Some(self.now().next_version());
        self.change(run, RunEvent::Judged { report, version });
    }

    pub fn publish_passed(&mut self, run: u64) -> Version {
        let passed = self.now().runs[&run].clone();
        let RunState::Publishing { candidate, report, version } = passed.state else { panic!("{:?}", passed.state) };
        let manifest = passed.manifest;
        let version = AdapterVersion {
            number: version,
            parent: manifest.parent.map(|parent| parent.version),
            run,
            update: manifest.update,
            chunks: manifest.chunks.into_iter().map(|chunk| chunk.id).collect(),
            labels: manifest.labels,
            snapshot: candidate.snapshot,
            files: candidate.files,
            weights_sha256: candidate.weights_sha256,
            report,
            cost: candidate.cost,
            published_at: 0,
        };
        let number = version.number;
        self.happen(EventKind::VersionPublished { version: Box::new(version) });
        number
    }

    /// A version on a chunk of its own.
    pub fn publish(&mut self, chunk: &str) -> Version {
        self.chunk(chunk);
        let run = self.start();
        self.train(run, 1);
        self.pass(run);
        self.publish_passed(run)
    }
}
