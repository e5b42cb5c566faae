//! WorkerService: leases, heartbeats and outcomes.

use std::pin::Pin;
use std::sync::Arc;

use domain::manifest::Candidate;
use domain::planning;
use domain::report::Score;
use domain::run::{Ending, RunEvent, RunState};
use domain::state::{Event, EventKind};
use futures::Stream;
use perennial_proto::convert::{Invalid, from_json, pipeline_id};
use perennial_proto::v1::report_outcome_request::Outcome;
use perennial_proto::v1::worker_service_server::WorkerService;
use perennial_proto::v1::{self, lease_response::Instruction};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status};
use tracing::info;

use crate::drive::{Instructions, Scheduler, wire_key};
use crate::erased::Told;
use crate::error::Error;
use crate::evaluation;
use crate::fleet::{Fleet, Key, Stage, Worker};
use crate::reconcile::asked;

fn key(id: Option<v1::AssignmentId>) -> Result<Key, Invalid> {
    let id = id.ok_or_else(|| Invalid::new("id", "is missing"))?;
    let stage = match id.stage.as_str() {
        "train" => Stage::Train,
        "evaluate" => Stage::Evaluate,
        "measure" => Stage::Measure,
        other => {
            return Err(Invalid::new("id.stage", format!("`{other}` is none of `train`, `evaluate` and `measure`")));
        }
    };
    let pipeline = pipeline_id("id.pipeline", &id.pipeline)?;
    Ok(Key { pipeline, run: id.run, attempt: id.attempt, stage })
}

fn worker(request: &v1::LeaseRequest, ticks: u64) -> Result<Worker, Invalid> {
    if request.worker.is_empty() {
        return Err(Invalid::new("worker", "is empty"));
    }
    let port = u16::try_from(request.rendezvous_port);
    let port =
        port.map_err(|_| Invalid::new("rendezvous_port", format!("{} is not a port", request.rendezvous_port)))?;
    Ok(Worker {
        trains: request.roles.iter().any(|role| role == "trainer"),
        evaluates: request.roles.iter().any(|role| role == "evaluator"),
        measures: request.roles.iter().any(|role| role == "measurer"),
        device: request.device.clone(),
        slots: request.slots,
        rendezvous: (request.rendezvous_host.clone(), port),
        last_heard: ticks,
    })
}

impl Scheduler {
    fn lease(
        &self,
        request: v1::LeaseRequest,
    ) -> Result<mpsc::UnboundedReceiver<Result<v1::LeaseResponse, Status>>, Error> {
        let known = worker(&request, self.now().ticks)?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let running = request.running.into_iter().map(|id| key(Some(id))).collect::<Result<Vec<_>, _>>()?;
        info!(worker = %request.worker, roles = ?request.roles, slots = known.slots, running = running.len(), "worker leased");
        let terms = self.terms;
        let ms = |duration: std::time::Duration| duration.as_millis() as u64;
        let terms = Instruction::Terms(v1::LeaseTerms {
            heartbeat_ms: ms(terms.heartbeat),
            collective_timeout_ms: ms(terms.collective),
            stall_timeout_ms: ms(terms.stall),
        });
        send(&sender, terms);
        // It may have been away when they were erased.
        let copies = self.journal.read(|state| Told::default().next(state));
        if !copies.is_empty() {
            send(&sender, Instruction::Erased(v1::Erased { sha256: copies }));
        }
        // One guard: a worker must not be seen with its stream, its lease or its claims alone.
        let mut fleet = self.fleet();
        fleet.workers.insert(request.worker.clone(), known);
        self.claim(&mut fleet, &request.worker, running, &sender);
        self.open_stream(&request.worker, sender);
        drop(fleet);
        self.fleet_changed();
        Ok(receiver)
    }

    /// What the worker says it still runs becomes its own again where the state asks for it, is
    /// cancelled where it does not; what it does not mention never reached it.
    fn claim(&self, fleet: &mut Fleet, worker: &str, running: Vec<Key>, stream: &Instructions) {
        fleet.forget_unclaimed(worker, &running);
        for key in running {
            if self.journal.read(|state| asked(state, &key)) {
                fleet.adopt(key, worker);
            } else {
                send(stream, Instruction::Cancel(wire_key(&key)));
            }
        }
    }

    fn hear(&self, request: v1::HeartbeatRequest) -> Result<bool, Error> {
        let ticks = self.now().ticks;
        let mut fleet = self.fleet();
        let unknown = || Error::UnknownWorker(request.worker.clone());
        fleet.workers.get_mut(&request.worker).ok_or_else(unknown)?.last_heard = ticks;
        if request.id.is_none() {
            return Ok(false);
        }
        let key = key(request.id.clone())?;
        if !fleet.holds(&key, &request.worker) {
            return Ok(true);
        }
        if let Some(assigned) = fleet.assigned.get_mut(&key) {
            assigned.progressed |= request.progressed;
            // Of a gang's workers, the leader's word counts.
            if assigned.shares.first().is_some_and(|share| share.worker == request.worker) {
                assigned.progress = Some(progress(&request));
            }
        }
        drop(fleet);
        self.fleet_changed();
        Ok(false)
    }

