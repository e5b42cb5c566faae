//! What an evaluation found.

use serde::{Deserialize, Serialize};

use crate::evalset::EvalSet;
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
}

impl Score {
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.items.max(1) as f64
    }

    pub fn is_on(&self, set: &EvalSet) -> bool {
        self.digest == set.digest()
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

    fn score(task: &str, items: u64, correct: u64) -> Score {
        Score { task: task.parse().unwrap(), eval_set: 1, digest: String::new(), items, correct, loss: 0.0 }
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
}
