//! Joint training: `L = CE(f(x), y)` with `(x, y)` from everything seen so far, the upper reference.
//!
//! An epoch is one pass over all remembered rows and the chunk, so its cost grows with every update.
//! Continues from the parent's weights.

use tch::Tensor;

use super::{Batch, Learner, Reads, UpdateMethod, cross_entropy};

pub struct Joint;

impl UpdateMethod for Joint {
    fn loss(&self, learner: &Learner, fresh: &Batch, _memory: &Batch) -> Tensor {
        cross_entropy(&learner.forward(&fresh.inputs), fresh)
    }

    fn reads(&self) -> Reads {
        Reads::Everything
    }
}
