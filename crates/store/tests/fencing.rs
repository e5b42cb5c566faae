//! Whatever the order of the requests of two writers: what was acknowledged is in the log, and the log is what its last writer
//! believes it to be.
//!
//! Each request waits until the test lets it through, one at a time. With two writers every order is tried; with more, drawn
//! ones are.

mod support;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use domain::draw::Draw;
use domain::state::State;
use futures::stream::{BoxStream, once};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use perennial_store::log::{CommitLog, Error, Follower, Options};
use support::{Store, applied, memory, names, push};

/// Records between snapshots: as few as there can be, so that retention comes as close as it can.
const K: u64 = 1;

fn options() -> Options {
    // Others' turns take no time.
    Options { snapshot_every: K, block: K, op_timeout: Duration::from_secs(1_000_000), ..Options::default() }
}

#[derive(Debug, Default)]
struct Gate {
    /// Until it is closed, nobody waits.
    closed: AtomicBool,
    /// Requests that wait.
    waiting: AtomicUsize,
    granted: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
    /// The next put is carried out, and whoever asked for it hears of a failure.
    loses_reply: AtomicBool,
}

impl Gate {
    async fn turn(&self) {
        if !self.closed.load(Ordering::Relaxed) {
            return;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let granted = |context: &mut Context<'_>| match self.granted.swap(false, Ordering::Relaxed) {
            true => Poll::Ready(()),
            false => {
                self.wakers.lock().unwrap().push(context.waker().clone());
                Poll::Pending
            }
        };
        poll_fn(granted).await;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A store whose requests wait for their turn.
#[derive(Debug)]
struct Turns {
    inner: Store,
    gate: Arc<Gate>,
}

impl std::fmt::Display for Turns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("turns")
    }
}

#[async_trait]
impl ObjectStore for Turns {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.gate.turn().await;
        let done = self.inner.put_opts(path, payload, options).await;
        match self.gate.loses_reply.swap(false, Ordering::Relaxed) {
            true => Err(object_store::Error::Generic { store: "turns", source: "connection reset".into() }),
            false => done,
        }
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.gate.turn().await;
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (inner, gate) = (self.inner.clone(), self.gate.clone());
        let delete = move |path: Result<Path>| {
            let (inner, gate) = (inner.clone(), gate.clone());
            async move {
                gate.turn().await;
                let path = path?;
                inner.delete(&path).await.map(|()| path)
            }
        };
        paths.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner, gate, prefix) = (self.inner.clone(), self.gate.clone(), prefix.cloned());
        let listed = async move {
            gate.turn().await;
            Ok::<_, object_store::Error>(inner.list(prefix.as_ref()))
        };
        once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// Events that were acknowledged, and the state that whoever did it believes in.
#[derive(Default)]
struct Outcome {
    acked: Vec<String>,
    state: Option<State>,
}

/// One that makes requests.
struct Actor {
    gate: Arc<Gate>,
    work: Pin<Box<dyn Future<Output = Outcome>>>,
    outcome: Option<Outcome>,
}

impl Actor {
    fn new<F: Future<Output = Outcome> + 'static>(gate: Arc<Gate>, work: F) -> Self {
        gate.closed.store(true, Ordering::Relaxed);
        Self { gate, work: Box::pin(work), outcome: None }
    }

    /// Up to its next request, or to its end.
    async fn go_on(&mut self) {
        while self.outcome.is_none() {
            if let Poll::Ready(outcome) = self.work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                self.outcome = Some(outcome);
            } else if self.gate.waiting.load(Ordering::Relaxed) > 0 {
                return;
            } else {
                // It waits before it tries again.
                tokio::time::advance(Duration::from_secs(1)).await;
            }
        }
    }

    async fn step(&mut self) {
        self.gate.granted.store(true, Ordering::Relaxed);
        self.gate.wakers.lock().unwrap().drain(..).for_each(Waker::wake);
        self.go_on().await;
    }
}

/// Lets the actors make their requests in the order that `choose` says: of so many, which.
async fn play(mut actors: Vec<Actor>, mut choose: impl FnMut(usize) -> usize) -> Vec<Outcome> {
    for actor in &mut actors {
        actor.go_on().await;
    }
    loop {
        let mut waiting: Vec<&mut Actor> = actors.iter_mut().filter(|actor| actor.outcome.is_none()).collect();
        if waiting.is_empty() {
            return actors.into_iter().filter_map(|actor| actor.outcome).collect();
        }
        let next = choose(waiting.len());
        waiting[next].step().await;
    }
}

