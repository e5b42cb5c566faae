//! Joint training: `L = CE(f(x), y)` with `(x, y)` from everything seen so far, the upper reference.
//!
//! An epoch is one pass over all remembered rows and the chunk, so its cost grows with every update.
//! Continues from the parent's weights.

use super::terms::cross_entropy;
use super::{Batch, Learner, Step, UpdateMethod};

pub struct Joint;

impl UpdateMethod for Joint {
    fn loss(&self, learner: &Learner, fresh: &Batch, _memory: &[Batch]) -> Step {
        let logits = learner.forward(&fresh.inputs);
        Step::new(cross_entropy(&logits, fresh), logits)
    }
}
