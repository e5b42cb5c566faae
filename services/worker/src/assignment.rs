//! Carries one assignment out and reports how it ended.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::evalset::EvalSet;
use domain::manifest::Manifest;
use domain::shift::Measured;
use evaluator::attempt::Subject;
use evaluator::score::Fault;
use perennial_proto::convert::{from_json, to_json};
use perennial_proto::v1;
use perennial_proto::v1::assignment::Work;
use perennial_proto::v1::report_outcome_request::Outcome;
use tokio::time::Instant;
use tracing::{info, warn};
use trainer::attempt::{Ended, Part};
use trainer::gang::{Meeting, Ranks};

use crate::agent::{ANSWER_WITHIN, Worker};
use crate::child::chain;

/// How far an assignment is.
#[derive(Clone, Debug, Default)]
pub struct At {
    pub stage: String,
    pub step: u64,
    pub total: u64,
    pub loss: f64,
    /// When the stage's first progress came, and the step it began with: not the first after a resume.
    pub began: Option<(Instant, u64)>,
    /// A checkpoint of this attempt is in the store.
    pub progressed: bool,
}

impl At {
    /// Takes a step of `stage` down.
    fn step(&mut self, stage: &str, step: u64) {
        if self.stage != stage {
            (self.stage, self.began) = (stage.to_owned(), None);
        }
        self.step = step;
        self.began.get_or_insert_with(|| (Instant::now(), step));
    }

    /// Until the stage ends, at its pace so far; zero before that can be told.
    pub fn remaining_seconds(&self) -> f64 {
        let Some((began, first)) = self.began else { return 0.0 };
        let (done, left) = (self.step.saturating_sub(first), self.total.saturating_sub(self.step));
        if done == 0 { 0.0 } else { began.elapsed().as_secs_f64() / done as f64 * left as f64 }
    }
}

pub type Shared = Arc<Mutex<At>>;

/// The deadlines of the work, as the lease's terms set them.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub collective_ms: u64,
    pub stall: Duration,
}

/// What an assignment may use.
#[derive(Clone, Debug)]
pub struct Means {
    /// Of the worker's, one a rank: on GPUs, the devices' numbers.
    pub slots: Vec<u32>,
    pub limits: Limits,
}

/// Between two tries to report.
const REPORT_AGAIN: Duration = Duration::from_millis(500);

/// Works, cleans up, and reports until the control role has answered. False if it refused to hear.
pub async fn work(worker: Arc<Worker>, assignment: v1::Assignment, scratch: PathBuf, means: Means, at: Shared) -> bool {
    let Some(id) = assignment.id.clone() else { return true };
    let scratch = Scratch(scratch);
    let outcome = match carry_out(&worker, assignment, &scratch, means, &at).await {
        Ok(Some(outcome)) => outcome,
        Ok(None) => return true,
        Err(failure) => {
            warn!(run = id.run, attempt = id.attempt, stage = id.stage, reason = failure.reason, "failed");
            Outcome::Failed(failure)
        }
    };
    drop(scratch);
    report(&worker, id, outcome).await
}

/// A folder that is empty at the start and gone at the end.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn kind(permanent: bool, unavailable: bool) -> i32 {
    match (permanent, unavailable) {
        (true, _) => v1::FailureKind::Permanent,
        (false, true) => v1::FailureKind::Unavailable,
        (false, false) => v1::FailureKind::Retryable,
    }
    .into()
}

fn broken(reason: impl ToString) -> v1::Failure {
    v1::Failure { reason: reason.to_string(), progressed: false, kind: v1::FailureKind::Retryable.into() }
}

/// None: another worker of the gang reports.
async fn carry_out(
    worker: &Worker,
    assignment: v1::Assignment,
    scratch: &Scratch,
    means: Means,
    at: &Shared,
) -> Result<Option<Outcome>, v1::Failure> {
    let id = assignment.id.ok_or_else(|| broken("the assignment has no id"))?;
    let manifest: Manifest = from_json("manifest_json", &assignment.manifest_json).map_err(broken)?;
    let _ = tokio::fs::remove_dir_all(&scratch.0).await;
    tokio::fs::create_dir_all(&scratch.0)
        .await
        .map_err(|e| broken(format!("cannot create {}: {e}", scratch.0.display())))?;
    match assignment.work {
        Some(Work::Train(work)) => train(worker, manifest, &id, work, scratch, means, at).await,
        Some(Work::Evaluate(work)) => evaluate(worker, &manifest, work, scratch, means, at).await.map(Some),
        Some(Work::Measure(v1::MeasureWork {})) => measure(worker, &manifest, scratch, means, at).await.map(Some),
        None => Err(broken("the assignment has no work")),
    }
}