/// Plays a scene in every order there is, and says how many there are.
async fn every_order<S: Future<Output = Vec<Actor>>>(scene: impl Fn(Store) -> S) -> usize {
    let (mut script, mut plays): (Vec<(usize, usize)>, usize) = (Vec::new(), 0);
    loop {
        let (store, mut at) = (memory(), 0);
        let choose = |among| {
            if at == script.len() {
                assert!(at < 300, "it does not end");
                script.push((0, among));
            }
            at += 1;
            script[at - 1].0
        };
        let outcomes = play(scene(store.clone()).await, choose).await;
        check(&store, outcomes, &script).await;
        plays += 1;
        // The last choice that has an alternative is made anew.
        while script.pop_if(|(chosen, among)| *chosen + 1 == *among).is_some() {}
        match script.last_mut() {
            Some((chosen, _)) => *chosen += 1,
            None => return plays,
        }
    }
}

async fn drawn_orders<S: Future<Output = Vec<Actor>>>(plays: u64, scene: impl Fn(Store) -> S) {
    for play_number in 0..plays {
        let (store, draw, mut throws) = (memory(), Draw::new(play_number), 0);
        let choose = |among: usize| {
            throws += 1;
            // Long stretches of one: a writer sleeps for long, or does not sleep at all.
            draw.at(throws / (1 + draw.below(12))).below(among as u64) as usize
        };
        let outcomes = play(scene(store.clone()).await, choose).await;
        check(&store, outcomes, &play_number).await;
    }
}

/// The log holds what was acknowledged, and is what the last who believes in a state says.
async fn check(store: &Store, outcomes: Vec<Outcome>, order: &impl std::fmt::Debug) {
    let (_, state) = CommitLog::open(store.clone(), "check", 9, options()).await.unwrap();
    let mut beliefs = Vec::new();
    for outcome in outcomes {
        let there = names(&state);
        assert!(outcome.acked.iter().all(|name| there.contains(name)), "{:?} {there:?} {order:?}", outcome.acked);
        beliefs.extend(outcome.state);
    }
    // Of rivals, one came last.
    assert!(beliefs.is_empty() || beliefs.contains(&state), "{order:?}");
}

fn gated(store: &Store) -> (Arc<Gate>, Store) {
    let gate = Arc::new(Gate::default());
    (gate.clone(), Arc::new(Turns { inner: store.clone(), gate }))
}

/// Appends until it learns that the log is not its own any more. With a state it takes the snapshots that are due, and sweeps.
async fn appends(mut log: CommitLog, mut state: Option<State>, events: Vec<String>) -> Outcome {
    let mut acked = Vec::new();
    for name in events {
        let event = applied(&name);
        match log.append(2, vec![event.clone()]).await {
            Ok(_) => acked.push(name),
            Err(Error::Fenced { .. }) => return Outcome { acked, state: None },
            Err(error) => panic!("{error}"),
        }
        if let Some(state) = &mut state {
            state.apply(&event, 2).unwrap();
            log.snapshot(state).await.unwrap();
            log.sweep().await.unwrap();
        }
    }
    Outcome { acked, state }
}

fn events(name: &str, count: u64) -> Vec<String> {
    (0..count).map(|number| format!("{name}-{number}")).collect()
}

/// A writer that has written a record, and is about to append more. `loses`: the answer to its next put.
async fn old_writer(store: &Store, name: &str, count: u64, loses: bool) -> Actor {
    let (gate, turns) = gated(store);
    let (mut log, mut state) = CommitLog::open(turns, name, 1, options()).await.unwrap();
    push(&mut log, &mut state, name).await;
    gate.loses_reply.store(loses, Ordering::Relaxed);
    Actor::new(gate, appends(log, None, events(name, count)))
}

/// What one that took the log over does: it appends, and lets retention follow.
async fn reigns(taken: Result<(CommitLog, State), Error>, name: &str) -> Outcome {
    match taken {
        Ok((log, state)) => appends(log, Some(state), events(name, 3 * K)).await,
        Err(Error::Fenced { .. } | Error::Missing { .. }) => Outcome::default(),
        Err(error) => panic!("{error}"),
    }
}

