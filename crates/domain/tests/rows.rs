//! Labels that come late, corrections, and rows that are erased, as the state's fold tells it.

mod story;

use std::num::NonZeroU32;

use perennial_domain::chunk::{Chunk, ChunkState, ObjectRef, Shard, Split};
use perennial_domain::erasure::{ErasedChunk, Erasure, Scope};
use perennial_domain::id::{ChunkId, Version};
use perennial_domain::labelled::{self, Labelled};
use perennial_domain::pipeline::Data;
use perennial_domain::planning::{self, Refusal};
use perennial_domain::report::Verdict;
use perennial_domain::run::{RunEvent, RunState};
use perennial_domain::state::EventKind;
use serde_json::json;
use story::{Story, object};

fn late(coverage: f64) -> impl FnOnce(&mut serde_json::Value) {
    move |spec| spec["data"] = json!({"late_labels": {"coverage": coverage, "deadline_seconds": 60}})
}

/// A chunk of ten rows of each kind, so many of the training rows without a label.
fn half_labelled(name: &str, unlabelled: u64) -> Chunk {
    let shard = |kind: &str, unlabelled| Shard { unlabelled, ..Shard::new(object(&format!("{name}-{kind}")), 10) };
    Chunk {
        train: vec![shard("train", unlabelled)],
        held_out: vec![shard("held-out", 0)],
        labels: [("a".to_owned(), 10 - unlabelled)].into(),
        ..Chunk::received(ChunkId(name.to_owned()), "t".parse().unwrap(), Split::Auto, object(name), 1000)
    }
}

impl Story {
    fn arrive(&mut self, chunk: Chunk) -> ChunkId {
        let id = chunk.id.clone();
        let sealed = match self.now().pipeline.data.labelling_until(&chunk) {
            Some(until) => EventKind::ChunkLabelling { chunk: id.clone(), new_labels: vec![], until },
            None => EventKind::ChunkSealed { chunk: id.clone(), new_labels: vec![] },
        };
        self.happen(EventKind::ChunkReceived { chunk: Box::new(chunk) });
        self.happen(sealed);
        id
    }

    /// Labels come for so many more training rows, and so many others change.
    fn label(&mut self, id: &ChunkId, filled: u64, changed: u64, name: &str) {
        let chunk = self.now().chunks[id].clone();
        let mut train = chunk.train.clone();
        train[0].unlabelled -= filled;
        train[0].labels = Some(object(name));
        let labels = [("a".to_owned(), train[0].usable())].into();
        let labelled =
            Labelled { chunk: id.clone(), train, held_out: chunk.held_out, labels, new_labels: vec![], changed };
        labelled::events(self.now(), labelled).into_iter().for_each(|kind| self.happen(kind));
    }

    fn state_of(&self, id: &ChunkId) -> &ChunkState {
        &self.now().chunks[id].state
    }
}

#[test]
fn a_chunk_trains_once_enough_of_its_rows_have_a_label() {
    let mut story = Story::new(late(0.8));
    let id = story.arrive(half_labelled("c", 6));
    assert_eq!(story.state_of(&id), &ChunkState::Labelling { until: 61_000 });
    assert_eq!((story.now().chunks[&id].train_rows(), story.now().chunks[&id].coverage()), (4, 0.7));
    story.label(&id, 1, 0, "one");
    assert_eq!(story.state_of(&id).name(), "labelling");
    story.label(&id, 1, 0, "two");
    assert_eq!(story.state_of(&id), &ChunkState::Sealed);
    assert!(story.now().chunks[&id].corrections.is_empty(), "nothing had trained yet");
}

#[test]
fn a_chunk_waits_no_longer_than_it_may_and_is_no_item_until_then() {
    let mut story = Story::new(late(1.0));
    let id = story.arrive(half_labelled("c", 6));
    assert_eq!(labelled::overdue(&story.state, 60_999), []);
    let due = labelled::overdue(&story.state, 61_000);
    assert_eq!(due, [(story.id.clone(), id.clone())]);
    let other = story.chunk("other", "t", 10, 5);
    let run = story.start();
    let manifest = &story.now().runs[&run].manifest;
    assert_eq!(manifest.chunks.iter().map(|data| &data.id).collect::<Vec<_>>(), [&other]);
    assert!(manifest.eval_sets[0].parts.iter().all(|part| part.chunk == other));
    let events = labelled::seal(&story.state, &story.id, &id);
    story.apply(events);
    assert_eq!(story.state_of(&id), &ChunkState::Sealed);
    assert_eq!(labelled::seal(&story.state, &story.id, &id), [], "whoever comes second changes nothing");
}

