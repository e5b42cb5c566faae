//! Scores a model on frozen items.

use domain::calibration::{Answer, Calibration};
use tch::{Device, Kind, Tensor};

use crate::data::{Dataset, Reader};
use crate::model::Net;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scored {
    pub items: u64,
    pub correct: u64,
    /// Mean cross-entropy, nats.
    pub loss: f64,
    /// None where an answer is not a number.
    pub calibration: Option<Calibration>,
    /// Of each item in the dataset's order: is the most probable class its label?
    pub right: Vec<bool>,
}

/// `batch` bounds memory. A row's logits depend on it by rounding only, and nothing else does. `done` counts the rows scored
/// so far. Where tasks have heads, only labels of `task` are told apart.
pub fn evaluate(
    net: &Net,
    dataset: &Dataset,
    reader: &Reader,
    task: Option<&str>,
    batch: usize,
    done: &mut dyn FnMut(u64),
) -> Scored {
    let _guard = tch::no_grad_guard();
    let (mut answers, mut losses) = (vec![None; dataset.len()], vec![0.0; dataset.len()]);
    let mut scored = 0;
    for positions in dataset.reading_order().chunks(batch) {
        let (rows, labels) = dataset.take(positions);
        let logs = net.answer_within(&reader.apply(rows), task).log_softmax(-1, Kind::Double);
        let found = judged(&logs, &labels);
        for (position, (answer, loss)) in positions.iter().zip(found) {
            (answers[*position as usize], losses[*position as usize]) = (answer, loss);
        }
        scored += positions.len() as u64;
        done(scored);
    }
    let right: Vec<bool> = answers.iter().map(|answer| answer.is_some_and(|answer| answer.right)).collect();
    Scored {
        items: right.len() as u64,
        correct: right.iter().filter(|right| **right).count() as u64,
        loss: losses.iter().sum::<f64>() / losses.len().max(1) as f64,
        calibration: Calibration::of(answers.into_iter().flatten()),
        right,
    }
}

/// Each row's answer and cross-entropy, from log-probabilities (rows, classes) and labels (rows).
fn judged(logs: &Tensor, labels: &Tensor) -> Vec<(Option<Answer>, f64)> {
    let probabilities: Vec<Vec<f64>> = listed(&logs.exp());
    let losses: Vec<f64> = listed(&-logs.gather(1, &labels.unsqueeze(1), false).squeeze_dim(1));
    let labels: Vec<i64> = listed(labels);
    let answers = probabilities.iter().zip(labels).map(|(row, label)| Answer::of(row, label as usize));
    answers.zip(losses).collect()
}

fn listed<T>(tensor: &Tensor) -> T
where
    T: for<'a> TryFrom<&'a Tensor, Error = tch::TchError>,
{
    T::try_from(&tensor.to_device(Device::Cpu)).expect("its shape and type are those just made")
}
