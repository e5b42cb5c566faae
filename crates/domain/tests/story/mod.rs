//! A pipeline's life, event by event.

#![allow(dead_code, reason = "no test file tells every story")]

use perennial_domain::chunk::{Chunk, ObjectRef, Shard, Split};
use perennial_domain::id::{ChunkId, PipelineId, Version};
use perennial_domain::manifest::{Candidate, Cost, SnapshotMeta};
use perennial_domain::pipeline::Pipeline;
use perennial_domain::planning;
use perennial_domain::report::{Baseline, EvalReport, Verdict};
use perennial_domain::run::{RunEvent, RunState};
use perennial_domain::state::{Event, EventKind, PipelineState, State};
use perennial_domain::version::AdapterVersion;
use serde_json::{Value, json};

/// A control plane with one pipeline, and what a test does to it.
pub struct Story {
    pub state: State,
    pub id: PipelineId,
}

pub fn spec(change: impl FnOnce(&mut Value)) -> Pipeline {
    let mut spec = json!({"name": "p", "model": "mlp:8", "labels": ["a", "b"], "method": "er"});
    change(&mut spec);
    serde_json::from_value(spec).unwrap()
}

pub fn object(name: &str) -> ObjectRef {
    ObjectRef { path: name.to_owned(), sha256: name.to_owned(), bytes: 1 }
}

pub fn shards(name: &str, rows: u64) -> Vec<Shard> {
    if rows == 0 { Vec::new() } else { vec![Shard::new(object(name), rows)] }
}

impl Story {
    pub fn new(change: impl FnOnce(&mut Value)) -> Self {
        let mut story = Self { id: spec(|_| ()).id(), state: State::default() };
        story.specify(change);
        story
    }

    /// Applies the pipeline's shortest file with a change.
    pub fn specify(&mut self, change: impl FnOnce(&mut Value)) {
        let events = planning::apply_spec(&self.state, &spec(change)).unwrap();
        self.apply(events);
    }

    pub fn apply(&mut self, events: Vec<Event>) {
        for event in events {
            self.state.apply(&event, 0).unwrap();
        }
    }

    pub fn happen(&mut self, kind: EventKind) {
        self.apply(vec![Event { pipeline: self.id.clone(), kind }]);
    }

    pub fn now(&self) -> &PipelineState {
        &self.state.pipelines[&self.id]
    }

    pub fn chunk(&mut self, name: &str, task: &str, train: u64, held_out: u64) -> ChunkId {
        let id = ChunkId(name.to_owned());
        let chunk = Chunk {
            train: shards(name, train),
            held_out: shards(&format!("{name}-held-out"), held_out),
            labels: [("a".to_owned(), train)].into(),
            ..Chunk::received(id.clone(), task.parse().unwrap(), Split::Auto, object(name), 0)
        };
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

    pub fn judged(&mut self, verdict: Verdict) -> (u64, Candidate, EvalReport) {
        let run = self.start();
        let (candidate, report) = self.judge(run, verdict);
        (run, candidate, report)
    }

    pub fn train(&mut self, run: u64, attempt: u32) -> Candidate {
        let snapshot = SnapshotMeta { object: object("s"), chunks: vec![], items: 0, seen: 0 };
        let cost = Cost::default();
        let candidate = Candidate {
            files: vec![],
            weights_sha256: "w".into(),
            finite: true,
            preprocessing: None,
            golden: vec![],
            snapshot,
            cost,
        };
        self.change(run, RunEvent::Started);
        self.change(run, RunEvent::Trained { attempt, candidate: Box::new(candidate.clone()) });
        candidate
    }

    pub fn judge(&mut self, run: u64, verdict: Verdict) -> (Candidate, EvalReport) {
        let candidate = self.train(run, 1);
        (candidate, self.report(run, verdict))
    }

    pub fn report(&mut self, run: u64, verdict: Verdict) -> EvalReport {
        let passed = verdict == Verdict::Pass;
        let report =
            EvalReport { baseline: Baseline::Base, candidate_scores: vec![], baseline_scores: vec![], verdict };
        let version = passed.then(|| self.now().next_version());
        self.change(run, RunEvent::Judged { report: report.clone(), version });
        report
    }

    pub fn publish(&mut self) -> Version {
        let run = self.start();
        self.publish_run(run)
    }

    pub fn publish_run(&mut self, run: u64) -> Version {
        self.judge(run, Verdict::Pass);
        self.publish_passed(run)
    }

    pub fn publish_passed(&mut self, run: u64) -> Version {
        let passed = self.now().runs[&run].clone();
        let RunState::Publishing { candidate, report, version: number } = passed.state else {
            panic!("{:?}", passed.state)
        };
        let manifest = passed.manifest;
        let version = AdapterVersion {
            number,
            parent: manifest.parent.as_ref().map(|parent| parent.version),
            run,
            update: manifest.update,
            chunks: manifest.chunks.iter().map(|chunk| chunk.id.clone()).collect(),
            labels: manifest.labels.clone(),
            snapshot: candidate.snapshot,
            files: vec![],
            weights_sha256: candidate.weights_sha256,
            report,
            cost: candidate.cost,
            published_at: 0,
        };
        self.happen(EventKind::VersionPublished { version: Box::new(version) });
        number
    }

    pub fn states(&self) -> Vec<&'static str> {
        self.now().chunks_in_order().map(|chunk| chunk.state.name()).collect()
    }
}