async fn train(
    worker: &Worker,
    manifest: Manifest,
    id: &v1::AssignmentId,
    work: v1::TrainWork,
    scratch: &Scratch,
    Means { slots, limits }: Means,
    at: &Shared,
) -> Result<Option<Outcome>, v1::Failure> {
    let port = u16::try_from(work.rendezvous_port).map_err(broken)?;
    let part = Part {
        manifest,
        attempt: id.attempt,
        ranks: Ranks { first: work.first_rank, slots, world: work.world_size },
        meeting: Meeting {
            host: work.rendezvous_host,
            port,
            prefix: format!("{}/runs/{}/{}", id.pipeline, id.run, id.attempt),
            own_host: worker.host.clone(),
            patience_ms: limits.stall.as_millis() as u64,
            timeout_ms: limits.collective_ms,
        },
        stall: limits.stall,
        scratch: scratch.0.clone(),
    };
    let mut progress = |step: trainer::job::Progress, progressed| {
        let mut at = at.lock().expect("no holder panics");
        at.step(&format!("{:?}", step.phase).to_lowercase(), step.step);
        (at.total, at.progressed) = (step.total, progressed);
        at.loss = step.loss.unwrap_or(f64::NAN);
    };
    match trainer::attempt::run(&worker.node, &part, &mut progress).await {
        Ok(candidate) => Ok(candidate.map(|candidate| Outcome::TrainedJson(to_json(&candidate)))),
        Err(Ended { error, progressed }) => {
            let kind = kind(error.is_permanent(), error.is_unavailable());
            Err(v1::Failure { reason: chain(&error), progressed, kind })
        }
    }
}

async fn evaluate(
    worker: &Worker,
    manifest: &Manifest,
    work: v1::EvaluateWork,
    scratch: &Scratch,
    Means { slots, limits }: Means,
    at: &Shared,
) -> Result<Outcome, v1::Failure> {
    let subjects = work.subjects.into_iter().map(|wire| subject(manifest, wire)).collect::<Result<Vec<_>, _>>()?;
    let total = subjects.iter().map(Subject::items).sum();
    let mut done = |rows| at.lock().expect("no holder panics").step("evaluate", rows);
    done(0);
    at.lock().expect("no holder panics").total = total;
    let node = evaluator(worker, &slots, limits);
    let scores = evaluator::attempt::run(&node, manifest, &subjects, scratch.0.clone(), &mut done).await;
    scores.map(|scores| Outcome::ScoresJson(to_json(&scores))).map_err(not_evaluated)
}

async fn measure(
    worker: &Worker,
    manifest: &Manifest,
    scratch: &Scratch,
    Means { slots, limits }: Means,
    at: &Shared,
) -> Result<Outcome, v1::Failure> {
    let version = manifest.parent.as_ref().map(|parent| parent.version);
    let version = version.ok_or_else(|| broken("there is no version to compare with"))?;
    let mut done = |rows| at.lock().expect("no holder panics").step("measure", rows);
    done(0);
    let node = evaluator(worker, &slots, limits);
    let shifts = evaluator::attempt::measure(&node, manifest, scratch.0.clone(), &mut done).await;
    let measured = shifts.map(|shifts| Measured::new(version, &manifest.chunks[0].task, shifts));
    measured.map(|measured| Outcome::MeasuredJson(to_json(&measured))).map_err(not_evaluated)
}

fn evaluator<'a>(worker: &'a Worker, slots: &[u32], limits: Limits) -> evaluator::attempt::Node<'a> {
    evaluator::attempt::Node {
        fetcher: &worker.node.fetcher,
        program: worker.node.program.clone(),
        device: match worker.node.device.as_str() {
            "cuda" => format!("cuda:{}", slots.first().copied().unwrap_or(0)),
            other => other.to_owned(),
        },
        stall: limits.stall,
    }
}

fn not_evaluated(error: evaluator::attempt::Error) -> v1::Failure {
    let kind = match error.fault() {
        Fault::Spoiled => v1::FailureKind::Spoiled.into(),
        fault => kind(fault == Fault::Permanent, error.is_unavailable()),
    };
    v1::Failure { reason: chain(&error), progressed: false, kind }
}

fn subject(manifest: &Manifest, wire: v1::Subject) -> Result<Subject, v1::Failure> {
    let files = if wire.files_json.is_empty() {
        Vec::new()
    } else {
        from_json("files_json", &wire.files_json).map_err(broken)?
    };
    let candidate = match wire.candidate_json.is_empty() {
        true => None,
        false => Some(from_json("candidate_json", &wire.candidate_json).map_err(broken)?),
    };
    let wanted = |set: &&EvalSet| wire.eval_sets.contains(&set.digest());
    let sets = manifest.eval_sets.iter().filter(wanted).cloned().collect();
    Ok(Subject { files, candidate, sets })
}

async fn report(worker: &Worker, id: v1::AssignmentId, outcome: Outcome) -> bool {
    let request =
        v1::ReportOutcomeRequest { worker: worker.name.clone(), id: Some(id.clone()), outcome: Some(outcome) };
    loop {
        let mut request = tonic::Request::new(request.clone());
        request.set_timeout(ANSWER_WITHIN);
        match worker.client.clone().report_outcome(request).await {
            Ok(answer) => {
                let accepted = answer.into_inner().accepted;
                info!(run = id.run, attempt = id.attempt, stage = id.stage, accepted, "reported");
                return true;
            }
            Err(status) if gone(status.code()) => tokio::time::sleep(REPORT_AGAIN).await,
            Err(status) => {
                warn!(run = id.run, attempt = id.attempt, server_says = status.message(), "the report was refused");
                return false;
            }
        }
    }
}

/// Whether the control role may be back later.
fn gone(code: tonic::Code) -> bool {
    use tonic::Code::{Aborted, Cancelled, DeadlineExceeded, Internal, Unavailable, Unknown};
    matches!(code, Unavailable | Unknown | Cancelled | DeadlineExceeded | Internal | Aborted)
}
