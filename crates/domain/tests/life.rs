//! The life of chunks, runs, EvalSets and versions, as the state's fold tells it.

mod story;

use perennial_domain::chunk::{BadRows, ChunkState};
use perennial_domain::evalset::ARCHIVE;
use perennial_domain::id::{ChunkId, Version};
use perennial_domain::manifest::Import;
use perennial_domain::planning::{self, Expected, Refusal};
use perennial_domain::report::Verdict;
use perennial_domain::run::{Ending, MAX_FRUITLESS_ATTEMPTS, RunEvent, RunState};
use perennial_domain::state::{Event, EventKind, State};
use perennial_domain::version::{Alias, Disposition};
use serde_json::{Value, json};
use story::{Story, object, spec};

#[test]
fn a_chunk_is_absorbed_by_the_version_whose_run_trained_it() {
    let mut story = Story::new(|_| ());
    story.chunk("c1", "t", 10, 5);
    assert_eq!(story.states(), ["sealed"]);
    let version = story.publish();
    assert_eq!(story.now().chunks[&ChunkId("c1".into())].state, ChunkState::Absorbed { version });
    assert_eq!((story.now().champion(), story.now().tip), (Some(version), Some(version)));
}

#[test]
fn a_refused_run_changes_nothing_but_its_chunks() {
    let mut story = Story::new(|_| ());
    story.chunk("c1", "t", 10, 5);
    let champion = story.publish();
    let bad = story.chunk("c2", "t", 10, 5);
    story.judged(Verdict::Fail { reasons: vec!["it forgot".into()] });
    assert_eq!((story.now().champion(), story.now().tip), (Some(champion), Some(champion)));
    assert_eq!(story.now().chunks[&bad].state, ChunkState::Refused { reason: "it forgot".into() });
    let nothing = planning::start_run(&story.state, &story.id, &[]).unwrap_err();
    assert_eq!(nothing, Refusal::NothingToTrain { refused: 1, unchecked: 0 });
    let (run, _) = planning::start_run(&story.state, &story.id, std::slice::from_ref(&bad)).unwrap();
    assert_eq!(run, 3);
    let released = planning::release(&story.state, &story.id, &[bad]).unwrap();
    story.apply(released);
    assert_eq!(story.states(), ["absorbed", "sealed"]);
}

#[test]
fn one_run_at_a_time_and_a_cancelled_one_gives_its_chunks_up() {
    let mut story = Story::new(|_| ());
    story.chunk("c1", "t", 10, 0);
    let run = story.start();
    assert_eq!(planning::start_run(&story.state, &story.id, &[]).unwrap_err(), Refusal::Busy(run));
    let cancelled = planning::cancel(&story.state, &story.id, run).unwrap();
    story.apply(cancelled);
    assert_eq!(story.states(), ["refused"]);
    assert!(planning::cancel(&story.state, &story.id, run).is_err());
}

#[test]
fn attempts_fail_the_run_only_if_they_get_nowhere_by_their_own_fault() {
    let mut story = Story::new(|_| ());
    story.chunk("c1", "t", 10, 0);
    let run = story.start();
    let mut attempt = 0;
    let mut end = |story: &mut Story, ending| {
        story.change(run, RunEvent::Started);
        attempt += 1;
        story.change(run, RunEvent::AttemptEnded { attempt, reason: "rank 1 died".into(), ending });
    };
    (0..10).for_each(|_| end(&mut story, Ending::Lost));
    (1..MAX_FRUITLESS_ATTEMPTS).for_each(|_| end(&mut story, Ending::Failed));
    end(&mut story, Ending::Progressed);
    (1..MAX_FRUITLESS_ATTEMPTS).for_each(|_| end(&mut story, Ending::Failed));
    assert_eq!(story.now().runs[&run].state, RunState::Queued);
    end(&mut story, Ending::Failed);
    assert_eq!(story.now().runs[&run].state, RunState::Failed { reason: "rank 1 died".into() });
    assert_eq!(story.states(), ["refused"]);
}

