//! The classifier on top: one row per label, f32, always trained.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use crate::Error;
use crate::files;
use crate::model::layers::Init;

pub struct Head {
    /// (classes, width)
    pub weight: Tensor,
    pub bias: Tensor,
}

impl Head {
    /// Row c is drawn from `(seed, c)` alone, so a head made at once equals one that grew.
    pub fn new(seed: u64, classes: usize, width: i64) -> Self {
        let row = |class| Init::fan_in(width).draw(seed, &format!("head.{class}"), &[1, width]);
        let rows: Vec<Tensor> = (0..classes).map(row).collect();
        Self { weight: Tensor::cat(&rows, 0), bias: Tensor::zeros([classes as i64], (Kind::Float, Device::Cpu)) }
    }

    /// `file` holds a head for the first labels; the rows of the others are new.
    pub fn load(file: &Path, seed: u64, classes: usize, width: i64) -> Result<Self, Error> {
        let tensors = files::read_tensors(file)?;
        let known = tensors.get("bias").map_or(0, |bias| bias.numel()).min(classes);
        let old = known as i64;
        let weight = files::checked(file, &tensors, "weight", &[old, width])?;
        let bias = files::checked(file, &tensors, "bias", &[old])?;
        let new = Self::new(seed, classes, width);
        let added = classes as i64 - old;
        Ok(Self {
            weight: Tensor::cat(&[weight, new.weight.narrow(0, old, added)], 0),
            bias: Tensor::cat(&[bias, new.bias.narrow(0, old, added)], 0),
        })
    }

    pub fn to_device(self, device: Device) -> Self {
        Self { weight: self.weight.to_device(device), bias: self.bias.to_device(device) }
    }

    /// Features (rows, width) -> logits (rows, classes), in the head's type
    pub fn forward(&self, features: &Tensor) -> Tensor {
        features.to_kind(self.weight.kind()).linear(&self.weight, Some(&self.bias))
    }

    pub fn named(&self, prefix: &str) -> Vec<(String, Tensor)> {
        vec![
            (format!("{prefix}weight"), self.weight.shallow_clone()),
            (format!("{prefix}bias"), self.bias.shallow_clone()),
        ]
    }
}