#[test]
fn rows_labelled_after_their_chunk_has_trained_train_with_the_next_run_until_a_version_took_them() {
    let mut story = Story::new(late(0.5));
    let id = story.arrive(half_labelled("c", 6));
    story.publish();
    assert_eq!(story.now().late_rows(), []);
    story.label(&id, 2, 0, "late");
    story.chunk("next", "t", 10, 0);
    let run = story.start();
    let rows = story.now().runs[&run].manifest.late.clone();
    assert_eq!((rows.len(), &rows[0].data.id, &rows[0].before), (1, &id, &vec![None]));
    assert_eq!(rows[0].data.train[0].labels, Some(object("late")));
    // More of them come while it trains.
    story.label(&id, 1, 0, "later");
    story.publish_run(run);
    assert_eq!(story.now().late_rows()[0].before, [Some(object("late"))]);
}

#[test]
fn a_label_that_changes_after_its_row_has_trained_is_a_correction_of_the_versions_that_saw_it() {
    let mut story = Story::new(late(0.5));
    story.arrive(half_labelled("before", 0));
    let before = story.publish();
    let id = story.arrive(half_labelled("c", 0));
    story.label(&id, 0, 3, "in time");
    assert!(story.now().chunks[&id].corrections.is_empty());
    let first = story.publish();
    story.chunk("next", "t", 10, 0);
    let second = story.publish();
    story.label(&id, 0, 2, "corrected");
    let correction = story.now().chunks[&id].corrections[0].clone();
    assert_eq!(correction.rows, 2);
    assert_eq!(story.now().saw(&id, correction.run, None), [first, second]);
    assert_eq!((before, first), (Version(1), Version(2)));
    // What measures changes with it: the set opens again under the next number.
    let sets = |story: &Story| story.now().tasks[0].sets.len();
    let known = sets(&story);
    let chunk = story.now().chunks[&id].clone();
    let held_out = vec![Shard { labels: Some(object("held-out labels")), ..chunk.held_out[0].clone() }];
    let labels = chunk.labels.clone();
    let labelled = Labelled { chunk: id.clone(), train: chunk.train, held_out, labels, new_labels: vec![], changed: 1 };
    story.happen(EventKind::LabelsPushed { labelled: Box::new(labelled) });
    story.chunk("third", "t", 10, 0);
    story.publish();
    let (set, old) = (&story.now().tasks[0].sets[known], &story.now().tasks[0].sets[known - 1]);
    assert_eq!((set.items(), set.number), (old.items(), old.number + 1));
    assert_ne!(set.digest(), old.digest());
}

/// One training row and all held-out rows of a chunk.
fn erasure(story: &Story, ids: &[&ChunkId]) -> Erasure {
    let gone = |name: &str| ObjectRef { path: format!("{name}-rewritten"), ..object(name) };
    let one = |id: &&ChunkId| {
        let chunk = &story.now().chunks[*id];
        let rewrite = |shards: &[Shard], erased: fn(u64) -> u64| {
            let one = |shard: &Shard| Shard { object: gone(&id.0), erased: erased(shard.rows), ..shard.clone() };
            shards.iter().map(one).collect::<Vec<_>>()
        };
        ErasedChunk {
            chunk: (*id).clone(),
            train: rewrite(&chunk.train, |_| 1),
            held_out: rewrite(&chunk.held_out, |rows| rows),
            trained_under: chunk.trained_under.clone(),
            labels: [("a".to_owned(), 9)].into(),
            train_rows: vec![3],
            held_out_rows: 10,
        }
    };
    let chunks: Vec<ErasedChunk> = ids.iter().map(one).collect();
    let reissued = story.now().meets(&chunks);
    let eval_sets = story.now().measured_on(&chunks);
    let (garbage, copies) = (vec!["old".to_owned()], vec!["0".repeat(64)]);
    let scope = Scope::subject("anna");
    Erasure {
        number: 1,
        scope,
        at: 5,
        chunks,
        garbage,
        copies,
        eval_sets,
        run: story.now().last_run(),
        reissued,
        finished_at: None,
    }
}

#[test]
fn an_erasure_reaches_chunks_eval_sets_and_the_run_that_is_under_way() {
    let mut story = Story::new(|_| ());
    let (id, other) = (story.chunk("c", "t", 10, 10), story.chunk("other", "t", 10, 10));
    story.publish();
    story.chunk("next", "t", 10, 0);
    let run = story.start();
    story.change(run, RunEvent::Started);
    let before = story.now().runs[&run].manifest.clone();
    let erasure = erasure(&story, &[&id]);
    assert_eq!((erasure.reissued, &erasure.eval_sets[..]), (Some(run), &["t#1".to_owned()][..]));
    assert_eq!(erasure.rows(), (1, 10));
    story.happen(EventKind::RowsErased { erasure: Box::new(erasure) });

    let chunk = &story.now().chunks[&id];
    assert_eq!((chunk.train_rows(), chunk.held_out_rows(), chunk.erased_rows()), (9, 0, 11));
    assert!(!chunk.can_be_sealed());
    let sets = &story.now().tasks[0].sets;
    assert!(sets.iter().all(|set| set.parts.iter().all(|part| part.chunk == other)));
    let run = &story.now().runs[&run];
    assert_eq!((&run.state, run.attempts), (&RunState::Queued, 1), "the attempt is another one");
    assert_ne!(run.manifest, before);
    let named = serde_json::to_string(&run.manifest).unwrap();
    assert!(!named.contains("\"c-held-out\"") && !named.contains("\"path\":\"c\""), "{named}");
    story.happen(EventKind::ErasureFinished { erasure: 1 });
    assert_eq!(story.now().erasures[0].finished_at, Some(0));
}