    async fn outcome(&self, request: v1::ReportOutcomeRequest) -> Result<bool, Error> {
        let key = key(request.id)?;
        // After a restart of this process a report may come before its worker's new lease.
        let of_another = |fleet: &Fleet| fleet.assigned.contains_key(&key) && !fleet.holds(&key, &request.worker);
        if of_another(&self.fleet()) {
            return Ok(false);
        }
        let outcome = request.outcome.ok_or_else(|| Invalid::new("outcome", "is missing"))?;
        let accepted = match outcome {
            Outcome::TrainedJson(json) => {
                let candidate: Candidate = from_json("trained_json", &json)?;
                let attempt = key.attempt;
                self.change(&key, RunEvent::Trained { attempt, candidate: Box::new(candidate) }).await?
            }
            Outcome::ScoresJson(json) => self.judge(&key, from_json("scores_json", &json)?).await?,
            Outcome::MeasuredJson(json) => self.measured(&key, from_json("measured_json", &json)?).await?,
            Outcome::Failed(failure) if key.stage == Stage::Measure => {
                let counts = failure.kind() != v1::FailureKind::Unavailable;
                self.not_measured(&key, failure.reason, counts).await?;
                return Ok(true);
            }
            Outcome::Failed(failure) => {
                let ending = match failure.kind() {
                    v1::FailureKind::Permanent => Ending::Permanent,
                    v1::FailureKind::Spoiled => Ending::Spoiled,
                    _ if failure.progressed => Ending::Progressed,
                    v1::FailureKind::Unavailable => Ending::Unavailable,
                    v1::FailureKind::Retryable | v1::FailureKind::Unspecified => Ending::Failed,
                };
                // It takes the assignment away as well; by now the next attempt may have begun.
                self.end(key, failure.reason, ending).await?;
                return Ok(true);
            }
        };
        self.unassign(&key, Some(&request.worker));
        Ok(accepted)
    }

    pub(crate) async fn judge(&self, key: &Key, scores: Vec<Vec<Score>>) -> Result<bool, Error> {
        let key = key.clone();
        self.commit(move |state| {
            let current = planning::pipeline(state, &key.pipeline)?;
            let run = current.runs.get(&key.run).ok_or(planning::Refusal::UnknownRun(key.run))?;
            let RunState::Evaluating { candidate } = &run.state else { return Ok((false, Vec::new())) };
            let (report, version) = evaluation::conclude(current, run, candidate, &scores);
            info!(run = key.run, pipeline = %key.pipeline, verdict = report.verdict.name(), reasons = ?report.verdict.reasons(), "run judged");
            let change = Box::new(RunEvent::Judged { report, version });
            let kind = EventKind::Run { run: key.run, change };
            Ok((true, vec![Event { pipeline: key.pipeline, kind }]))
        })
        .await
    }
}

fn send(stream: &Instructions, instruction: Instruction) {
    let instruction = Some(instruction);
    // A closed stream is found by the lease running out.
    let _ = stream.send(Ok(v1::LeaseResponse { instruction }));
}

fn progress(request: &v1::HeartbeatRequest) -> v1::Progress {
    let (step, total) = (request.step, request.total_steps);
    v1::Progress {
        stage: request.stage.clone(),
        step,
        total_steps: total,
        loss: request.loss,
        progress_percentage: (100 * step).checked_div(total).unwrap_or(0) as u32,
        estimated_remaining_seconds: request.estimated_remaining_seconds,
    }
}

/// The gRPC face of the scheduler for workers.
pub struct Workers(pub Arc<Scheduler>);

#[tonic::async_trait]
impl WorkerService for Workers {
    type LeaseStream = Pin<Box<dyn Stream<Item = Result<v1::LeaseResponse, Status>> + Send>>;

    async fn lease(&self, request: Request<v1::LeaseRequest>) -> Result<Response<Self::LeaseStream>, Status> {
        let receiver = self.0.lease(request.into_inner())?;
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receiver))))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let stop = self.0.hear(request.into_inner())?;
        Ok(Response::new(v1::HeartbeatResponse { stop }))
    }

    async fn report_outcome(
        &self,
        request: Request<v1::ReportOutcomeRequest>,
    ) -> Result<Response<v1::ReportOutcomeResponse>, Status> {
        let accepted = self.0.outcome(request.into_inner()).await?;
        Ok(Response::new(v1::ReportOutcomeResponse { accepted }))
    }
}
