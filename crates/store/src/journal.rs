//! The control plane's state, and the one way to change it: decide, record, apply.
//!
//! One task owns the log. It lets every waiting caller decide, one after the other, on the state as
//! the others before it will leave it; puts all their events into one record; and answers when that
//! is durable. So a burst of commits costs one write, and no caller sees another's unfinished change.

mod time;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use domain::Timestamp;
use domain::chunk::ChunkState;
use domain::id::{ChunkId, PipelineId};
use domain::state::{Event, Inapplicable, State};
use object_store::ObjectStore;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::log::{CommitLog, Error, Follower, Options};
use time::Time;

/// Callers waiting at a time; more wait to be let in.
const QUEUE: usize = 1024;
/// Callers served by one record at most.
const GROUP: usize = 256;
/// A caller may wait for the group before its own, a snapshot, and its own group.
const WAITS: u32 = 4;

#[derive(Debug, thiserror::Error)]
pub enum CommitError<X> {
    /// The caller's own decision; nothing was committed.
    #[error(transparent)]
    Refused(X),
    #[error("a decided event does not apply; this is a bug")]
    Inapplicable(#[source] Inapplicable),
    /// The change may or may not have been recorded.
    #[error("the journal is closed")]
    Closed(#[source] Arc<Error>),
    /// Nothing was to change, and the store does not tell whether what that was decided on is the newest state.
    #[error("it cannot be found out whether another has taken the commit log over")]
    Unconfirmed(#[source] Arc<Error>),
    /// The change may still be recorded.
    #[error("no answer from the commit log within {} s", .0.as_secs_f32())]
    Timeout(Duration),
}

/// A handle; clones share the journal.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Box<dyn Job>>,
    patience: Duration,
}

struct Shared {
    state: RwLock<State>,
    head: watch::Sender<u64>,
    closed: watch::Sender<Option<Arc<Error>>>,
    time: Time,
}

impl Journal {
    /// Takes the log over, with [`Options::default`].
    pub async fn open(store: Arc<dyn ObjectStore>, writer: &str, clock: fn() -> Timestamp) -> Result<Self, Error> {
        Self::open_with(store, writer, clock, Options::default()).await
    }

    pub async fn open_with(
        store: Arc<dyn ObjectStore>,
        writer: &str,
        clock: fn() -> Timestamp,
        options: Options,
    ) -> Result<Self, Error> {
        Self::take_over(Follower::open(store, options).await?, writer, clock).await
    }

    /// Takes over the log that was followed.
    pub async fn take_over(follower: Follower, writer: &str, clock: fn() -> Timestamp) -> Result<Self, Error> {
        let options = follower.options();
        let (log, state) = follower.take_over(writer, clock()).await?;
        let shared = Arc::new(Shared {
            state: RwLock::new(state.clone()),
            head: watch::Sender::new(log.head()),
            closed: watch::Sender::new(None),
            time: Time::new(clock, log.time(0)),
        });
        let (jobs, queue) = mpsc::channel(QUEUE);
        let writer = Writer { log, tentative: state, shared: shared.clone(), sweep: None };
        tokio::spawn(writer.run(queue));
        Ok(Self { shared, jobs, patience: options.op_timeout * WAITS })
    }

    /// Looks at the state after the newest record. `look` must not block.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.shared.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until what [`Self::read`] shows is no older than this call: another may have taken the log over, and this one
    /// not have noticed yet.
    pub async fn confirm<X: Send + 'static>(&self) -> Result<(), CommitError<X>> {
        self.commit(|_, _| Ok((Vec::new(), ()))).await
    }

    /// What a record made now would be dated.
    pub fn now(&self) -> Timestamp {
        self.shared.time.now()
    }

    /// The number of the newest record, and every change of it.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.shared.head.subscribe()
    }

    /// Waits until the rows of what the pipeline has received by now are checked, of `one` chunk or of all, as long as a commit may
    /// take. Else it names a chunk whose are not.
    pub async fn rows_checked(&self, pipeline: &PipelineId, one: Option<&ChunkId>) -> Result<(), ChunkId> {
        let mut changed = self.watch();
        let mut left = self.read(|state| unchecked(state, pipeline));
        left.retain(|chunk| one.is_none_or(|one| one == chunk));
        let waiting = async {
            while !left.is_empty() && changed.changed().await.is_ok() {
                self.read(|state| left.retain(|chunk| is_unchecked(state, pipeline, chunk)));
            }
        };
        // What is left says whether it was long enough.
        let _ = tokio::time::timeout(self.patience, waiting).await;
        left.into_iter().next().map_or(Ok(()), Err)
    }