/// One that takes the log over as it finds it.
fn new_writer(store: &Store, name: &'static str) -> Actor {
    let (gate, turns) = gated(store);
    Actor::new(gate, async move { reigns(CommitLog::open(turns, name, 1, options()).await, name).await })
}

/// One that takes the log over as it saw it a while ago.
async fn heir(store: &Store, name: &'static str) -> Actor {
    let (gate, turns) = gated(store);
    let follower = Follower::open(turns, options()).await.unwrap();
    Actor::new(gate, async move { reigns(follower.take_over(name, 1).await, name).await })
}

/// One that follows, and looks again while others write. What it sees has to be in the log.
async fn follower(store: &Store) -> Actor {
    let (gate, turns) = gated(store);
    let mut follower = Follower::open(turns, options()).await.unwrap();
    Actor::new(gate, async move {
        for _ in 0..2 {
            match follower.catch_up().await {
                Ok(()) => {}
                Err(Error::Missing { .. }) => return Outcome::default(),
                Err(error) => panic!("{error}"),
            }
        }
        Outcome { acked: names(follower.state()), state: None }
    })
}

#[tokio::test(start_paused = true)]
async fn an_old_writer_that_wakes_between_any_two_requests_of_its_successor_acks_nothing_that_is_lost() {
    let plays =
        every_order(|store| async move { vec![old_writer(&store, "old", 1, false).await, new_writer(&store, "new")] });
    assert!(plays.await > 100);
}

#[tokio::test(start_paused = true)]
async fn so_does_one_whose_answer_was_lost() {
    let plays =
        every_order(|store| async move { vec![old_writer(&store, "old", 1, true).await, new_writer(&store, "new")] });
    assert!(plays.await > 1000);
}

/// What the network does with requests of long ago: it carries them out once more. Here those that created the records there are.
async fn echo(store: &Store) -> Actor {
    let (gate, turns) = gated(store);
    let mut records = Vec::new();
    for number in support::records(store).await {
        let path = Path::from(support::record_path(number));
        let bytes = store.get(&path).await.unwrap().bytes().await.unwrap();
        records.push((path, bytes));
    }
    Actor::new(gate, async move {
        for (path, bytes) in records {
            // Where it is there, it stays.
            let _ = turns.put_opts(&path, bytes.into(), PutMode::Create.into()).await;
        }
        Outcome::default()
    })
}

/// A writer that answers from its state, and looks before whether the log is still its own.
async fn one_that_looks(store: &Store, is_taken: Arc<AtomicBool>) -> Actor {
    let (gate, turns) = gated(store);
    let (log, _) = CommitLog::open(turns.clone(), "old", 1, options()).await.unwrap();
    Actor::new(gate.clone(), async move {
        gate.turn().await;
        let was_taken = is_taken.load(Ordering::Relaxed);
        assert!(log.check().await.is_err() || !was_taken, "it takes the log for its own");
        Outcome::default()
    })
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_carried_out_again_at_any_time_makes_no_writer_of_one_that_is_fenced() {
    let plays = every_order(|store| async move {
        let is_taken = Arc::new(AtomicBool::new(false));
        let old = one_that_looks(&store, is_taken.clone()).await;
        let echo = echo(&store).await;
        let (gate, turns) = gated(&store);
        let new = Actor::new(gate, async move {
            let taken = CommitLog::open(turns, "new", 1, options()).await;
            is_taken.store(taken.is_ok(), Ordering::Relaxed);
            reigns(taken, "new").await
        });
        vec![old, echo, new]
    });
    assert!(plays.await > 1000);
}

#[tokio::test(start_paused = true)]
async fn old_writers_rivals_and_a_follower_agree_on_the_log() {
    drawn_orders(1_500, |store| async move {
        let first = old_writer(&store, "first", 2, false).await;
        let (watching, heir) = (follower(&store).await, heir(&store, "heir").await);
        let second = old_writer(&store, "second", 2, true).await;
        vec![first, second, watching, heir, echo(&store).await, new_writer(&store, "new")]
    })
    .await;
}