#[test]
fn what_would_fail_again_is_not_tried_again() {
    let mut story = Story::new(|_| ());
    story.chunk("c1", "t", 10, 0);
    let run = story.start();
    story.change(run, RunEvent::Started);
    let reason = "adapter rank 99 is larger than layer `query`".to_owned();
    story.change(run, RunEvent::AttemptEnded { attempt: 1, reason: reason.clone(), ending: Ending::Permanent });
    assert_eq!(story.now().runs[&run].state, RunState::Failed { reason });
}

#[test]
fn a_stale_attempt_is_not_heard() {
    let mut story = Story::new(|_| ());
    story.chunk("c1", "t", 10, 0);
    let run = story.start();
    story.change(run, RunEvent::Started);
    let reason = "lost".to_owned();
    story.change(run, RunEvent::AttemptEnded { attempt: 1, reason: reason.clone(), ending: Ending::Lost });
    story.change(run, RunEvent::Started);
    let change = Box::new(RunEvent::AttemptEnded { attempt: 1, reason, ending: Ending::Lost });
    let stale = Event { pipeline: story.id.clone(), kind: EventKind::Run { run, change } };
    let before = story.state.clone();
    assert!(story.state.apply(&stale, 0).is_err());
    assert_eq!(story.state, before);
}

#[test]
fn rollback_takes_the_chunks_where_it_is_told() {
    let cases = [(Disposition::Requeue, "sealed"), (Disposition::Hold, "refused"), (Disposition::Drop, "quarantined")];
    for (disposition, wanted) in cases {
        let mut story = Story::new(|_| ());
        story.chunk("c1", "t", 10, 5);
        let first = story.publish();
        story.chunk("c2", "t", 10, 5);
        let second = story.publish();
        let (to, events) = planning::rollback(&story.state, &story.id, None, Expected::Anywhere, disposition).unwrap();
        story.apply(events);
        assert_eq!((to, story.now().tip, story.now().champion()), (first, Some(first), Some(first)));
        assert_eq!(story.states(), ["absorbed", wanted]);
        let expected = Expected::At(first);
        let forward = planning::set_alias(&story.state, &story.id, Alias::Champion, second, expected, disposition);
        story.apply(forward.unwrap());
        assert_eq!(story.states(), ["absorbed", "absorbed"]);
        assert_eq!(story.now().aliases[&Alias::Previous], first);
    }
}

#[test]
fn a_rollback_ends_the_run_that_continues_from_the_old_tip() {
    let mut story = Story::new(|_| ());
    story.chunk("c1", "t", 10, 5);
    story.publish();
    story.chunk("c2", "t", 10, 5);
    story.publish();
    story.chunk("c3", "t", 10, 5);
    let run = story.start();
    let (_, events) = planning::rollback(&story.state, &story.id, None, Expected::Anywhere, Disposition::Hold).unwrap();
    story.apply(events);
    assert_eq!(story.now().runs[&run].state, RunState::Cancelled);
}

#[test]
fn an_alias_moves_only_from_where_the_caller_believes_it_is() {
    let mut story = Story::new(|_| ());
    story.chunk("c1", "t", 10, 5);
    let first = story.publish();
    let set = |story: &Story, alias, to, expected| {
        planning::set_alias(&story.state, &story.id, alias, to, expected, Disposition::Hold)
    };
    let moved = set(&story, Alias::Champion, first, Expected::At(Version(9)));
    assert!(matches!(moved.unwrap_err(), Refusal::AliasMoved { .. }));
    let unknown = set(&story, Alias::Champion, Version(9), Expected::Anywhere);
    assert_eq!(unknown.unwrap_err(), Refusal::UnknownVersion(Version(9)));
    let created = set(&story, Alias::Challenger, first, Expected::Nowhere).unwrap();
    story.apply(created);
    assert_eq!(story.now().aliases[&Alias::Challenger], first);
    let again = set(&story, Alias::Challenger, first, Expected::Nowhere).unwrap_err();
    assert!(again.to_string().contains("`challenger` is at v1, not at none"), "{again}");
}

