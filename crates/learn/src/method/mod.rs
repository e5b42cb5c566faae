//! Update methods: one is its loss, and what it reads. The loop belongs to `update`.

mod er;
mod fine_tune;
mod joint;

use std::cell::Cell;

use domain::draw::Draw;
use domain::pipeline::Method;
use tch::{Reduction, Tensor};

use crate::input::Input;
use crate::model::Net;
use crate::model::dropout::Noise;

/// Rows of one micro-batch.
pub struct Batch {
    pub inputs: Input,
    /// (rows)
    pub labels: Tensor,
    /// Rows of the whole step that this is a part of: what a mean divides by.
    pub of: usize,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.labels.numel() == 0
    }
}

/// A net at one micro-batch of one step.
pub struct Learner<'a> {
    net: &'a Net,
    /// Of dropout masks; None without.
    noise: Option<Draw>,
    passes: Cell<u64>,
}

impl<'a> Learner<'a> {
    pub fn new(net: &'a Net, noise: Option<Draw>) -> Self {
        Self { net, noise, passes: Cell::new(0) }
    }

    /// -> logits (rows, classes), f32, with dropout. Each pass has masks of its own.
    pub fn forward(&self, input: &Input) -> Tensor {
        let pass = self.passes.replace(self.passes.get() + 1);
        self.net.learn(input, self.noise.map(|draw| Noise::new(draw.at(pass))))
    }
}

/// What a method trains on besides its chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Nothing.
    Chunk,
    /// A replay batch beside each batch of the chunk.
    Replay,
    /// Every remembered row, as if it were the chunk's.
    Everything,
}

pub trait UpdateMethod {
    /// The micro-batch's part of the scalar that a step descends. The parts of a step add up to it.
    fn loss(&self, learner: &Learner, fresh: &Batch, memory: &Batch) -> Tensor;

    fn reads(&self) -> Reads;
}

pub fn build(method: Method) -> Box<dyn UpdateMethod> {
    match method {
        Method::Ft => Box::new(fine_tune::FineTune),
        Method::Er => Box::new(er::ExperienceReplay),
        Method::Joint => Box::new(joint::Joint),
    }
}

/// `CE(f(x), y)` summed over the micro-batch and divided by the rows of the step.
fn cross_entropy(logits: &Tensor, batch: &Batch) -> Tensor {
    logits.cross_entropy_loss(&batch.labels, None::<&Tensor>, Reduction::Sum, -100, 0.0) / batch.of as f64
}
