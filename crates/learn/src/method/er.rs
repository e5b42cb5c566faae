//! Experience replay (Chaudhry et al., 2019): `L = CE(f(x), y) + CE(f(x′), y′)`, with `(x′, y′)` drawn
//! from memory; the first term alone while memory is empty.
//!
//! Each is a mean over its own rows, and they are added as in the paper. Renate (Zappella et al., 2023) divides the sum
//! by 2, the sum of the terms' weights: there, the same learning rate takes half the step.

use tch::Tensor;

use super::{Batch, Learner, Reads, UpdateMethod, cross_entropy};

pub struct ExperienceReplay;

impl UpdateMethod for ExperienceReplay {
    fn loss(&self, learner: &Learner, fresh: &Batch, memory: &Batch) -> Tensor {
        if memory.is_empty() {
            return cross_entropy(&learner.forward(&fresh.inputs), fresh);
        }
        // One pass over both: no layer looks at more than one row.
        let logits = learner.forward(&fresh.inputs.then(&memory.inputs));
        let rows = fresh.labels.numel() as i64;
        let remembered = logits.narrow(0, rows, memory.labels.numel() as i64);
        cross_entropy(&logits.narrow(0, 0, rows), fresh) + cross_entropy(&remembered, memory)
    }

    fn reads(&self) -> Reads {
        Reads::Replay
    }
}
