//! iCaRL (Rebuffi et al., 2017): on the chunk and memory together, binary cross-entropy of `sigmoid(z)` with the parent's
//! answers for classes that it knows and with the label for the others; memory by herding; a row belongs to the class
//! whose mean feature over memory is nearest.
//!
//! A chunk that brings no new class teaches nothing: all its targets are the parent's own answers. Averaged over the classes known or present, as mammoth has it; the paper's sum takes a smaller learning rate.

use tch::{Kind, Reduction, Tensor};

use super::terms::mean;
use super::{Batch, Learner, Start, State, Step, UpdateMethod};

#[derive(Default)]
pub struct Icarl {
    /// The parent's weights, if it knows a class.
    teacher: Option<Tensor>,
    /// Positions of the classes that it knows, and of those that come.
    known: Vec<i64>,
    new: Vec<i64>,
}

impl Icarl {
    /// (rows, known and new classes)
    fn targets(&self, learner: &Learner, batch: &Batch) -> Tensor {
        let classes = Tensor::from_slice(&self.new).to_device(batch.labels.device());
        let truth = batch.labels.unsqueeze(1).eq_tensor(&classes.unsqueeze(0)).to_kind(Kind::Float);
        match &self.teacher {
            Some(values) => {
                let theirs = of(&learner.asked(values, &batch.inputs), &self.known).sigmoid();
                Tensor::cat(&[theirs, truth], 1)
            }
            None => truth,
        }
    }
}

impl UpdateMethod for Icarl {
    fn loss(&self, learner: &Learner, rows: &Batch, _memory: &[Batch]) -> Step {
        let targets = self.targets(learner, rows);
        let logits = learner.forward(&rows.inputs);
        let own = of(&logits, &[&self.known[..], &self.new[..]].concat());
        let losses = own.binary_cross_entropy_with_logits(&targets, None::<&Tensor>, None::<&Tensor>, Reduction::None);
        Step::new(mean(losses.mean_dim(&[1i64][..], false, Kind::Float), rows), logits)
    }

    fn begin(&mut self, start: &Start, _state: State) {
        let taught = |class: u32| start.seen.get(class as usize).is_some_and(|rows| *rows > 0);
        let present: std::collections::BTreeSet<u32> = start.labels.iter().copied().collect();
        self.known = (0..start.seen.len() as u32).filter(|class| taught(*class)).map(i64::from).collect();
        self.new = present.into_iter().filter(|class| !taught(*class)).map(i64::from).collect();
        self.teacher = (!self.known.is_empty()).then(|| start.weights.values.copy());
    }

    fn decides_by_means(&self) -> bool {
        true
    }
}

/// The columns of these classes.
fn of(logits: &Tensor, classes: &[i64]) -> Tensor {
    logits.index_select(1, &Tensor::from_slice(classes).to_device(logits.device()))
}
