//! Fine-tuning: `L = CE(f(x), y)` on the new chunk alone.

use super::terms::cross_entropy;
use super::{Batch, Learner, Step, UpdateMethod};

pub struct FineTune;

impl UpdateMethod for FineTune {
    fn loss(&self, learner: &Learner, fresh: &Batch, _memory: &[Batch]) -> Step {
        let logits = learner.forward(&fresh.inputs);
        Step::new(cross_entropy(&logits, fresh), logits)
    }
}
