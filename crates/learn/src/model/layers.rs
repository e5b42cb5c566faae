//! Building blocks, and how a tensor that no file holds comes to be.

use domain::draw::Draw;
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use crate::Error;

/// How a tensor starts out when it is not loaded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    Zeros,
    Ones,
    /// Uniform in `(−bound, bound)`.
    Uniform(f64),
    /// Normal with this standard deviation.
    Normal(f64),
}

impl Init {
    /// What PyTorch gives a linear layer with so many inputs.
    pub fn fan_in(inputs: i64) -> Self {
        Self::Uniform(1.0 / (inputs as f64).sqrt())
    }

    /// Values that depend on `(seed, name, element)` alone.
    pub fn draw(self, seed: u64, name: &str, shape: &[i64]) -> Tensor {
        let stream = Draw::new(seed).named("init").named(name);
        let value = |element: usize| match self {
            Self::Zeros => 0.0,
            Self::Ones => 1.0,
            Self::Uniform(bound) => ((2.0 * stream.at(element as u64).unit() - 1.0) * bound) as f32,
            Self::Normal(deviation) => (stream.at(element as u64).normal() * deviation) as f32,
        };
        let elements = shape.iter().product::<i64>() as usize;
        let values: Vec<f32> = (0..elements).into_par_iter().map(value).collect();
        Tensor::from_slice(&values).view(shape)
    }
}

/// Gives a model its tensors, by name and shape: from a file or from draws.
pub type Source<'a> = dyn FnMut(&str, &[i64], Init) -> Result<Tensor, Error> + 'a;

/// A source that draws everything.
pub fn drawn(seed: u64, device: Device) -> impl FnMut(&str, &[i64], Init) -> Result<Tensor, Error> {
    move |name, shape, init| Ok(init.draw(seed, name, shape).to_device(device))
}

/// `x·Wᵀ + b`, and what an adapter adds to it.
pub struct Linear {
    /// (out, in)
    pub weight: Tensor,
    pub bias: Option<Tensor>,
    pub delta: Option<Delta>,
}

impl Linear {
    /// `init` is the weight's; the bias starts as `bias`, or is absent.
    pub fn new(
        source: &mut Source,
        name: &str,
        [outputs, inputs]: [i64; 2],
        init: Init,
        bias: Option<Init>,
    ) -> Result<Self, Error> {
        let weight = source(&format!("{name}.weight"), &[outputs, inputs], init)?;
        let bias = match bias {
            Some(init) => Some(source(&format!("{name}.bias"), &[outputs], init)?),
            None => None,
        };
        Ok(Self { weight, bias, delta: None })
    }

    /// (outputs, inputs)
    pub fn shape(&self) -> (i64, i64) {
        let size = self.weight.size();
        (size[0], size[1])
    }

    /// (rows, in) -> (rows, out), in the weight's type.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let kind = self.weight.kind();
        if x.kind() == kind {
            return self.adapted(x.linear(&self.weight, self.bias.as_ref()), x);
        }
        let x = x.to_kind(kind);
        self.adapted(x.linear(&self.weight, self.bias.as_ref()), &x)
    }

    /// `y`, which is `x·Wᵀ + b`, with the adapter's part added.
    pub fn adapted(&self, y: Tensor, x: &Tensor) -> Tensor {
        match &self.delta {
            Some(delta) => delta.added(&y, x),
            None => y,
        }
    }

    pub fn cast(&mut self, kind: Kind) {
        self.weight = self.weight.to_kind(kind);
        self.bias = self.bias.as_ref().map(|bias| bias.to_kind(kind));
    }

    pub fn named(&self, name: &str) -> Vec<(String, Tensor)> {
        let weight = Some((format!("{name}.weight"), self.weight.shallow_clone()));
        let bias = self.bias.as_ref().map(|bias| (format!("{name}.bias"), bias.shallow_clone()));
        weight.into_iter().chain(bias).collect()
    }
}

/// A low-rank addition to a linear layer: `scale · (x·Aᵀ)·Bᵀ`. A and B stay f32.
pub struct Delta {
    /// (r, in)
    pub a: Tensor,
    /// (out, r)
    pub b: Tensor,
    pub scale: f64,
}

impl Delta {
    fn added(&self, y: &Tensor, x: &Tensor) -> Tensor {
        let kind = x.kind();
        let low = x.linear(&self.a.to_kind(kind), None::<&Tensor>) * self.scale; // (rows, r)
        y.addmm(&low, &self.b.to_kind(kind).tr())
    }
}

pub struct LayerNorm {
    pub weight: Tensor,
    pub bias: Tensor,
    pub eps: f64,
}

impl LayerNorm {
    pub fn new(source: &mut Source, name: &str, width: i64, eps: f64) -> Result<Self, Error> {
        Ok(Self {
            weight: source(&format!("{name}.weight"), &[width], Init::Ones)?,
            bias: source(&format!("{name}.bias"), &[width], Init::Zeros)?,
            eps,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Tensor {
        let width = self.weight.size();
        x.layer_norm(&width[..], Some(&self.weight), Some(&self.bias), self.eps, false)
    }

    pub fn named(&self, name: &str) -> Vec<(String, Tensor)> {
        vec![
            (format!("{name}.weight"), self.weight.shallow_clone()),
            (format!("{name}.bias"), self.bias.shallow_clone()),
        ]
    }
}
