//! The learning rate of a step.

use domain::pipeline::{Schedule, Training};

/// Of step `step` out of `total`, counted from 0.
pub fn rate(training: &Training, step: u64, total: u64) -> f64 {
    let base = training.learning_rate.get();
    match training.schedule {
        Schedule::Constant => base,
        Schedule::Cosine => base * 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / total as f64).cos()),
    }
}