#[test]
fn a_rollback_that_is_repeated_does_not_go_back_twice() {
    let mut story = Story::new(|_| ());
    for chunk in ["c1", "c2"] {
        story.chunk(chunk, "t", 10, 5);
        story.publish();
    }
    let back =
        |story: &Story| planning::rollback(&story.state, &story.id, None, Expected::At(Version(2)), Disposition::Hold);
    let (to, events) = back(&story).unwrap();
    story.apply(events);
    assert_eq!((to, story.now().champion()), (Version(1), Some(Version(1))));
    assert!(matches!(back(&story).unwrap_err(), Refusal::AliasMoved { .. }));
}

#[test]
fn a_version_that_cannot_be_laid_down_fails_its_run_and_frees_the_pipeline() {
    let mut story = Story::new(|_| ());
    let chunk = story.chunk("c1", "t", 10, 5);
    let (run, ..) = story.judged(Verdict::Pass);
    story.change(run, RunEvent::PublishFailed { reason: "`m` exists".into() });
    assert_eq!(story.now().runs[&run].state, RunState::Failed { reason: "`m` exists".into() });
    let reason = format!("run {run} failed: `m` exists");
    assert_eq!(story.now().chunks[&chunk].state, ChunkState::Refused { reason });
    assert_eq!((story.now().champion(), story.now().active_run()), (None, None));
    let released = planning::release(&story.state, &story.id, &[chunk]).unwrap();
    story.apply(released);
    assert_eq!(story.publish(), Version(1));
}

#[test]
fn held_out_rows_open_eval_sets_and_later_ones_open_the_next_number() {
    let mut story = Story::new(|s| s["evaluation"] = json!({"eval_items_per_task": 12}));
    story.chunk("c1", "t", 10, 5);
    story.publish();
    let sets = |story: &Story| {
        let run = story.now().runs.values().next_back().unwrap();
        run.manifest.eval_sets.iter().map(|set| (set.number, set.items())).collect::<Vec<_>>()
    };
    assert_eq!(sets(&story), [(1, 5)]);
    story.chunk("c2", "t", 10, 20);
    story.publish();
    assert_eq!(sets(&story), [(2, 12)]);
    story.chunk("c3", "t", 10, 20);
    story.publish();
    assert_eq!(sets(&story), [(2, 12)], "a full set stays as it is");
    assert_eq!(story.now().tasks[0].sets.len(), 2);
}

#[test]
fn a_chunk_held_out_entirely_shares_the_fate_of_the_run_that_measured_on_it() {
    let mut story = Story::new(|_| ());
    let test = story.chunk("test", "t", 0, 5);
    let alone = planning::start_run(&story.state, &story.id, &[]).unwrap_err();
    assert_eq!(alone, Refusal::NothingToTrain { refused: 0, unchecked: 0 });
    let named = planning::start_run(&story.state, &story.id, &[test]).unwrap_err();
    assert!(named.to_string().contains("held out entirely"), "{named}");
    story.chunk("c1", "t", 10, 0);
    story.judged(Verdict::Fail { reasons: vec!["it forgot".into()] });
    assert_eq!(story.states(), ["sealed", "refused"], "it did not spoil the candidate");
    story.chunk("c2", "t", 10, 0);
    let run = story.start();
    story.change(run, RunEvent::Started);
    let reason = "row 3 cannot be read".to_owned();
    story.change(run, RunEvent::AttemptEnded { attempt: 1, reason, ending: Ending::Permanent });
    assert_eq!(story.states(), ["refused", "refused", "refused"], "it may be what failed");
    story.chunk("c3", "t", 10, 5);
    story.publish();
    assert_eq!(story.states(), ["refused", "refused", "refused", "absorbed"]);
}