    /// Records what `decide` decides on the newest state, and returns its answer once that is durable.
    ///
    /// An error of `decide` commits nothing; neither do no events, but they are answered all the same.
    pub async fn commit<T, X>(
        &self,
        decide: impl FnOnce(&State, Timestamp) -> Result<(Vec<Event>, T), X> + Send + 'static,
    ) -> Result<T, CommitError<X>>
    where
        T: Send + 'static,
        X: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Decision { decide: Some(decide), outcome: None, reply });
        let exchange = async {
            let sent = self.jobs.send(job).await;
            match sent {
                Ok(()) => answer.await.ok(),
                Err(_) => None,
            }
        };
        match tokio::time::timeout(self.patience, exchange).await {
            Ok(Some(outcome)) => outcome,
            Ok(None) => Err(CommitError::Closed(self.closed().await)),
            Err(_) => Err(CommitError::Timeout(self.patience)),
        }
    }

    pub fn is_closed(&self) -> bool {
        self.shared.closed.borrow().is_some()
    }

    /// Waits until the journal is dead, and says why. There is no way back but a new process.
    pub async fn closed(&self) -> Arc<Error> {
        let mut closed = self.shared.closed.subscribe();
        let reason = closed.wait_for(Option::is_some).await;
        reason.ok().and_then(|reason| reason.clone()).unwrap_or_else(|| Arc::new(Error::Closed))
    }
}

/// One caller's decision, its types forgotten.
trait Job: Send {
    /// The events it wants; none if it refuses.
    fn decide(&mut self, state: &State, at: Timestamp) -> Vec<Event>;
    /// Its events do not apply.
    fn reject(&mut self, reason: Inapplicable);
    fn answer(self: Box<Self>, recorded: Result<(), Unanswered>);
}

/// Why nobody of a group has an answer.
#[derive(Clone)]
enum Unanswered {
    Closed(Arc<Error>),
    Unconfirmed(Arc<Error>),
}

struct Decision<F, T, X> {
    decide: Option<F>,
    outcome: Option<Result<T, CommitError<X>>>,
    reply: oneshot::Sender<Result<T, CommitError<X>>>,
}

