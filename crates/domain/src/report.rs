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
