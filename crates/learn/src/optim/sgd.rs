//! Stochastic gradient descent: `θ ← θ − η·(g + λ·θ)`.

use tch::Tensor;

use super::Optimizer;

pub struct Sgd {
    pub decay: f64,
}

impl Optimizer for Sgd {
    fn step(&mut self, values: &mut Tensor, gradient: &Tensor, _step: u64, rate: f64) {
        let _guard = tch::no_grad_guard();
        if self.decay > 0.0 {
            *values *= 1.0 - rate * self.decay;
        }
        *values -= gradient * rate;
    }

    fn moments(&self) -> Vec<(&'static str, Tensor)> {
        Vec::new()
    }
}
