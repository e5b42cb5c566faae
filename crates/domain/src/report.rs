//! What an evaluation found.

use serde::{Deserialize, Serialize};

use crate::calibration::Calibration;
use crate::evalset::EvalSet;
use crate::flips::{Flips, Right};
use crate::id::{TaskName, Version};

/// One model on one EvalSet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    pub task: TaskName,
    pub eval_set: u64,
    /// Of the EvalSet's items.
    pub digest: String,
    pub items: u64,
    pub correct: u64,
    /// Mean cross-entropy, nats.
    pub loss: f64,
    /// None: from before it was measured, or the model's answers are not numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// Which items it gets right, in the EvalSet's order. None: from before it was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub right: Option<Right>,
}

impl Score {
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.items.max(1) as f64
    }

    pub fn is_on(&self, set: &EvalSet) -> bool {
        self.digest == set.digest()
    }

    /// What changed since another model answered the same items. None if it did not, or if either's answers are not known.
    pub fn flips(&self, before: &[Score]) -> Option<Flips> {
        let before = before.iter().find(|before| before.digest == self.digest)?;
        let items = before.right.as_ref()?.iter().zip(self.right.as_ref()?.iter());
        Some(Flips::between(items.take(self.items as usize)))
    }
}

/// What the candidate is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// The base model with its initial head: there is no version yet.
    Base,
    Version(Version),
}

/// Candidate and baseline on the same items, and what the gate said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalReport {
    pub baseline: Baseline,
    pub candidate_scores: Vec<Score>,
    pub baseline_scores: Vec<Score>,
    pub verdict: Verdict,
}

impl EvalReport {
    pub fn accuracy(&self, task: &TaskName) -> Option<f64> {
        find(&self.candidate_scores, task).map(Score::accuracy)
    }

    /// The version that flips are counted from. None: the base, whose head knows nothing that could be lost.
    pub fn compared_with(&self) -> Option<Version> {
        match self.baseline {
            Baseline::Base => None,
            Baseline::Version(version) => Some(version),
        }
    }

    /// What the candidate changed for the items of `score`, one of its own.
    pub fn flips_of(&self, score: &Score) -> Option<Flips> {
        self.compared_with().and_then(|_| score.flips(&self.baseline_scores))
    }

    /// The same over all items.
    pub fn flips(&self) -> Option<Flips> {
        self.compared_with().and_then(|_| flips(&self.candidate_scores, &self.baseline_scores))
    }
}

/// Over the items of all EvalSets that both models answered; none without any.
pub fn flips(now: &[Score], before: &[Score]) -> Option<Flips> {
    let all: Flips = now.iter().filter_map(|score| score.flips(before)).sum();
    (all.items > 0).then_some(all)
}

/// Over all items, each weighing the same; none if any task's is not known.
pub fn calibration(scores: &[Score]) -> Option<Calibration> {
    let parts: Vec<&Calibration> = scores.iter().map(|score| score.calibration.as_ref()).collect::<Option<_>>()?;
    Some(parts.into_iter().sum()).filter(|all: &Calibration| all.items > 0)
}

pub fn find<'a>(scores: &'a [Score], task: &TaskName) -> Option<&'a Score> {
    scores.iter().find(|score| score.task == *task)
}

/// Mean accuracy over tasks, each weighing the same.
pub fn average_accuracy(scores: &[Score]) -> Option<f64> {
    let sum: f64 = scores.iter().map(Score::accuracy).sum();
    (!scores.is_empty()).then(|| sum / scores.len() as f64)
}

/// Accuracy over all items, each weighing the same.
pub fn micro_average_accuracy(scores: &[Score]) -> Option<f64> {
    let items: u64 = scores.iter().map(|score| score.items).sum();
    let correct: u64 = scores.iter().map(|score| score.correct).sum();
    (items > 0).then(|| correct as f64 / items as f64)
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    Pass,
    Fail {
        reasons: Vec<String>,
    },
    /// Nothing to judge by. Never promotes.
    Inconclusive {
        reasons: Vec<String>,
    },
}

