//! What was found after an update, beside the accuracy matrix. Field names are the JSON's keys.

use domain::report::{Score, calibration, flips};
use serde::Serialize;

use crate::scores::Answers;

/// One version on every EvalSet it was measured on.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluation {
    /// From 1.
    update: usize,
    /// Over all items.
    #[serde(flatten)]
    pub answers: Answers,
    tasks: Vec<TaskEvaluation>,
}

#[derive(Clone, Debug, Serialize)]
struct TaskEvaluation {
    task: String,
    items: u64,
    accuracy: f64,
    loss: f64,
    #[serde(flatten)]
    answers: Answers,
}

impl Evaluation {
    /// `before` are the scores of the version that the update continued from; none before the first.
    pub fn new(update: usize, scores: &[Score], before: Option<&[Score]>) -> Self {
        let task = |score: &Score| TaskEvaluation {
            task: score.task.to_string(),
            items: score.items,
            accuracy: score.accuracy(),
            loss: score.loss,
            answers: Answers::new(score.calibration.as_ref(), before.and_then(|before| score.flips(before))),
        };
        Self {
            update: update + 1,
            answers: Answers::new(calibration(scores).as_ref(), before.and_then(|before| flips(scores, before))),
            tasks: scores.iter().map(task).collect(),
        }
    }
}
