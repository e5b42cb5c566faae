//! What the journal promises its callers.

mod support;

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use domain::Timestamp;
use domain::state::{Event, State};
use futures::future::join_all;
use perennial_store::journal::{CommitError, Journal};
use perennial_store::log::Options;
use support::{Bad, Store, Verb, applied, everywhere, inapplicable, memory, names, records};

fn clock() -> Timestamp {
    1_000
}

async fn open(store: &Store) -> Journal {
    let options = Options { op_timeout: Duration::from_secs(10), snapshot_every: 8, block: 8, ..Options::default() };
    Journal::open_with(store.clone(), "test", clock, options).await.unwrap()
}

async fn apply(journal: &Journal, name: String) -> Result<(), CommitError<Infallible>> {
    journal.commit(move |_, _| Ok((vec![applied(&name)], ()))).await
}

fn all(journal: &Journal) -> Vec<String> {
    journal.read(names)
}

#[derive(Debug, thiserror::Error, PartialEq)]
#[error("no")]
struct No;

#[tokio::test]
async fn what_is_answered_is_read_watched_and_found_again() {
    everywhere(|store| async move {
        let journal = open(&store).await;
        let mut watch = journal.watch();
        let before = *watch.borrow_and_update();
        for i in 0..20 {
            apply(&journal, format!("p{i:02}")).await.unwrap();
        }
        assert_eq!(*watch.borrow_and_update(), before + 20);
        assert_eq!(all(&journal).len(), 20);
        let state = journal.read(State::clone);
        assert_eq!(open(&store).await.read(State::clone), state);
    })
    .await;
}

#[tokio::test]
async fn callers_that_wait_together_share_one_record() {
    let bad = Bad::over(memory());
    let store = bad.clone() as Store;
    let journal = open(&store).await;
    bad.gate(Verb::Put, "log/");
    let first = tokio::spawn({
        let journal = journal.clone();
        async move { apply(&journal, "first".to_owned()).await }
    });
    bad.arrival().await;
    let mut group = Box::pin(join_all((0..50).map(|i| apply(&journal, format!("p{i}")))));
    assert!(futures::poll!(&mut group).is_pending());
    assert!(all(&journal).is_empty(), "nothing is read before it is durable");
    bad.open_gate();
    first.await.unwrap().unwrap();
    assert!(group.await.into_iter().all(|outcome| outcome.is_ok()));
    // The take-over, the first caller, the fifty.
    assert_eq!(records(&store).await, [1, 2, 3]);
    assert_eq!(all(&journal).len(), 51);
}

#[tokio::test]
async fn each_decides_on_what_the_one_before_it_left() {
    let journal = open(&memory()).await;
    let count = |state: &State, _| Ok::<_, Infallible>((vec![applied(&format!("p{}", state.pipelines.len()))], ()));
    join_all((0..10).map(|_| journal.commit(count))).await;
    assert_eq!(all(&journal).len(), 10);
}

#[tokio::test]
async fn a_refusal_and_no_events_write_nothing() {
    let store = memory();
    let journal = open(&store).await;
    let refused = journal.commit(|_, _| Err::<(Vec<Event>, ()), _>(No)).await;
    assert!(matches!(refused, Err(CommitError::Refused(No))));
    let looked = journal.commit(|state, at| Ok::<_, No>((Vec::new(), (state.pipelines.len(), at)))).await;
    assert_eq!(looked.unwrap(), (0, 1_000));
    assert_eq!(records(&store).await, [1]);
}

#[tokio::test]
async fn events_that_do_not_apply_are_taken_back_whole_and_harm_nobody_else() {
    let journal = open(&memory()).await;
    let bug = journal.commit(|_, _| Ok::<_, No>((vec![applied("half"), inapplicable()], ())));
    let (good, bug, more) = tokio::join!(apply(&journal, "good".to_owned()), bug, apply(&journal, "more".to_owned()));
    assert!(matches!(bug, Err(CommitError::Inapplicable(_))));
    good.unwrap();
    more.unwrap();
    assert_eq!(all(&journal), ["good", "more"]);
}

#[tokio::test]
async fn of_two_journals_the_older_dies_and_nothing_answered_is_lost() {
    everywhere(|store| async move {
        let old = open(&store).await;
        let mut answered = Vec::new();
        for i in 0..10 {
            apply(&old, format!("old{i}")).await.unwrap();
            answered.push(format!("old{i}"));
        }
        let (opened, racing) = tokio::join!(open(&store), async {
            let outcomes = (0..20).map(|i| {
                let old = &old;
                async move { apply(old, format!("race{i}")).await.map(|()| format!("race{i}")) }
            });
            let mut racing = Vec::new();
            for outcome in outcomes {
                racing.extend(outcome.await.ok());
            }
            racing
        });
        answered.extend(racing);
        apply(&opened, "new".to_owned()).await.unwrap();
        let lost = apply(&old, "lost".to_owned()).await;
        assert!(matches!(lost, Err(CommitError::Closed(_))));
        assert!(old.is_closed() && !opened.is_closed());
        assert!(old.closed().await.to_string().contains("another writer"));
        let found = all(&open(&store).await);
        assert!(answered.iter().all(|name| found.contains(name)), "{answered:?} {found:?}");
        assert!(!found.contains(&"lost".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn when_the_store_dies_every_waiting_caller_hears_of_it() {
    let bad = Bad::over(memory());
    let journal = open(&(bad.clone() as Store)).await;
    apply(&journal, "kept".to_owned()).await.unwrap();
    bad.down.store(true, Ordering::Relaxed);
    for outcome in join_all((0..20).map(|i| apply(&journal, format!("p{i}")))).await {
        assert!(matches!(outcome, Err(CommitError::Closed(_))));
    }
    bad.down.store(false, Ordering::Relaxed);
    assert!(matches!(apply(&journal, "late".to_owned()).await, Err(CommitError::Closed(_))));
    assert_eq!(all(&journal), ["kept"]);
}

#[tokio::test]
async fn while_the_store_does_not_answer_nothing_is_confirmed_and_the_journal_goes_on_afterwards() {
    let bad = Bad::over(memory());
    let journal = open(&(bad.clone() as Store)).await;
    bad.down.store(true, Ordering::Relaxed);
    let unknown = journal.confirm::<Infallible>().await;
    assert!(matches!(unknown, Err(CommitError::Unconfirmed(_))), "{unknown:?}");
    bad.down.store(false, Ordering::Relaxed);
    journal.confirm::<Infallible>().await.unwrap();
    apply(&journal, "kept".to_owned()).await.unwrap();
}

#[tokio::test]
async fn a_panic_in_a_decision_closes_the_journal() {
    let journal = open(&memory()).await;
    let outcome = journal.commit(|_, _| -> Result<(Vec<Event>, ()), No> { panic!("a bug") }).await;
    assert!(matches!(outcome, Err(CommitError::Closed(_))));
    assert!(journal.is_closed());
}
