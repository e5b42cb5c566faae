//! Experience replay (Chaudhry et al., 2019): `L = CE(f(x), y) + α·CE(f(x′), y′)`, with `(x′, y′)` drawn
//! from memory; the first term alone while memory is empty.
//!
//! Each is a mean over its own rows, and they are added as in the paper, whose α is 1. Renate (Zappella et al., 2023)
//! divides by `1 + α`: there, the same learning rate takes a smaller step.

use super::terms::{cross_entropy, normalized, times};
use super::{Batch, Learner, Step, UpdateMethod};

pub struct ExperienceReplay {
    pub alpha: f64,
    /// Divides by the sum of the weights.
    pub sum: bool,
}

impl UpdateMethod for ExperienceReplay {
    fn loss(&self, learner: &Learner, fresh: &Batch, memory: &[Batch]) -> Step {
        let [memory] = memory else {
            let logits = learner.forward(&fresh.inputs);
            return Step::new(cross_entropy(&logits, fresh), logits);
        };
        let [logits, remembered] = learner.forward_all([fresh, memory]);
        let loss = cross_entropy(&logits, fresh) + times(self.alpha, cross_entropy(&remembered, memory));
        Step::new(normalized(loss, self.sum, &[self.alpha]), logits)
    }

    fn draws(&self) -> usize {
        usize::from(self.alpha > 0.0)
    }
}
