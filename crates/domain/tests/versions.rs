//! How versions come to be, and what becomes of them.

mod story;

use perennial_domain::chunk::ChunkState;
use perennial_domain::id::{ChunkId, Version};
use perennial_domain::planning::{self, Expected, Refusal};
use perennial_domain::report::Verdict;
use perennial_domain::run::{Ending, MAX_SPOILED_CANDIDATES, RunEvent, RunState};
use perennial_domain::state::EventKind;
use perennial_domain::version::{Alias, Disposition, common_ancestor, from_there_on};
use serde_json::json;
use story::Story;

fn spoiled(attempt: u32) -> RunEvent {
    RunEvent::AttemptEnded { attempt, reason: "`head.safetensors` is damaged".into(), ending: Ending::Spoiled }
}

#[test]
fn a_spoiled_candidate_is_trained_again_and_the_second_one_fails_the_run() {
    for is_judged in [false, true] {
        let mut story = Story::new(|_| ());
        story.chunk("c1", "t", 10, 0);
        let run = story.start();
        for attempt in 1..=MAX_SPOILED_CANDIDATES {
            story.train(run, attempt);
            if is_judged {
                story.report(run, Verdict::Pass);
            }
            story.change(run, spoiled(attempt));
            if attempt < MAX_SPOILED_CANDIDATES {
                assert_eq!(story.now().runs[&run].state, RunState::Queued, "{is_judged}");
                assert_eq!(story.now().next_version().0, 1);
            }
        }
        let reason = "`head.safetensors` is damaged".to_owned();
        assert_eq!(story.now().runs[&run].state, RunState::Failed { reason }, "{is_judged}");
        assert_eq!((story.now().champion(), story.now().tip, story.now().active_run()), (None, None, None));
    }
}

#[test]
fn only_a_candidate_that_is_there_can_be_spoiled_and_publishing_ends_no_other_way() {
    let mut story = Story::new(|_| ());
    story.chunk("c1", "t", 10, 0);
    let run = story.start();
    assert!(!story.may(run, spoiled(1)), "it is queued");
    story.train(run, 1);
    story.report(run, Verdict::Pass);
    let lost = RunEvent::AttemptEnded { attempt: 1, reason: "gone".into(), ending: Ending::Lost };
    assert!(!story.may(run, lost), "it has been judged");
    story.publish_passed(run);
    assert!(!story.may(run, spoiled(1)), "it is a version");
}

/// A version on a chunk of its own.
fn publish(story: &mut Story, chunk: &str) -> Version {
    story.chunk(chunk, "t", 10, 0);
    story.publish()
}

/// Versions 1 to `versions`, each on a chunk of its own.
fn line(retention: u32, versions: u64) -> Story {
    let mut story = Story::new(|_| ());
    story.specify(|spec| spec["retention"] = json!({"versions": retention}));
    for number in 1..=versions {
        publish(&mut story, &format!("c{number}"));
    }
    story
}

fn expired(story: &Story) -> Vec<u64> {
    planning::expired(story.now()).into_iter().map(|version| version.0).collect()
}

#[test]
fn without_a_retention_everything_is_kept() {
    let mut story = Story::new(|_| ());
    for number in 1..=9 {
        publish(&mut story, &format!("c{number}"));
    }
    assert_eq!(expired(&story), Vec::<u64>::new());
    assert!(planning::retire(&story.state, &story.id).unwrap().is_empty());
    story.specify(|spec| spec["retention"] = json!({"versions": 1}));
    assert_eq!(expired(&story), [7, 6, 5, 4, 3, 2, 1], "the champion may be rolled back to 8");
}

#[test]
fn what_an_alias_a_hold_or_a_run_needs_stays() {
    let mut story = line(2, 9);
    assert_eq!(expired(&story), [7, 6, 5, 4, 3, 2, 1]);
    let challenger = planning::set_alias(
        &story.state,
        &story.id,
        Alias::Challenger,
        Version(3),
        Expected::Nowhere,
        Disposition::Hold,
    );
    story.apply(challenger.unwrap());
    let held = planning::hold(&story.state, &story.id, Version(5), "audited").unwrap();
    story.apply(held);
    assert_eq!(expired(&story), [7, 6, 4, 2, 1]);
    // The next run continues from 7, and its rollback leads to 6; 9 is what was champion before.
    story.happen(EventKind::ChampionMoved { to: Version(7), chunks: Disposition::Requeue });
    assert_eq!(expired(&story), [4, 2, 1]);
    let run = story.start();
    story.happen(EventKind::AliasSet { alias: Alias::Champion, version: Version(9) });
    assert_eq!(story.now().runs[&run].manifest.parent.as_ref().unwrap().version, Version(7));
    story.happen(EventKind::VersionReleased { version: Version(5) });
    assert_eq!(expired(&story), [6, 5, 4, 2, 1], "7 is what the run continues from");
}