impl<F, T, X> Job for Decision<F, T, X>
where
    F: FnOnce(&State, Timestamp) -> Result<(Vec<Event>, T), X> + Send,
    T: Send,
    X: Send,
{
    fn decide(&mut self, state: &State, at: Timestamp) -> Vec<Event> {
        match self.decide.take().map(|decide| decide(state, at)) {
            Some(Ok((events, answer))) => {
                self.outcome = Some(Ok(answer));
                events
            }
            Some(Err(refused)) => {
                self.outcome = Some(Err(CommitError::Refused(refused)));
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    fn reject(&mut self, reason: Inapplicable) {
        self.outcome = Some(Err(CommitError::Inapplicable(reason)));
    }

    fn answer(self: Box<Self>, recorded: Result<(), Unanswered>) {
        let outcome = match recorded {
            Ok(()) => self.outcome,
            Err(Unanswered::Closed(reason)) => Some(Err(CommitError::Closed(reason))),
            Err(Unanswered::Unconfirmed(reason)) => Some(Err(CommitError::Unconfirmed(reason))),
        };
        if let Some(outcome) = outcome {
            // A caller that has gone away does not want to know.
            let _ = self.reply.send(outcome);
        }
    }
}

struct Writer {
    log: CommitLog,
    /// The readable state with the events of the group being decided.
    tentative: State,
    shared: Arc<Shared>,
    sweep: Option<JoinHandle<()>>,
}

/// However the writer ends, a panic included, the journal is seen to be closed.
impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.close(Arc::new(Error::Closed));
    }
}

impl Shared {
    fn close(&self, reason: Arc<Error>) {
        self.closed.send_if_modified(|closed| {
            let first = closed.is_none();
            closed.get_or_insert(reason);
            first
        });
    }
}

/// Whoever waits besides the first, up to a group.
fn gathered(first: Box<dyn Job>, queue: &mut mpsc::Receiver<Box<dyn Job>>) -> Vec<Box<dyn Job>> {
    let mut group = vec![first];
    while group.len() < GROUP
        && let Ok(next) = queue.try_recv()
    {
        group.push(next);
    }
    group
}

/// Chunks that were received and whose rows nobody has checked yet.
fn unchecked(state: &State, pipeline: &PipelineId) -> Vec<ChunkId> {
    let chunks = state.pipelines.get(pipeline).into_iter().flat_map(|current| current.chunks.values());
    chunks.filter(|chunk| chunk.state == ChunkState::Received).map(|chunk| chunk.id.clone()).collect()
}

fn is_unchecked(state: &State, pipeline: &PipelineId, chunk: &ChunkId) -> bool {
    let chunk = state.pipelines.get(pipeline).and_then(|current| current.chunks.get(chunk));
    chunk.is_some_and(|chunk| chunk.state == ChunkState::Received)
}

/// Whether the journal has to close.
fn closes(unanswered: Unanswered) -> Result<(), Arc<Error>> {
    match unanswered {
        Unanswered::Closed(reason) => Err(reason),
        Unanswered::Unconfirmed(_) => Ok(()),
    }
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Box<dyn Job>>) {
        let mut checks = tokio::time::interval(self.log.options().check_every);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let worked = tokio::select! {
                first = queue.recv() => match first {
                    Some(first) => self.commit(gathered(first, &mut queue)).await,
                    None => return,
                },
                // A store that does not answer decides nothing: the next append will.
                _ = checks.tick() => self.still_ours().await.or_else(closes),
            };
            if let Err(reason) = worked {
                tracing::error!(error = %reason, "the commit log is closed");
                self.shared.close(reason.clone());
                queue.close();
                while let Some(job) = queue.recv().await {
                    job.answer(Err(Unanswered::Closed(reason.clone())));
                }
                return;
            }
            self.snapshot().await;
        }
    }

    async fn still_ours(&self) -> Result<(), Unanswered> {
        self.log.check().await.map_err(|error| match error {
            Error::Fenced { .. } => Unanswered::Closed(Arc::new(error)),
            error => Unanswered::Unconfirmed(Arc::new(error)),
        })
    }

    async fn commit(&mut self, mut group: Vec<Box<dyn Job>>) -> Result<(), Arc<Error>> {
        let at = self.log.time(self.shared.time.now());
        let mut events = Vec::new();
        for job in &mut group {
            let decided = job.decide(&self.tentative, at);
            match self.try_apply(&decided, at) {
                Ok(()) => events.extend(decided),
                Err(reason) => {
                    tracing::error!(error = %reason, "a decided event does not apply");
                    job.reject(reason);
                    self.restore(&events, at);
                }
            }
        }
        // What changes nothing is answered from the state, which must not be an old one.
        let recorded = match events.is_empty() {
            true => self.still_ours().await,
            false => self.record(events, at).await.map_err(|error| Unanswered::Closed(Arc::new(error))),
        };
        for job in group {
            job.answer(recorded.clone());
        }
        recorded.or_else(closes)
    }

    fn try_apply(&mut self, events: &[Event], at: Timestamp) -> Result<(), Inapplicable> {
        events.iter().try_for_each(|event| self.tentative.apply(event, at))
    }

    /// Forgets a caller's events of which some had already been applied.
    fn restore(&mut self, accepted: &[Event], at: Timestamp) {
        self.tentative = self.shared.state.read().unwrap_or_else(PoisonError::into_inner).clone();
        self.try_apply(accepted, at).expect("these events applied to this state before");
    }

    async fn record(&mut self, events: Vec<Event>, at: Timestamp) -> Result<(), Error> {
        let head = self.log.append(at, events.clone()).await?;
        let mut state = self.shared.state.write().unwrap_or_else(PoisonError::into_inner);
        for event in &events {
            state.apply(event, at).expect("the event applied to the tentative state");
        }
        drop(state);
        self.shared.head.send_replace(head);
        Ok(())
    }

    /// A snapshot only saves time: without one the next start replays more.
    async fn snapshot(&mut self) {
        if !self.log.snapshot_due() || self.sweep.as_ref().is_some_and(|sweep| !sweep.is_finished()) {
            return;
        }
        if let Err(error) = self.log.snapshot(&self.tentative).await {
            tracing::warn!(%error, "no snapshot was written");
            return;
        }
        let sweep = self.log.sweep();
        self.sweep = Some(tokio::spawn(async move {
            if let Err(error) = sweep.await {
                tracing::warn!(%error, "old records were not removed");
            }
        }));
    }
}
