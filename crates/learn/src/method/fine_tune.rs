//! Fine-tuning: `L = CE(f(x), y)` on the new chunk alone.

use tch::Tensor;

use super::{Batch, Learner, Reads, UpdateMethod, cross_entropy};

pub struct FineTune;

impl UpdateMethod for FineTune {
    fn loss(&self, learner: &Learner, fresh: &Batch, _memory: &Batch) -> Tensor {
        cross_entropy(&learner.forward(&fresh.inputs), fresh)
    }

    fn reads(&self) -> Reads {
        Reads::Chunk
    }
}