#[test]
fn a_run_that_does_not_meet_an_erasure_goes_on() {
    let mut story = Story::new(|_| ());
    let id = story.chunk("c", "t", 10, 0);
    let run = story.start();
    story.change(run, RunEvent::Started);
    let other = story.chunk("other", "t", 10, 0);
    assert_eq!((erasure(&story, &[&id]).reissued, erasure(&story, &[&other]).reissued), (Some(run), None));
    let before = story.now().runs[&run].clone();
    let elsewhere = erasure(&story, &[&other]);
    story.happen(EventKind::RowsErased { erasure: Box::new(elsewhere) });
    assert_eq!(story.now().runs[&run], before);
}

#[test]
fn a_run_that_is_being_published_ends_as_it_is_and_would_train_again_without_the_rows() {
    let mut story = Story::new(|_| ());
    let id = story.chunk("c", "t", 10, 0);
    let run = story.start();
    story.judge(run, Verdict::Pass);
    let erasure = erasure(&story, &[&id]);
    assert_eq!(erasure.reissued, None, "it cannot be kept from it any more");
    story.happen(EventKind::RowsErased { erasure: Box::new(erasure) });
    assert_eq!(story.now().runs[&run].state.name(), "publishing");
    assert_eq!(story.now().runs[&run].manifest.chunks[0].train, story.now().chunks[&id].train);
    let version = story.publish_passed(run);
    assert_eq!(story.now().erasures[0].witnesses(story.now()), [version].into());
}

#[test]
fn what_is_recorded_of_a_subject_is_not_its_name() {
    let scope = Scope::subject("anna@example.org");
    assert_eq!(scope, Scope::subject("anna@example.org"));
    assert!(!serde_json::to_string(&scope).unwrap().contains("anna"));
}

#[test]
fn rows_expire_with_the_newest_of_their_chunk() {
    const DAY: u64 = 24 * 60 * 60 * 1000;
    let data = Data { ttl_days: NonZeroU32::new(2), ..Data::default() };
    let chunk = half_labelled("c", 0);
    assert!(!data.has_expired(&chunk, 1000 + 2 * DAY) && data.has_expired(&chunk, 1001 + 2 * DAY));
    let dated = Chunk { newest: Some(DAY), ..chunk };
    assert!(!data.has_expired(&dated, 3 * DAY) && data.has_expired(&dated, 3 * DAY + 1));
    assert!(!Data::default().has_expired(&dated, u64::MAX));
}

#[test]
fn what_versions_learnt_from_an_erased_subject_is_trained_anew_from_before_it() {
    let mut story = Story::new(|_| ());
    story.chunk("before", "t", 10, 10);
    let clean = story.publish();
    let id = story.chunk("c", "t", 10, 10);
    story.publish();
    story.chunk("after", "t", 10, 0);
    let newest = story.publish();
    let without = |story: &Story, name| planning::start_without(&story.state, &story.id, name);
    assert_eq!(without(&story, "anna"), Err(Refusal::NotErased));
    let erasure = erasure(&story, &[&id]);
    story.happen(EventKind::RowsErased { erasure: Box::new(erasure) });

    let states = story.states();
    let (run, events) = without(&story, "anna").unwrap();
    story.apply(events);
    let manifest = story.now().runs[&run].manifest.clone();
    assert_eq!(manifest.parent.map(|parent| parent.version), Some(clean));
    assert_eq!(manifest.chunks.iter().map(|data| data.id.0.as_str()).collect::<Vec<_>>(), ["c", "after"]);
    // A run that ends otherwise changes nothing of what is in use.
    story.change(run, RunEvent::Cancelled);
    assert_eq!((story.states(), story.now().tip), (states, Some(newest)));

    let (run, events) = without(&story, "anna").unwrap();
    story.apply(events);
    let version = story.publish_run(run);
    assert_eq!(story.now().champion(), Some(version));
    assert_eq!(without(&story, "anna"), Err(Refusal::NothingLearnt));
}
