//! Optimisers over one flat f32 buffer. Each update starts a fresh one.

mod adamw;
mod schedule;
mod sgd;

pub use schedule::rate;

use domain::pipeline::{OptimizerKind, Training};
use tch::Tensor;

pub trait Optimizer {
    /// Changes `values` in place along `gradient`. Step numbers count from 0.
    fn step(&mut self, values: &mut Tensor, gradient: &Tensor, step: u64, rate: f64);

    /// What a checkpoint has to hold besides the values: handles, not copies.
    fn moments(&self) -> Vec<(&'static str, Tensor)>;
}

pub fn build(training: &Training, values: &Tensor) -> Box<dyn Optimizer> {
    let decay = training.weight_decay.get();
    match training.optimizer {
        OptimizerKind::Sgd => Box::new(sgd::Sgd { decay }),
        OptimizerKind::Adamw => Box::new(adamw::AdamW::new(decay, values)),
    }
}