#[test]
fn a_retired_version_is_known_and_its_files_are_not_to_be_had() {
    let mut story = line(2, 4);
    let before = story.now().versions.clone();
    let retired = planning::retire(&story.state, &story.id).unwrap();
    story.apply(retired);
    assert_eq!((expired(&story), story.now().retired.len(), story.now().leaving.len()), (vec![], 2, 2));
    assert_eq!(story.now().versions, before);
    assert!(planning::retire(&story.state, &story.id).unwrap().is_empty(), "once");
    let gone = Refusal::Retired(Version(1));
    let (state, id) = (&story.state, &story.id);
    assert_eq!(planning::available(story.now(), Version(1)).unwrap_err(), gone);
    assert_eq!(planning::hold(state, id, Version(1), "late").unwrap_err(), gone);
    let back = planning::rollback(state, id, Some(Version(1)), Expected::Anywhere, Disposition::Hold);
    assert_eq!(back.unwrap_err(), gone);
    for alias in Alias::ALL {
        let named = planning::set_alias(state, id, alias, Version(1), Expected::Anywhere, Disposition::Hold);
        assert_eq!(named.unwrap_err(), gone, "{alias:?}");
    }
    let (to, events) = planning::rollback(state, id, None, Expected::Anywhere, Disposition::Requeue).unwrap();
    assert_eq!(to, Version(3), "what a rollback leads to was kept");
    story.apply(events);
    let further = planning::rollback(&story.state, &story.id, None, Expected::Anywhere, Disposition::Hold);
    assert_eq!(further.unwrap_err(), Refusal::Retired(Version(2)));
    story.happen(EventKind::FilesRemoved { versions: vec![Version(1), Version(2)] });
    story.specify(|spec| spec["retention"] = json!({"versions": 4}));
    assert_eq!((story.now().retired.len(), story.now().leaving.len()), (2, 0), "nothing brings files back");
    for number in 5..=7 {
        publish(&mut story, &format!("c{number}"));
    }
    assert_eq!(expired(&story), [3], "2 and 1 are gone, and 4 is the fourth");
    assert_eq!(story.now().chunks[&ChunkId("c1".into())].state, ChunkState::Absorbed { version: Version(1) });
}

#[test]
fn holds_may_be_repeated_and_change_their_reason() {
    let mut story = line(1, 3);
    let hold = |story: &Story, reason| planning::hold(&story.state, &story.id, Version(1), reason).unwrap();
    let first = hold(&story, "audited");
    story.apply(first);
    assert!(hold(&story, "audited").is_empty());
    let again = hold(&story, "audited again");
    story.apply(again);
    assert_eq!(story.now().holds[&Version(1)], "audited again");
    let end = |story: &Story| planning::end_hold(&story.state, &story.id, Version(1)).unwrap();
    let ended = end(&story);
    story.apply(ended);
    assert!(end(&story).is_empty() && story.now().holds.is_empty());
    assert_eq!(
        planning::end_hold(&story.state, &story.id, Version(9)).unwrap_err(),
        Refusal::UnknownVersion(Version(9))
    );
}

#[test]
fn lineages_are_followed_both_ways() {
    let mut story = line(9, 3);
    // 4 and 5 continue from 2, past 3.
    story.happen(EventKind::ChampionMoved { to: Version(2), chunks: Disposition::Drop });
    publish(&mut story, "c4");
    publish(&mut story, "c5");
    let versions = &story.now().versions;
    let common = |one, other| common_ancestor(versions, Version(one), Version(other)).map(|version| version.0);
    assert_eq!([common(3, 5), common(5, 2), common(4, 4), common(1, 5)], [Some(2), Some(2), Some(4), Some(1)]);
    let saw = |chunk: &str| {
        let found = from_there_on(versions, |version| version.chunks.contains(&ChunkId(chunk.to_owned())));
        found.into_iter().map(|version| version.number.0).collect::<Vec<_>>()
    };
    assert_eq!((saw("c1"), saw("c3"), saw("c4"), saw("c9")), (vec![1, 2, 3, 4, 5], vec![3], vec![4, 5], vec![]));
}
