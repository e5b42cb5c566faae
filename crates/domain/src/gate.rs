//! The gate: may this candidate become the champion?

use crate::id::TaskName;
use crate::pipeline::GateSpec;
use crate::report::{Score, Verdict, average_accuracy, find};

/// A fall of exactly what is allowed passes, however the fractions round.
const ROUNDING: f64 = 1e-9;

/// Judges a candidate against a baseline measured on the same EvalSets.
///
/// Fails on non-finite weights, on an average accuracy below the baseline's by more than
/// `max_average_accuracy_drop`, and on any task whose accuracy fell by more than `max_forgetting`.
/// Only tasks count that were `trained`: what was never learned is guessed, and a worse guess is no harm. Without
/// held-out items of such a task it is inconclusive.
pub fn judge(
    spec: &GateSpec,
    finite: bool,
    trained: impl Fn(&TaskName) -> bool,
    candidate: &[Score],
    baseline: &[Score],
) -> Verdict {
    if !finite {
        let reasons = vec!["the candidate's weights are not finite".to_owned()];
        return Verdict::Fail { reasons };
    }
    let [candidate, baseline] = [candidate, baseline]
        .map(|scores| scores.iter().filter(|score| trained(&score.task)).cloned().collect::<Vec<Score>>());
    let (Some(ours), Some(theirs)) = (average_accuracy(&candidate), average_accuracy(&baseline)) else {
        let reasons = vec!["no task that was trained has held-out items to judge by".to_owned()];
        return Verdict::Inconclusive { reasons };
    };
    let mut reasons = Vec::new();
    let allowed = spec.max_average_accuracy_drop.get();
    if theirs - ours > allowed + ROUNDING {
        reasons.push(format!(
            "average accuracy fell from {theirs:.4} to {ours:.4}; max_average_accuracy_drop is {allowed}"
        ));
    }
    reasons.extend(candidate.iter().filter_map(|score| forgotten(spec, score, &baseline)));
    if reasons.is_empty() { Verdict::Pass } else { Verdict::Fail { reasons } }
}

fn forgotten(spec: &GateSpec, score: &Score, baseline: &[Score]) -> Option<String> {
    let before = find(baseline, &score.task)?.accuracy();
    let after = score.accuracy();
    let allowed = spec.max_forgetting.get();
    (before - after > allowed + ROUNDING).then(|| {
        let task = &score.task;
        format!("task `{task}` fell from {before:.4} to {after:.4}; max_forgetting is {allowed}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(task: &str, correct: u64) -> Score {
        let (task, digest, calibration, right) = (task.parse().unwrap(), task.to_owned(), None, None);
        Score { task, eval_set: 1, digest, items: 100, correct, loss: 1.0, calibration, right }
    }

    fn judge_all(finite: bool, candidate: &[Score], baseline: &[Score]) -> Verdict {
        judge(&GateSpec::default(), finite, |_| true, candidate, baseline)
    }

    #[test]
    fn a_guess_at_what_was_never_trained_counts_for_nothing() {
        let (candidate, baseline) = ([score("a", 90), score("b", 5)], [score("a", 90), score("b", 60)]);
        let only_a = |task: &TaskName| task.as_str() == "a";
        let verdict = judge(&GateSpec::default(), true, only_a, &candidate, &baseline);
        assert_eq!(verdict, Verdict::Pass);
        assert_eq!(judge_all(true, &candidate, &baseline).name(), "FAIL");
        let none = judge(&GateSpec::default(), true, |_| false, &candidate, &baseline);
        assert_eq!(none.name(), "INCONCLUSIVE");
    }

    #[test]
    fn a_better_candidate_passes() {
        let verdict = judge_all(true, &[score("a", 90), score("b", 80)], &[score("a", 91), score("b", 10)]);
        assert_eq!(verdict, Verdict::Pass);
    }

    #[test]
    fn forgetting_one_task_fails_whatever_the_average() {
        let verdict = judge_all(true, &[score("a", 60), score("b", 99)], &[score("a", 90), score("b", 10)]);
        assert!(
            matches!(&verdict, Verdict::Fail { reasons } if reasons[0].contains("task `a` fell from 0.9000 to 0.6000"))
        );
    }

    #[test]
    fn weights_that_are_not_finite_fail_even_without_items() {
        assert_eq!(judge_all(false, &[], &[]).name(), "FAIL");
        assert_eq!(judge_all(true, &[], &[]).name(), "INCONCLUSIVE");
    }
}
