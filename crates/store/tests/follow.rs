//! What a standby can rely on: it sees every record once, and the log is its own when it says so.

mod support;

use std::time::Duration;

use domain::state::State;
use perennial_store::journal::{CommitError, Journal};
use perennial_store::log::{CommitLog, Error, Follower, Options};
use perennial_store::objects;
use support::{Store, applied, everywhere, memory, push, record_path};

fn options(snapshot_every: u64) -> Options {
    Options { snapshot_every, block: snapshot_every, check_every: Duration::from_millis(20), ..Options::default() }
}

async fn open(store: &Store, name: &str) -> (CommitLog, State) {
    CommitLog::open(store.clone(), name, 1, options(4)).await.unwrap()
}

#[tokio::test]
async fn a_follower_sees_what_is_appended_however_far_it_fell_behind() {
    everywhere(|store| async move {
        let mut follower = Follower::open(store.clone(), options(4)).await.unwrap();
        assert_eq!((follower.writer(), follower.epoch()), (None, 0));
        let (mut log, mut state) = open(&store, "http://active:1").await;
        for (turn, records) in [1, 0, 3, 20, 2].into_iter().enumerate() {
            for number in 0..records {
                push(&mut log, &mut state, &format!("p-{turn}-{number}")).await;
            }
            follower.catch_up().await.unwrap();
            assert_eq!(follower.state(), &state, "{turn}");
            assert_eq!((follower.writer(), follower.epoch()), (Some("http://active:1"), 1));
        }
    })
    .await;
}

/// A follower at record 2 of a log that went on until that was retired; then a writer that slept through it created record 3.
async fn strayed() -> (Store, Follower, State) {
    let store = memory();
    let (mut log, mut state) = open(&store, "a").await;
    push(&mut log, &mut state, "first").await;
    let follower = Follower::open(store.clone(), options(4)).await.unwrap();
    for number in 0..12 {
        push(&mut log, &mut state, &format!("p-{number:02}")).await;
    }
    let stray = serde_json::json!({"epoch": 1, "writer": "zombie-0", "at": 3, "events": [applied("stray")]});
    objects::put(store.as_ref(), &record_path(3), stray.to_string().into()).await.unwrap();
    (store, follower, state)
}

#[tokio::test]
async fn a_record_over_a_retired_number_is_none_of_the_log() {
    let (_, mut follower, state) = strayed().await;
    follower.catch_up().await.unwrap();
    assert_eq!(follower.state(), &state);
}

#[tokio::test]
async fn who_takes_over_builds_on_no_record_over_a_retired_number() {
    let (store, follower, mut state) = strayed().await;
    let (mut taken, found) = follower.take_over("b", 1).await.unwrap();
    assert_eq!(found, state);
    push(&mut taken, &mut state, "last").await;
    assert_eq!(open(&store, "c").await.1, state);
}

#[tokio::test]
async fn a_writer_that_slept_through_retention_learns_that_the_log_is_not_its_own() {
    let store = memory();
    let (old, mut state) = open(&store, "old").await;
    old.check().await.unwrap();
    let (mut new, _) = open(&store, "new").await;
    for number in 0..12 {
        push(&mut new, &mut state, &format!("p-{number:02}")).await;
    }
    assert!(matches!(old.check().await, Err(Error::Fenced { .. })));
    new.check().await.unwrap();
}

#[tokio::test]
async fn what_changes_nothing_is_not_answered_from_a_state_that_may_be_old() {
    let store = memory();
    let never = Options { check_every: Duration::from_secs(3600), ..options(4) };
    let journal = Journal::open_with(store.clone(), "a", || 1, never).await.unwrap();
    journal.commit(|_, _| Ok::<_, String>((Vec::new(), ()))).await.unwrap();
    let _taken = open(&store, "b").await;
    let answer = journal.commit(|_, _| Err::<(Vec<_>, ()), _>("refused".to_owned())).await;
    assert!(matches!(answer, Err(CommitError::Closed(_))), "{answer:?}");
}

#[tokio::test]
async fn a_follower_that_takes_over_goes_on_where_the_writer_was_killed() {
    everywhere(|store| async move {
        let (mut log, mut state) = open(&store, "a").await;
        push(&mut log, &mut state, "first").await;
        let follower = Follower::open(store.clone(), options(4)).await.unwrap();
        push(&mut log, &mut state, "second").await;
        let (mut taken, found) = follower.take_over("b", 1).await.unwrap();
        assert_eq!(found, state);
        push(&mut taken, &mut state, "third").await;
        let late = log.append(2, vec![applied("late")]).await;
        assert!(matches!(late, Err(Error::Fenced { .. })), "{late:?}");
        assert_eq!(open(&store, "c").await.1, state);
    })
    .await;
}

#[tokio::test]
async fn a_writer_with_nothing_to_append_learns_that_the_log_is_not_its_own() {
    let store = memory();
    let journal = Journal::open_with(store.clone(), "a", || 1, options(4)).await.unwrap();
    let _taken = open(&store, "b").await;
    let reason = tokio::time::timeout(Duration::from_secs(60), journal.closed()).await.expect("it looks");
    assert!(matches!(*reason, Error::Fenced { .. }), "{reason}");
    let refused = journal.commit(|_, _| Ok::<_, String>((vec![applied("late")], ()))).await;
    assert!(matches!(refused, Err(CommitError::Closed(_))), "{refused:?}");
}
