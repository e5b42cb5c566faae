//! GDumb (Prabhu et al., 2020): memory takes the chunk, then a model is trained from the base's weights on memory alone,
//! `L = CE(f(x′), y′)`.
//!
//! The paper trains until it converges; here an update costs what fine-tuning on its chunk would.

use super::terms::cross_entropy;
use super::{Batch, Learner, Step, UpdateMethod};

pub struct Gdumb;

impl UpdateMethod for Gdumb {
    fn loss(&self, learner: &Learner, remembered: &Batch, _memory: &[Batch]) -> Step {
        let logits = learner.forward(&remembered.inputs);
        Step::new(cross_entropy(&logits, remembered), logits)
    }
}
