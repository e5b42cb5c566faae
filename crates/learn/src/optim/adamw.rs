//! AdamW (Loshchilov and Hutter, 2019) with PyTorch's defaults: β = (0.9, 0.999), ε = 1e-8.

use tch::Tensor;

use super::Optimizer;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

pub struct AdamW {
    decay: f64,
    mean: Tensor,
    square: Tensor,
}

impl AdamW {
    pub fn new(decay: f64, values: &Tensor) -> Self {
        Self { decay, mean: values.zeros_like(), square: values.zeros_like() }
    }
}

impl Optimizer for AdamW {
    fn step(&mut self, values: &mut Tensor, gradient: &Tensor, step: u64, rate: f64) {
        let _guard = tch::no_grad_guard();
        let count = step as f64 + 1.0;
        *values *= 1.0 - rate * self.decay;
        let _ = self.mean.lerp_(gradient, 1.0 - BETA1);
        let _ = self.square.lerp_(&gradient.square(), 1.0 - BETA2);
        let mut root = self.square.sqrt();
        root /= (1.0 - BETA2.powf(count)).sqrt();
        root += EPSILON;
        let mut change = &self.mean / root;
        change *= rate / (1.0 - BETA1.powf(count));
        *values -= change;
    }

    fn moments(&self) -> Vec<(&'static str, Tensor)> {
        vec![("mean", self.mean.shallow_clone()), ("square", self.square.shallow_clone())]
    }
}