impl Verdict {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail { .. } => "FAIL",
            Self::Inconclusive { .. } => "INCONCLUSIVE",
        }
    }

    pub fn reasons(&self) -> &[String] {
        match self {
            Self::Pass => &[],
            Self::Fail { reasons } | Self::Inconclusive { reasons } => reasons,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::Answer;
    use crate::draw::Draw;

    fn score(task: &str, items: u64, correct: u64) -> Score {
        Score {
            task: task.parse().unwrap(),
            eval_set: 1,
            digest: task.to_owned(),
            items,
            correct,
            loss: 0.0,
            calibration: None,
            right: None,
        }
    }

    /// One whose answers are drawn.
    fn answered(task: &str, items: u64, seed: u64) -> Score {
        let draw = |item| Draw::new(seed).named(task).at(item);
        let right: Vec<bool> = (0..items).map(|item| draw(item).below(3) > 0).collect();
        let answer =
            |(item, right): (u64, &bool)| Answer { confidence: draw(item).at(1).unit(), right: *right, brier: 0.5 };
        Score {
            calibration: Calibration::of((0..items).zip(&right).map(answer)),
            right: Some(right.iter().copied().collect()),
            ..score(task, items, right.iter().filter(|right| **right).count() as u64)
        }
    }

    fn report(baseline: Baseline, candidate_scores: Vec<Score>, baseline_scores: Vec<Score>) -> EvalReport {
        EvalReport { baseline, candidate_scores, baseline_scores, verdict: Verdict::Pass }
    }

    #[test]
    fn each_task_weighs_the_same_in_the_average_and_each_item_in_the_micro_average() {
        let scores = [score("a", 300, 150), score("b", 100, 100)];
        assert_eq!((average_accuracy(&scores), micro_average_accuracy(&scores)), (Some(0.75), Some(0.625)));
    }

    #[test]
    fn both_agree_on_tasks_of_one_size_and_neither_is_there_without_scores() {
        let scores = [score("a", 8, 3), score("b", 8, 7)];
        assert_eq!(average_accuracy(&scores), micro_average_accuracy(&scores));
        assert_eq!((average_accuracy(&[]), micro_average_accuracy(&[])), (None, None));
    }

    #[test]
    fn negative_less_positive_flip_rate_is_what_accuracy_fell_by_on_each_task_and_over_all_items() {
        let [now, before] = [1, 2].map(|seed| vec![answered("a", 37, seed), answered("b", 500, seed)]);
        let report = report(Baseline::Version(Version(1)), now, before);
        let near = |flips: Flips, fall: f64| {
            assert!((flips.negative_rate() - flips.positive_rate() - fall).abs() < 1e-12, "{flips:?} {fall}");
        };
        for (now, before) in report.candidate_scores.iter().zip(&report.baseline_scores) {
            near(report.flips_of(now).unwrap(), before.accuracy() - now.accuracy());
        }
        let micro = |scores| micro_average_accuracy(scores).unwrap();
        near(report.flips().unwrap(), micro(&report.baseline_scores) - micro(&report.candidate_scores));
        assert_eq!(report.flips().unwrap().items, 537);
    }

    #[test]
    fn nothing_flips_from_the_base_or_where_answers_were_not_recorded() {
        let now = || vec![answered("a", 10, 1)];
        assert_eq!(report(Baseline::Base, now(), now()).flips(), None);
        let since = |before| report(Baseline::Version(Version(1)), now(), before);
        assert_eq!(since(vec![score("a", 10, 5)]).flips(), None);
        assert_eq!(since(vec![answered("b", 10, 1)]).flips(), None);
        let same = since(now());
        assert_eq!(
            same.flips_of(&same.candidate_scores[0]).map(|flips| (flips.negative, flips.positive)),
            Some((0, 0))
        );
    }

    #[test]
    fn calibration_over_all_items_needs_every_task_s() {
        let scores = [answered("a", 37, 1), answered("b", 500, 1)];
        assert_eq!(calibration(&scores).map(|all| all.items), Some(537));
        assert_eq!(calibration(&[answered("a", 37, 1), score("b", 500, 9)]), None);
        assert_eq!(calibration(&[]), None);
    }

    #[test]
    fn a_report_reads_back_and_so_does_one_from_before_flips_and_calibration() {
        let whole = report(Baseline::Version(Version(2)), vec![answered("a", 19, 1)], vec![answered("a", 19, 2)]);
        let text = serde_json::to_string(&whole).unwrap();
        assert_eq!(serde_json::from_str::<EvalReport>(&text).unwrap(), whole);
        let old = r#"{"task":"a","eval_set":1,"digest":"a","items":10,"correct":5,"loss":0.0}"#;
        assert_eq!(serde_json::from_str::<Score>(old).unwrap(), score("a", 10, 5));
        assert_eq!(serde_json::to_string(&score("a", 10, 5)).unwrap(), old);
    }
}
