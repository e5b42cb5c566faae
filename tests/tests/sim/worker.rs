//! A worker by script: it speaks the protocol of workers and writes what they write, and its models are made of digests.
//!
//! It stands where training would be, which is not what this tests. The same manifest makes the same bytes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use domain::chunk::ObjectRef;
use domain::draw::Draw;
use domain::id::ChunkId;
use domain::manifest::{Candidate, Cost, Manifest, SnapshotMeta};
use domain::report::Score;
use domain::shift::Measured;
use perennial_proto::convert::{from_json, to_json};
use perennial_proto::v1;
use perennial_proto::v1::assignment::Work;
use perennial_proto::v1::lease_response::Instruction;
use perennial_proto::v1::report_outcome_request::Outcome;
use perennial_proto::v1::worker_service_client::WorkerServiceClient;
use safetensors::tensor::{Dtype, TensorView};
use store::{layout, objects};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::life::Life;
use crate::net::{CONTROL, dial};
use crate::store::Store;
use crate::world::World;

const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// One in so many candidates forgets everything, which the gate must see.
const FORGETFUL: u64 = 5;

struct Worker {
    world: Arc<World>,
    name: String,
    store: Store,
    client: WorkerServiceClient<Channel>,
}

pub async fn run(world: Arc<World>, host: &'static str, life: Arc<Life>) -> anyhow::Result<()> {
    let endpoint = Endpoint::from_shared(format!("http://{CONTROL}:7420"))?.connect_timeout(ANSWER_WITHIN);
    let endpoint = endpoint.http2_keep_alive_interval(ANSWER_WITHIN);
    let client = WorkerServiceClient::new(dial(&world, host, &life)(endpoint));
    let store = Store { world: world.clone(), host, life };
    let name = format!("{host}-{}", world.moment());
    let worker = Arc::new(Worker { world, name, store, client });
    let (mut running, mut tasks) = (Vec::new(), JoinSet::new());
    loop {
        if let Err(status) = worker.lease(&mut running, &mut tasks).await {
            worker.world.note(host, format!("no lease: {}", status.message()));
        }
        sleep(worker.world.dice.time(100, 800)).await;
    }
}

type Running = Vec<(v1::AssignmentId, AbortHandle)>;

