//! Joint training: `L = CE(f(x), y)` with `(x, y)` from everything seen so far, the upper reference.
//!
//! An epoch is one pass over all remembered rows and the chunk, so its cost grows with every update.
//! Continues from the parent's weights.

use tch::Tensor;

use super::{Batch, Reads, UpdateMethod, cross_entropy};
use crate::model::Net;

pub struct Joint;

impl UpdateMethod for Joint {
    fn loss(&self, net: &Net, fresh: &Batch, _memory: &Batch) -> Tensor {
        cross_entropy(&net.forward(&fresh.inputs), fresh)
    }

    fn reads(&self) -> Reads {
        Reads::Everything
    }
}
