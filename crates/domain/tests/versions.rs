//! How versions come to be, and what becomes of them.

mod story;

use perennial_domain::run::{Ending, MAX_SPOILED_CANDIDATES, RunEvent, RunState};
use story::Story;

fn spoiled(attempt: u32) -> RunEvent {
    RunEvent::AttemptEnded { attempt, reason: "`head.safetensors` is damaged".into(), ending: Ending::Spoiled }
}

#[test]
fn a_spoiled_candidate_is_trained_again_and_the_second_one_fails_the_run() {
    for is_judged in [false, true] {
        let mut story = Story::new();
        story.chunk("c1");
        let run = story.start();
        for attempt in 1..=MAX_SPOILED_CANDIDATES {
            story.train(run, attempt);
            if is_judged {
                story.pass(run);
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
    let mut story = Story::new();
    story.chunk("c1");
    let run = story.start();
    assert!(!story.may(run, spoiled(1)), "it is queued");
    story.train(run, 1);
    story.pass(run);
    let lost = RunEvent::AttemptEnded { attempt: 1, reason: "gone".into(), ending: Ending::Lost };
    assert!(!story.may(run, lost), "it has been judged");
    story.publish_passed(run);
    assert!(!story.may(run, spoiled(1)), "it is a version");
}