#[test]
fn after_a_rollback_only_rows_that_still_count_judge() {
    let mut story = Story::new(|_| ());
    story.chunk("c1", "t", 10, 5);
    story.publish();
    story.chunk("c2", "t", 10, 7);
    story.chunk("c3", "u", 10, 3);
    story.publish();
    let (_, events) = planning::rollback(&story.state, &story.id, None, Expected::Anywhere, Disposition::Drop).unwrap();
    story.apply(events);
    story.chunk("c4", "t", 10, 2);
    let run = story.start();
    let sets = &story.now().runs[&run].manifest.eval_sets;
    let sets: Vec<_> = sets.iter().map(|set| (set.task.as_str(), set.number, set.items())).collect();
    assert_eq!(sets, [("t", 3, 7)], "the dropped chunks' rows are gone, and no number is used twice");
}

#[test]
fn beyond_max_tasks_the_oldest_merge_into_a_stratified_archive() {
    let mut story = Story::new(|s| s["evaluation"] = json!({"eval_items_per_task": 9, "max_tasks": 3}));
    for task in ["t1", "t2", "t3", "t4", "t5"] {
        story.chunk(task, task, 10, 9);
    }
    let run = story.start();
    let sets = &story.now().runs[&run].manifest.eval_sets;
    let names: Vec<&str> = sets.iter().map(|set| set.task.as_str()).collect();
    assert_eq!(names, [ARCHIVE, "t4", "t5"]);
    let shares: Vec<u64> = sets[0].parts.iter().map(|part| part.rows).collect();
    assert_eq!(shares, [3, 3, 3]);
}

#[test]
fn what_versions_and_held_out_rows_depend_on_cannot_change() {
    let mut story = Story::new(|_| ());
    let refused =
        |story: &Story, change: fn(&mut Value)| planning::apply_spec(&story.state, &spec(change)).unwrap_err();
    assert!(planning::apply_spec(&story.state, &spec(|s| s["seed"] = json!(1))).is_ok());
    story.chunk("c1", "t", 10, 5);
    assert!(refused(&story, |s| s["seed"] = json!(1)).to_string().contains("once a chunk exists"));
    assert!(planning::apply_spec(&story.state, &spec(|s| s["model"] = json!("mlp:9"))).is_ok());
    let run = story.start();
    assert!(refused(&story, |s| s["model"] = json!("mlp:9")).to_string().contains("or is being made"));
    story.apply(planning::cancel(&story.state, &story.id, run).unwrap());
    story.apply(planning::release(&story.state, &story.id, &[ChunkId("c1".into())]).unwrap());
    story.publish();
    assert!(refused(&story, |s| s["model"] = json!("mlp:9")).to_string().contains("once a version exists"));
    assert!(matches!(refused(&story, |s| s["labels"] = json!(["b", "a"])), Refusal::LabelsChanged { .. }));
    let grown = planning::apply_spec(&story.state, &spec(|s| s["labels"] = json!(["a", "b", "c"]))).unwrap();
    story.apply(grown);
    assert_eq!(story.now().labels, ["a", "b", "c"]);
}

fn import() -> Import {
    Import { files: vec![object("adapter_model.safetensors")] }
}

#[test]
fn an_import_is_the_first_version_and_the_next_run_continues_from_it() {
    let mut story = Story::new(|spec| spec["adapter"] = json!({"lora": {"r": 2}}));
    story.chunk("c1", "t", 10, 5);
    let (run, events) = planning::start_import(&story.state, &story.id, import()).unwrap();
    story.apply(events);
    let manifest = &story.now().runs[&run].manifest;
    assert_eq!((&manifest.import, manifest.chunks.len(), manifest.eval_sets.len()), (&Some(import()), 0, 1));
    assert_eq!(story.states(), ["sealed"], "it waits for the run that trains it");
    assert_eq!(planning::start_import(&story.state, &story.id, import()), Err(Refusal::Busy(run)));
    assert_eq!(story.publish_run(run), Version(1));
    assert_eq!(story.now().champion(), Some(Version(1)));
    let refused = planning::start_import(&story.state, &story.id, import());
    assert_eq!(refused, Err(Refusal::HasVersions { pipeline: story.id.clone(), newest: Version(1) }));
    let run = story.start();
    let manifest = &story.now().runs[&run].manifest;
    assert_eq!(manifest.parent.as_ref().map(|parent| parent.version), Some(Version(1)));
    assert_eq!((&manifest.import, manifest.update), (&None, 1));
    let text = serde_json::to_value(manifest).unwrap();
    assert!(text.get("import").is_none(), "records from before imports and of other runs look the same");
}

