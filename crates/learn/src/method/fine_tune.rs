//! Fine-tuning: `L = CE(f(x), y)` on the new chunk alone.

use tch::Tensor;

use super::{Batch, Reads, UpdateMethod, cross_entropy};
use crate::model::Net;

pub struct FineTune;

impl UpdateMethod for FineTune {
    fn loss(&self, net: &Net, fresh: &Batch, _memory: &Batch) -> Tensor {
        cross_entropy(&net.forward(&fresh.inputs), fresh)
    }

    fn reads(&self) -> Reads {
        Reads::Chunk
    }
}
