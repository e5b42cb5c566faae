//! Carries one assignment out and reports how it ended.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::evalset::EvalSet;
use domain::manifest::Manifest;
use evaluator::attempt::Subject;
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
    /// When its first step began.
    pub started: Option<Instant>,
}

pub type Shared = Arc<Mutex<At>>;

/// The deadlines of the work, as the lease's terms set them.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub collective_ms: u64,
    pub stall: Duration,
}

/// Between two tries to report.
const REPORT_AGAIN: Duration = Duration::from_millis(500);

/// Works, cleans up, and reports until the control role has answered. False if it refused to hear.
pub async fn work(
    worker: Arc<Worker>,
    assignment: v1::Assignment,
    scratch: PathBuf,
    limits: Limits,
    at: Shared,
) -> bool {
    let Some(id) = assignment.id.clone() else { return true };
    let scratch = Scratch(scratch);
    let outcome = match carry_out(&worker, assignment, &scratch, limits, &at).await {
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

fn broken(reason: impl ToString) -> v1::Failure {
    v1::Failure { reason: reason.to_string(), progressed: false, permanent: false }
}

/// None: another worker of the gang reports.
async fn carry_out(
    worker: &Worker,
    assignment: v1::Assignment,
    scratch: &Scratch,
    limits: Limits,
    at: &Shared,
) -> Result<Option<Outcome>, v1::Failure> {
    let id = assignment.id.ok_or_else(|| broken("the assignment has no id"))?;
    let manifest: Manifest = from_json("manifest_json", &assignment.manifest_json).map_err(broken)?;
    let _ = tokio::fs::remove_dir_all(&scratch.0).await;
    tokio::fs::create_dir_all(&scratch.0)
        .await
        .map_err(|e| broken(format!("cannot create {}: {e}", scratch.0.display())))?;
    match assignment.work {
        Some(Work::Train(work)) => train(worker, manifest, &id, work, scratch, limits, at).await,
        Some(Work::Evaluate(work)) => evaluate(worker, &manifest, work, scratch, limits, at).await.map(Some),
        None => Err(broken("the assignment has no work")),
    }
}

async fn train(
    worker: &Worker,
    manifest: Manifest,
    id: &v1::AssignmentId,
    work: v1::TrainWork,
    scratch: &Scratch,
    limits: Limits,
    at: &Shared,
) -> Result<Option<Outcome>, v1::Failure> {
    let port = u16::try_from(work.rendezvous_port).map_err(broken)?;
    let part = Part {
        manifest,
        attempt: id.attempt,
        ranks: Ranks { first: work.first_rank, ranks: work.ranks, world: work.world_size },
        meeting: Meeting {
            host: work.rendezvous_host,
            port,
            prefix: format!("{}/runs/{}/{}", id.pipeline, id.run, id.attempt),
            own_host: worker.host.clone(),
            timeout_ms: limits.collective_ms,
        },
        stall: limits.stall,
        scratch: scratch.0.clone(),
    };
    let mut progress = |step: trainer::job::Progress| {
        let mut at = at.lock().expect("no holder panics");
        at.stage = format!("{:?}", step.phase).to_lowercase();
        (at.step, at.total) = (step.step, step.total);
        at.loss = step.loss.unwrap_or(f64::NAN);
        at.started.get_or_insert_with(Instant::now);
    };
    match trainer::attempt::run(&worker.node, &part, &mut progress).await {
        Ok(candidate) => Ok(candidate.map(|candidate| Outcome::TrainedJson(to_json(&candidate)))),
        Err(Ended { error, progressed }) => {
            Err(v1::Failure { reason: chain(&error), progressed, permanent: error.is_permanent() })
        }
    }
}

async fn evaluate(
    worker: &Worker,
    manifest: &Manifest,
    work: v1::EvaluateWork,
    scratch: &Scratch,
    limits: Limits,
    at: &Shared,
) -> Result<Outcome, v1::Failure> {
    let subjects = work.subjects.into_iter().map(|wire| subject(manifest, wire)).collect::<Result<Vec<_>, _>>()?;
    let total = subjects.iter().map(Subject::items).sum();
    *at.lock().expect("no holder panics") =
        At { stage: "evaluate".to_owned(), total, started: Some(Instant::now()), ..At::default() };
    let mut done = |rows| at.lock().expect("no holder panics").step = rows;
    let node = evaluator::attempt::Node {
        fetcher: &worker.node.fetcher,
        program: worker.node.program.clone(),
        device: worker.node.device.clone(),
        stall: limits.stall,
    };
    let scores = evaluator::attempt::run(&node, manifest, &subjects, scratch.0.clone(), &mut done).await;
    let failure = |error: evaluator::attempt::Error| v1::Failure {
        reason: chain(&error),
        progressed: false,
        permanent: error.is_permanent(),
    };
    scores.map(|scores| Outcome::ScoresJson(to_json(&scores))).map_err(failure)
}

fn subject(manifest: &Manifest, wire: v1::Subject) -> Result<Subject, v1::Failure> {
    let files = if wire.files_json.is_empty() {
        Vec::new()
    } else {
        from_json("files_json", &wire.files_json).map_err(broken)?
    };
    let wanted = |set: &&EvalSet| wire.eval_sets.contains(&set.digest());
    let sets = manifest.eval_sets.iter().filter(wanted).cloned().collect();
    Ok(Subject { files, sets })
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