impl Worker {
    /// Works until the control role goes away.
    async fn lease(self: &Arc<Self>, running: &mut Running, tasks: &mut JoinSet<()>) -> Result<(), Status> {
        let request = v1::LeaseRequest {
            worker: self.name.clone(),
            roles: ["trainer", "evaluator"].map(str::to_owned).to_vec(),
            slots: 1,
            device: "cpu".to_owned(),
            running: running.iter().map(|(id, _)| id.clone()).collect(),
            ..Default::default()
        };
        let mut stream = self.client.clone().lease(request).await?.into_inner();
        let first = stream.message().await?.and_then(|first| first.instruction);
        let Some(Instruction::Terms(terms)) = first else { return Err(Status::internal("no terms")) };
        self.world.note(&self.name, "leased");
        let mut beat = interval(Duration::from_millis(terms.heartbeat_ms));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = stream.message() => match message {
                    Ok(Some(v1::LeaseResponse { instruction: Some(Instruction::Assignment(assignment)) })) => {
                        let id = assignment.id.clone().unwrap_or_default();
                        self.world.note(&self.name, format!("is to {} run {}, attempt {}", id.stage, id.run, id.attempt));
                        running.push((id, tasks.spawn(self.clone().work(assignment))));
                    }
                    Ok(Some(v1::LeaseResponse { instruction: Some(Instruction::Cancel(id)) })) => stop(running, &id),
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return Ok(()),
                },
                Some(_) = tasks.join_next() => running.retain(|(_, task)| !task.is_finished()),
                _ = beat.tick() => if self.beat(running).await.is_err() { return Ok(()) },
            }
        }
    }

    async fn beat(&self, running: &mut Running) -> Result<(), Status> {
        let mut ids: Vec<Option<v1::AssignmentId>> = running.iter().map(|(id, _)| Some(id.clone())).collect();
        if ids.is_empty() {
            ids.push(None);
        }
        for id in ids {
            let request = v1::HeartbeatRequest { worker: self.name.clone(), id: id.clone(), ..Default::default() };
            let answer = self.client.clone().heartbeat(within(request)).await?.into_inner();
            if let Some(id) = id.filter(|_| answer.stop) {
                stop(running, &id);
            }
        }
        Ok(())
    }

    /// Carries an assignment out, and says so until it is heard.
    async fn work(self: Arc<Self>, assignment: v1::Assignment) {
        let id = assignment.id.clone().unwrap_or_default();
        let manifest: Manifest = from_json("manifest_json", &assignment.manifest_json).expect("a manifest");
        sleep(self.world.dice.time(20, 1500)).await;
        let outcome = match assignment.work {
            Some(Work::Train(_)) => self.train(&manifest, id.attempt).await,
            Some(Work::Evaluate(work)) => Ok(Outcome::ScoresJson(to_json(&scores(&manifest, &work.subjects)))),
            Some(Work::Measure(_)) => Ok(Outcome::MeasuredJson(to_json(&measured(&manifest)))),
            None => return,
        };
        let outcome = outcome.unwrap_or_else(|error| {
            let kind = v1::FailureKind::Unavailable.into();
            Outcome::Failed(v1::Failure { reason: error.to_string(), progressed: false, kind })
        });
        loop {
            let (worker, id) = (self.name.clone(), Some(id.clone()));
            let request = v1::ReportOutcomeRequest { worker, id, outcome: Some(outcome.clone()) };
            match self.client.clone().report_outcome(within(request)).await {
                Ok(_) => return,
                Err(status) => self.world.note(&self.name, format!("is not heard: {}", status.message())),
            }
            sleep(self.world.dice.time(100, 500)).await;
        }
    }

    async fn train(&self, manifest: &Manifest, attempt: u32) -> Result<Outcome, store::Error> {
        let pipeline = manifest.pipeline.id();
        let folder = layout::candidate(&pipeline, manifest.run, attempt);
        let inputs = (manifest.run, &manifest.parent, &manifest.chunks, &manifest.snapshot);
        let weights = objects::sha256(&to_json(&inputs));
        let before = manifest.snapshot.iter().flat_map(|snapshot| &snapshot.chunks);
        let chunks: Vec<ChunkId> = before.chain(&manifest.chunks).map(|chunk| chunk.id.clone()).collect();
        let mut files = Vec::new();
        for (name, bytes) in [("model.safetensors", model(&weights)), ("snapshot.json", to_json(&chunks))] {
            files.push(objects::put(&self.store, &format!("{folder}/{name}"), bytes.into()).await?);
        }
        let object: ObjectRef = files[1].clone();
        let items = chunks.len() as u64;
        let candidate = Candidate {
            files,
            weights_sha256: weights,
            finite: true,
            preprocessing: None,
            golden: Vec::new(),
            snapshot: SnapshotMeta { object, chunks, items, seen: items },
            cost: Cost { world_size: 1, device: "cpu".to_owned(), ..Cost::default() },
        };
        Ok(Outcome::TrainedJson(to_json(&candidate)))
    }
}

fn within<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(ANSWER_WITHIN);
    request
}

fn stop(running: &mut Running, id: &v1::AssignmentId) {
    running.iter().filter(|(running, _)| running == id).for_each(|(_, task)| task.abort());
    running.retain(|(running, _)| running != id);
}

/// One tensor that its digest decides.
fn model(digest: &str) -> Vec<u8> {
    let values: Vec<u8> = digest.bytes().flat_map(|byte| (f32::from(byte) / 100.0).to_le_bytes()).collect();
    let tensor = TensorView::new(Dtype::F32, vec![digest.len()], &values).expect("its shape is its length");
    safetensors::serialize([("head.weight", tensor)], Some(HashMap::new())).expect("memory can be written to")
}

/// Nothing is right by the base model, and everything by any other but the forgetful.
fn scores(manifest: &Manifest, subjects: &[v1::Subject]) -> Vec<Vec<Score>> {
    let knows = |subject: &v1::Subject| {
        let files: Vec<ObjectRef> = serde_json::from_slice(&subject.files_json).unwrap_or_default();
        let model = files.iter().find(|file| file.path.ends_with("/model.safetensors"));
        model.is_some_and(|model| Draw::new(0).named(&model.sha256).below(FORGETFUL) > 0)
    };
    let of = |subject: &v1::Subject| {
        let sets = manifest.eval_sets.iter().filter(|set| subject.eval_sets.contains(&set.digest()));
        let score = |set: &domain::evalset::EvalSet| Score {
            task: set.task.clone(),
            eval_set: set.number,
            digest: set.digest(),
            items: set.items(),
            correct: if knows(subject) { set.items() } else { 0 },
            loss: 1.0,
            calibration: None,
            right: Some((0..set.items()).map(|_| knows(subject)).collect()),
        };
        sets.map(score).collect()
    };
    subjects.iter().map(of).collect()
}

fn measured(manifest: &Manifest) -> Measured {
    let version = manifest.parent.as_ref().expect("chunks are compared once there is a version").version;
    Measured::new(version, &manifest.chunks[0].task, Vec::new())
}
