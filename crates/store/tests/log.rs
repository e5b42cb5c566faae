//! What the commit log promises, on every store: one writer, nothing acknowledged is lost.

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use domain::state::State;
use perennial_store::log::{CommitLog, Error, Options};
use perennial_store::objects;
use support::{Bad, Store, Verb, applied, everywhere, inapplicable, memory, names, push, record_path, records};

fn options(snapshot_every: u64) -> Options {
    Options { snapshot_every, block: snapshot_every, op_timeout: Duration::from_secs(10), ..Options::default() }
}

async fn open(store: &Store, name: &str) -> (CommitLog, State) {
    CommitLog::open(store.clone(), name, 1, options(4)).await.unwrap()
}

async fn push_many(log: &mut CommitLog, state: &mut State, prefix: &str, count: usize) {
    for i in 0..count {
        push(log, state, &format!("{prefix}-{i:03}")).await;
    }
}

fn fenced<T>(outcome: Result<T, Error>) -> bool {
    matches!(outcome, Err(Error::Fenced { .. }))
}

#[tokio::test]
async fn a_log_that_is_opened_again_gives_the_same_state() {
    everywhere(|store| async move {
        let (mut log, mut state) = open(&store, "a").await;
        for length in [0, 3, 1, 9, 4] {
            push_many(&mut log, &mut state, &format!("p{length}"), length).await;
            let (next, found) = open(&store, "b").await;
            assert_eq!(found, state);
            log = next;
        }
    })
    .await;
}

#[tokio::test]
async fn retention_keeps_two_snapshots_and_what_follows_the_older() {
    everywhere(|store| async move {
        let (mut log, mut state) = open(&store, "a").await;
        push_many(&mut log, &mut state, "p", 21).await;
        // Records 1 to 22; snapshots after 4, 8, 12, 16 and 20.
        assert_eq!(records(&store).await, (17..=22).collect::<Vec<_>>());
        let snapshots = objects::list(store.as_ref(), "log/snapshots").await.unwrap();
        assert_eq!(snapshots.len(), 2, "{snapshots:?}");
    })
    .await;
}

#[tokio::test]
async fn the_head_stays_even_with_a_snapshot_at_each_record() {
    let store = memory();
    let (mut log, mut state) = CommitLog::open(store.clone(), "a", 1, options(1)).await.unwrap();
    push_many(&mut log, &mut state, "p", 9).await;
    assert_eq!(records(&store).await, [10]);
}

#[tokio::test]
async fn a_crash_between_record_and_snapshot_loses_nothing() {
    everywhere(|store| async move {
        let (mut log, mut state) = open(&store, "a").await;
        push_many(&mut log, &mut state, "p", 6).await;
        let event = applied("last");
        log.append(2, vec![event.clone()]).await.unwrap();
        state.apply(&event, 2).unwrap();
        assert!(log.snapshot_due());
        drop(log);
        assert_eq!(open(&store, "b").await.1, state);
    })
    .await;
}

#[tokio::test]
async fn a_torn_snapshot_falls_back_to_the_one_before() {
    everywhere(|store| async move {
        let (mut log, mut state) = open(&store, "a").await;
        push_many(&mut log, &mut state, "p", 18).await;
        let snapshots = objects::list(store.as_ref(), "log/snapshots").await.unwrap();
        let newest = snapshots.last().unwrap();
        objects::put(store.as_ref(), newest, "{\"head\":{\"num".into()).await.unwrap();
        assert_eq!(open(&store, "b").await.1, state);
    })
    .await;
}

#[tokio::test]
async fn a_gap_or_a_torn_record_is_an_error_that_names_the_record() {
    let store = memory();
    let (mut log, mut state) = CommitLog::open(store.clone(), "a", 1, options(100)).await.unwrap();
    push_many(&mut log, &mut state, "p", 5).await;
    objects::put(store.as_ref(), &record_path(4), "{".into()).await.unwrap();
    let torn = CommitLog::open(store.clone(), "b", 1, options(100)).await;
    assert!(matches!(torn, Err(Error::Undecodable { record: 4, .. })));
    objects::delete(store.as_ref(), &record_path(4)).await.unwrap();
    let error = CommitLog::open(store.clone(), "b", 1, options(100)).await.err().unwrap();
    assert_eq!(error.to_string(), "commit log record 4 is missing");
}

#[tokio::test]
async fn the_older_of_two_writers_is_fenced() {
    everywhere(|store| async move {
        let (mut old, mut state) = open(&store, "old").await;
        push(&mut old, &mut state, "before").await;
        let (mut new, mut state) = open(&store, "new").await;
        let error = old.append(2, vec![applied("lost")]).await.unwrap_err();
        assert!(matches!(&error, Error::Fenced { by } if by.starts_with("new-")), "{error}");
        assert!(matches!(old.append(2, vec![applied("lost")]).await, Err(Error::Closed)));
        push(&mut new, &mut state, "after").await;
        assert_eq!(names(&open(&store, "c").await.1), ["after", "before"]);
    })
    .await;
}

#[tokio::test]
async fn of_many_who_open_at_once_one_may_write() {
    everywhere(|store| async move {
        let opening = (0..8).map(|i| {
            let store = store.clone();
            tokio::spawn(async move { CommitLog::open(store, &format!("w{i}"), 1, options(4)).await })
        });
        let mut winners = 0;
        for opened in futures::future::join_all(opening).await {
            let Ok((mut log, _)) = opened.unwrap() else { continue };
            match log.append(2, vec![applied("p")]).await {
                Ok(_) => winners += 1,
                outcome => assert!(fenced(outcome)),
            }
        }
        assert_eq!(winners, 1);
    })
    .await;
}

