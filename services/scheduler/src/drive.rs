//! Carries out what [`crate::reconcile`] decides: records it, then tells the workers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use domain::id::RunId;
use domain::labelled;
use domain::manifest::Manifest;
use domain::planning::{self, Refusal};
use domain::run::{Ending, RunEvent, RunState};
use domain::state::{Event, EventKind, State};
use perennial_proto::convert::to_json;
use perennial_proto::v1;
use store::journal::Journal;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::erased::Told;
use crate::error::Error;
use crate::evaluation;
use crate::fleet::{Assigned, Fleet, Key, Moment, Share, Stage};
use crate::reconcile::{Action, Limits, reconcile};

/// The workers' time limits.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub heartbeat: Duration,
    pub lease: Duration,
    pub collective: Duration,
    /// Longest silence of a rank or an evaluation.
    pub stall: Duration,
}

pub(crate) type Instructions = mpsc::UnboundedSender<Result<v1::LeaseResponse, tonic::Status>>;

/// The scheduler's shell: journal, fleet, and the open lease streams.
pub struct Scheduler {
    pub(crate) journal: Arc<Journal>,
    pub(crate) terms: Terms,
    clock: fn() -> Moment,
    listening_since: u64,
    fleet: Mutex<Fleet>,
    streams: Mutex<BTreeMap<String, Instructions>>,
    /// Counts changes of the fleet and of progress.
    changed: watch::Sender<u64>,
    shutdown: CancellationToken,
}