#[test]
fn only_adapters_are_imported_and_only_where_labels_are_known() {
    let story = Story::new(|_| ());
    assert_eq!(planning::start_import(&story.state, &story.id, import()), Err(Refusal::NotLora));
    let story = Story::new(|spec| {
        spec["adapter"] = json!({"lora": {"r": 2}});
        (spec["labels"], spec["labels_mode"]) = (json!([]), json!("open"));
    });
    assert_eq!(planning::start_import(&story.state, &story.id, import()), Err(Refusal::NoLabels));
}

#[test]
fn the_state_reads_back() {
    let mut story = Story::new(|_| ());
    story.chunk("c1", "t", 10, 5);
    story.publish();
    let text = serde_json::to_string(&story.state).unwrap();
    assert_eq!(serde_json::from_str::<State>(&text).unwrap(), story.state);
}

fn with_bad_rows(story: &mut Story, name: &str, train: u64, new_labels: &[&str]) -> ChunkId {
    let id = story.chunk(name, "main", train, 0);
    let mut chunk = story.now().chunks[&id].clone();
    let new_labels = new_labels.iter().map(|label| (*label).to_owned()).collect();
    chunk.state = ChunkState::Received;
    chunk.bad = Some(BadRows { rows: 2, object: object("bad"), new_labels, settled: false });
    story.happen(EventKind::ChunkReceived { chunk: Box::new(chunk) });
    story.happen(EventKind::ChunkQuarantined { chunk: id.clone(), reason: "2 rows".to_owned() });
    id
}

#[test]
fn what_waits_in_quarantine_is_released_without_its_bad_rows_or_dropped_for_good() {
    let mut story = Story::new(|_| ());
    let released = with_bad_rows(&mut story, "one", 30, &["c"]);
    let dropped = with_bad_rows(&mut story, "two", 30, &[]);
    let hopeless = with_bad_rows(&mut story, "three", 0, &[]);
    assert!([&released, &dropped].iter().all(|id| story.now().chunks[*id].can_be_sealed()));

    let refused = planning::release(&story.state, &story.id, std::slice::from_ref(&hopeless));
    assert_eq!(refused, Err(Refusal::Unsealed(hopeless)));
    story.apply(planning::release(&story.state, &story.id, std::slice::from_ref(&released)).unwrap());
    assert!(story.now().labels.contains(&"c".to_owned()));
    story.apply(planning::drop_chunks(&story.state, &story.id, std::slice::from_ref(&dropped)).unwrap());

    let chunks = &story.now().chunks;
    assert_eq!((&chunks[&released].state, chunks[&released].train_rows()), (&ChunkState::Sealed, 30));
    assert_eq!(chunks[&dropped].state.reason(), Some("dropped: 2 rows"));
    assert!([&released, &dropped].iter().all(|id| !chunks[*id].can_be_sealed()));
    let refused = planning::release(&story.state, &story.id, std::slice::from_ref(&dropped));
    assert_eq!(refused, Err(Refusal::Dropped(dropped)));
    let old = story.chunk("four", "main", 0, 0);
    story.happen(EventKind::ChunkQuarantined { chunk: old.clone(), reason: "from before".to_owned() });
    story.apply(planning::drop_chunks(&story.state, &story.id, std::slice::from_ref(&old)).unwrap());
    assert!(!story.now().chunks[&old].can_be_sealed());
    let refused = planning::drop_chunks(&story.state, &story.id, std::slice::from_ref(&released)).unwrap_err();
    assert!(refused.to_string().contains("is sealed; only chunks that wait in quarantine"), "{refused}");
}