/// A writer that sleeps before its put, until its number was used by others and retired.
#[tokio::test]
async fn a_zombie_that_wakes_after_retention_is_fenced() {
    everywhere(|store| async move {
        let bad = Bad::over(store.clone());
        let (mut zombie, mut state) = open(&(bad.clone() as Store), "zombie").await;
        push(&mut zombie, &mut state, "before").await;
        bad.gate(Verb::Put, "log/");
        let asleep = tokio::spawn(async move { zombie.append(2, vec![applied("stray")]).await });
        bad.arrival().await;

        let (mut new, mut state) = open(&store, "new").await;
        push_many(&mut new, &mut state, "p", 20).await;
        assert!(!records(&store).await.contains(&3), "the zombie's number was retired");
        bad.open_gate();
        assert!(fenced(asleep.await.unwrap()));
        assert!(records(&store).await.contains(&3), "its put succeeded");

        push_many(&mut new, &mut state, "q", 8).await;
        assert_eq!(open(&store, "c").await.1, state);
        assert!(!records(&store).await.contains(&3), "retention swept the stray");
    })
    .await;
}

/// The second zombie finds a record of an earlier epoch below its own: the first one's stray.
#[tokio::test]
async fn a_zombie_does_not_take_another_zombies_stray_for_its_own_record() {
    let store = memory();
    let sleeper = |name| {
        let bad = Bad::over(store.clone());
        let store = bad.clone() as Store;
        async move { (bad, open(&store, name).await) }
    };
    let (first_gate, (mut first, _)) = sleeper("first").await;
    first_gate.gate(Verb::Put, "log/");
    let first = tokio::spawn(async move { first.append(2, vec![applied("stray-2")]).await });
    first_gate.arrival().await;

    let (second_gate, (mut second, _)) = sleeper("second").await;
    second_gate.gate(Verb::Put, "log/");
    let second = tokio::spawn(async move { second.append(2, vec![applied("stray-3")]).await });
    second_gate.arrival().await;

    let (mut new, mut state) = open(&store, "new").await;
    push_many(&mut new, &mut state, "p", 20).await;
    first_gate.open_gate();
    assert!(fenced(first.await.unwrap()));
    second_gate.open_gate();
    assert!(fenced(second.await.unwrap()));
    assert_eq!(open(&store, "c").await.1, state);
}

#[tokio::test]
async fn a_zombie_that_never_wrote_is_fenced_too() {
    let store = memory();
    let bad = Bad::over(store.clone());
    bad.gate(Verb::Put, "log/");
    let asleep = bad.clone() as Store;
    let asleep = tokio::spawn(async move { CommitLog::open(asleep, "zombie", 1, options(4)).await.map(drop) });
    bad.arrival().await;
    let (mut new, mut state) = open(&store, "new").await;
    push_many(&mut new, &mut state, "p", 20).await;
    bad.open_gate();
    assert!(fenced(asleep.await.unwrap()));
    assert_eq!(open(&store, "c").await.1, state);
}

/// A writer that sleeps between its put and its look for the mark, while others build upon
/// what it put: that is in the log, and it is told so.
#[tokio::test]
async fn a_record_that_was_built_upon_is_never_taken_back() {
    let store = memory();
    let open = |store: Store, name| CommitLog::open(store, name, 1, options(3));
    let bad = Bad::over(store.clone());
    let (mut old, mut state) = open(bad.clone(), "old").await.unwrap();
    push_many(&mut old, &mut state, "p", 2).await;
    bad.gate(Verb::Get, "retired/");
    let asleep = tokio::spawn(async move { old.append(2, vec![applied("kept")]).await });
    bad.arrival().await;

    let (mut new, mut state) = open(store.clone(), "new").await.unwrap();
    push(&mut new, &mut state, "q").await;
    assert_eq!(records(&store).await, [4, 5, 6], "snapshots after 3 and 6");
    bad.open_gate();
    assert_eq!(asleep.await.unwrap().unwrap(), 4);
    objects::put(store.as_ref(), "log/snapshots/00000000000000000006.bin", "torn".into()).await.unwrap();
    assert_eq!(open(store, "c").await.unwrap().1, state);
    assert_eq!(names(&state), ["kept", "p-000", "p-001", "q"]);
}

#[tokio::test]
async fn a_reply_that_got_lost_does_not_write_twice() {
    let bad = Bad::over(memory());
    let store = bad.clone() as Store;
    let (mut log, _) = open(&store, "a").await;
    bad.lies_once.store(true, Ordering::Relaxed);
    assert_eq!(log.append(2, vec![applied("p")]).await.unwrap(), 2);
    assert_eq!(records(&store).await, [1, 2]);
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_an_error_in_time() {
    let bad = Bad::over(memory());
    let hasty = Options { op_timeout: Duration::from_millis(50), ..options(4) };
    let (mut log, _) = CommitLog::open(bad.clone(), "a", 1, hasty).await.unwrap();
    bad.gate(Verb::Put, "log/");
    let error = log.append(2, vec![applied("p")]).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(matches!(log.append(2, vec![applied("p")]).await, Err(Error::Closed)));
}

#[tokio::test]
async fn an_event_that_does_not_apply_names_its_record() {
    let store = memory();
    let (mut log, _) = open(&store, "a").await;
    log.append(2, vec![inapplicable()]).await.unwrap();
    let error = CommitLog::open(store, "b", 1, options(4)).await.err().unwrap();
    assert!(matches!(error, Error::Inapplicable { record: 2, .. }), "{error}");
}

#[tokio::test]
async fn time_does_not_run_backwards() {
    let (mut log, _) = CommitLog::open(memory(), "a", 100, options(4)).await.unwrap();
    log.append(90, vec![applied("p")]).await.unwrap();
    assert_eq!(log.time(50), 100);
}