impl Scheduler {
    pub fn new(journal: Arc<Journal>, terms: Terms, clock: fn() -> Moment, shutdown: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            journal,
            terms,
            clock,
            listening_since: clock().ticks,
            fleet: Mutex::default(),
            streams: Mutex::default(),
            changed: watch::Sender::new(0),
            shutdown,
        })
    }

    /// Reconciles at every change, and at least once a heartbeat, until shutdown or until the log closes.
    pub async fn run(self: Arc<Self>) {
        let mut journal = self.journal.watch();
        let mut fleet = self.changed.subscribe();
        let mut told = Told::default();
        self.journal.read(|state| told.next(state));
        loop {
            for action in self.decide() {
                if let Err(error) = self.act(action).await {
                    warn!(error = %perennial_proto::status::chain(&error), "action not carried out");
                }
            }
            // After the work that reads them was taken away.
            let copies = self.journal.read(|state| told.next(state));
            if !copies.is_empty() {
                self.tell_all(&v1::lease_response::Instruction::Erased(v1::Erased { sha256: copies }));
            }
            tokio::select! {
                () = self.shutdown.cancelled() => break,
                closed = journal.changed() => if closed.is_err() { break },
                _ = fleet.changed() => {}
                () = tokio::time::sleep(self.terms.heartbeat) => {}
            }
        }
        // Open lease streams would keep the server from closing.
        self.streams().clear();
    }

    pub(crate) fn fleet(&self) -> MutexGuard<'_, Fleet> {
        self.fleet.lock().expect("no holder panics")
    }

    fn streams(&self) -> MutexGuard<'_, BTreeMap<String, Instructions>> {
        self.streams.lock().expect("no holder panics")
    }

    pub(crate) fn now(&self) -> Moment {
        (self.clock)()
    }

    pub(crate) fn fleet_changed(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    pub(crate) fn watch_fleet(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn closing(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    pub(crate) fn open_stream(&self, worker: &str, stream: Instructions) {
        self.streams().insert(worker.to_owned(), stream);
    }

    fn decide(&self) -> Vec<Action> {
        // A run's pause is dated by the log, which a machine whose clock is ahead may have written.
        let now = Moment { at: self.journal.now(), ..self.now() };
        let limits = Limits { lease_ms: self.terms.lease.as_millis() as u64, listening_since: self.listening_since };
        let mut fleet = self.fleet();
        fleet.forget_silent(now.ticks, limits.lease_ms);
        self.streams().retain(|worker, _| fleet.workers.contains_key(worker));
        self.journal.read(|state| reconcile(now, state, &fleet, limits))
    }

    async fn act(&self, action: Action) -> Result<(), Error> {
        match action {
            Action::Queue { pipeline } => {
                self.commit(move |state| planning::start_run(state, &pipeline, &[])).await?;
            }
            Action::Seal { pipeline, chunk } => {
                self.commit(move |state| Ok(((), labelled::seal(state, &pipeline, &chunk)))).await?;
            }
            Action::Start { pipeline, run, gang } => self.start(RunId { pipeline, number: run }, gang).await?,
            Action::Lose { key, reason } if key.stage == Stage::Measure => {
                self.not_measured(&key, reason, true).await?;
            }
            Action::Lose { key, reason } => self.end(key, reason, Ending::Lost).await?,
            Action::Evaluate { key, worker } => self.evaluate(key, worker),
            Action::Measure { key, worker } => self.measure(key, worker),
            Action::JudgeUnscored { key } => drop(self.judge(&key, Vec::new()).await?),
            Action::Drop { key } => self.unassign(&key, None),
        }
        Ok(())
    }

    pub(crate) async fn commit<T, F>(&self, decide: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&State) -> Result<(T, Vec<Event>), Refusal> + Send + 'static,
    {
        let swapped = move |state: &State, _at| decide(state).map(|(value, events)| (events, value));
        Ok(self.journal.commit(swapped).await?)
    }

    /// Records a change of the run that `key` belongs to, if the run still is where `key` says.
    pub(crate) async fn change(&self, key: &Key, change: RunEvent) -> Result<bool, Error> {
        let key = key.clone();
        self.commit(move |state| {
            let current = planning::pipeline(state, &key.pipeline)?;
            let run = current.runs.get(&key.run).ok_or(Refusal::UnknownRun(key.run))?;
            let current = crate::reconcile::wanted(&key.pipeline, run).as_ref() == Some(&key);
            let kind = EventKind::Run { run: key.run, change: Box::new(change) };
            let event = Event { pipeline: key.pipeline, kind };
            Ok((current, if current { vec![event] } else { Vec::new() }))
        })
        .await
    }

    async fn start(&self, run: RunId, gang: Vec<Share>) -> Result<(), Error> {
        let id = run.clone();
        let started = self.commit(move |state| {
            let current = planning::pipeline(state, &id.pipeline)?;
            let known = current.runs.get(&id.number).ok_or(Refusal::UnknownRun(id.number))?;
            let attempt = known.attempts + 1;
            let kind = EventKind::Run { run: id.number, change: Box::new(RunEvent::Started) };
            let queued = known.state == RunState::Queued;
            let events = if queued { vec![Event { pipeline: id.pipeline, kind }] } else { Vec::new() };
            Ok((queued.then(|| (attempt, known.manifest.clone())), events))
        });
        let Some((attempt, manifest)) = started.await? else { return Ok(()) };
        let key = Key { pipeline: run.pipeline, run: run.number, attempt, stage: Stage::Train };
        info!(run = %key.run, pipeline = %key.pipeline, attempt, ranks = manifest.pipeline.resources.ranks, "attempt started");
        self.assign(key, gang, &manifest, |share, rendezvous| {
            v1::assignment::Work::Train(v1::TrainWork {
                world_size: manifest.pipeline.resources.ranks.get(),
                first_rank: share.first,
                ranks: share.ranks,
                rendezvous_host: rendezvous.0.clone(),
                rendezvous_port: u32::from(rendezvous.1),
            })
        });
        Ok(())
    }

    fn evaluate(&self, key: Key, worker: String) {
        let work = self.journal.read(|state| {
            let current = state.pipelines.get(&key.pipeline)?;
            let run = current.runs.get(&key.run)?;
            let RunState::Evaluating { candidate } = &run.state else { return None };
            Some((run.manifest.clone(), evaluation::subjects(current, run, candidate)))
        });
        let Some((manifest, subjects)) = work else { return };
        let share = Share { worker, first: 0, ranks: 1 };
        self.assign(key, vec![share], &manifest, |_, _| {
            v1::assignment::Work::Evaluate(v1::EvaluateWork { subjects: subjects.clone() })
        });
    }

    /// Remembers who works on `key` and tells them. A worker that cannot be told has gone, and with it the attempt.
    pub(crate) fn assign(
        &self,
        key: Key,
        shares: Vec<Share>,
        manifest: &Manifest,
        work: impl Fn(&Share, &(String, u16)) -> v1::assignment::Work,
    ) {
        let mut fleet = self.fleet();
        let leader = fleet.workers.get(&shares[0].worker);
        let rendezvous = leader.map(|worker| worker.rendezvous.clone()).unwrap_or_default();
        for share in &shares {
            let assignment = v1::Assignment {
                id: Some(wire_key(&key)),
                manifest_json: to_json(manifest),
                work: Some(work(share, &rendezvous)),
            };
            if !self.tell(&share.worker, v1::lease_response::Instruction::Assignment(assignment)) {
                fleet.workers.remove(&share.worker);
            }
        }
        fleet.assigned.insert(key, Assigned { shares, ..Assigned::default() });
    }

    fn tell_all(&self, instruction: &v1::lease_response::Instruction) {
        for stream in self.streams().values() {
            // One that is gone hears it with its next lease.
            let _ = stream.send(Ok(v1::LeaseResponse { instruction: Some(instruction.clone()) }));
        }
    }

    /// Whether the worker's stream still takes instructions.
    fn tell(&self, worker: &str, instruction: v1::lease_response::Instruction) -> bool {
        let told = self.streams().get(worker).map(|stream| {
            let instruction = Some(instruction);
            stream.send(Ok(v1::LeaseResponse { instruction }))
        });
        matches!(told, Some(Ok(())))
    }

    /// Ends an attempt and takes it from its workers. One that left a checkpoint has got somewhere, however it ended.
    pub(crate) async fn end(&self, key: Key, reason: String, ending: Ending) -> Result<(), Error> {
        let progressed = self.fleet().assigned.get(&key).is_some_and(|assigned| assigned.progressed);
        let settled = matches!(ending, Ending::Permanent | Ending::Spoiled);
        let ending = if progressed && !settled { Ending::Progressed } else { ending };
        warn!(run = %key.run, pipeline = %key.pipeline, attempt = key.attempt, stage = key.stage.name(), ?ending, %reason, "attempt ended");
        let attempt = key.attempt;
        let ended = self.change(&key, RunEvent::AttemptEnded { attempt, reason, ending }).await;
        self.unassign(&key, None);
        ended.map(|_| ())
    }

    /// Takes `key` from its workers; `done` needs not be told.
    pub(crate) fn unassign(&self, key: &Key, done: Option<&str>) {
        let removed = self.fleet().assigned.remove(key);
        for share in removed.iter().flat_map(|assigned| &assigned.shares) {
            if Some(share.worker.as_str()) != done {
                self.tell(&share.worker, v1::lease_response::Instruction::Cancel(wire_key(key)));
            }
        }
        self.fleet_changed();
    }
}

pub(crate) fn wire_key(key: &Key) -> v1::AssignmentId {
    v1::AssignmentId {
        pipeline: key.pipeline.to_string(),
        run: key.run,
        attempt: key.attempt,
        stage: key.stage.name().to_owned(),
    }
}
