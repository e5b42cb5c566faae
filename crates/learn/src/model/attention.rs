//! Multi-head self-attention (Vaswani et al., 2017), as ViT and BERT share it.

use tch::{Device, Kind, Tensor};

use crate::Error;
use crate::model::dropout::{Noise, dropped};
use crate::model::layers::{Init, Linear, Source};

/// Of a layer that is to be made.
pub struct Shape {
    /// What the checkpoint calls the part that holds query, key and value.
    pub inner: &'static str,
    pub width: i64,
    pub heads: i64,
    /// Whether query, key and value have a bias.
    pub biased: bool,
    /// Of weights drawn anew.
    pub deviation: f64,
    /// Probability with which a token is not looked at, while training.
    pub dropout: f64,
}

pub struct Attention {
    inner: &'static str,
    heads: i64,
    dropout: f64,
    query: Linear,
    key: Linear,
    value: Linear,
    /// The three as one layer, which costs one pass over the input instead of three. Only while frozen.
    fused: Option<Linear>,
    output: Linear,
}

impl Attention {
    pub fn new(source: &mut Source, name: &str, shape: &Shape) -> Result<Self, Error> {
        let &Shape { inner, width: d, heads, biased, deviation, dropout } = shape;
        let (init, bias) = (Init::Normal(deviation), biased.then_some(Init::Zeros));
        let mut linear = |part: &str, bias| Linear::new(source, &format!("{name}.{part}"), [d, d], init, bias);
        Ok(Self {
            inner,
            heads,
            dropout,
            query: linear(&format!("{inner}.query"), bias)?,
            key: linear(&format!("{inner}.key"), bias)?,
            value: linear(&format!("{inner}.value"), bias)?,
            fused: None,
            output: linear("output.dense", Some(Init::Zeros))?,
        })
    }

    /// (rows, tokens, width) -> (rows, kept, width): what the first `kept` tokens gather from all that `mask`
    /// (rows, tokens) lets through.
    pub fn forward(&self, x: &Tensor, kept: i64, mask: Option<&Tensor>, noise: Option<&Noise>) -> Tensor {
        let (rows, tokens, width) = x.size3().expect("rows, tokens, width");
        let split = |part: &Tensor, tokens| {
            part.view([rows, tokens, self.heads, width / self.heads]).transpose(1, 2) // (rows, heads, tokens, dim)
        };
        let [query, key, value] = self.projected(&x.flatten(0, 1));
        let query = query.reshape([rows, tokens, width]).narrow(1, 0, kept).contiguous();
        let (key, value) = (split(&key.contiguous(), tokens), split(&value.contiguous(), tokens));
        let noise = noise.filter(|_| self.dropout > 0.0).map(|noise| (noise, self.dropout));
        let gathered = attend([&split(&query, kept), &key, &value], mask, noise);
        let gathered = gathered.transpose(1, 2).reshape([rows * kept, width]);
        self.output.forward(&gathered).view([rows, kept, width])
    }

    /// (rows · tokens, width) -> query, key and value, each of the same shape.
    fn projected(&self, x: &Tensor) -> [Tensor; 3] {
        let linears = [&self.query, &self.key, &self.value];
        let Some(fused) = &self.fused else {
            return linears.map(|linear| linear.forward(x));
        };
        let x = x.to_kind(fused.weight.kind());
        let mut parts = fused.forward(&x).chunk(3, -1).into_iter();
        linears.map(|linear| linear.adapted(parts.next().expect("three parts"), &x))
    }

    pub fn named(&self, name: &str) -> Vec<(String, Tensor)> {
        let inner = self.inner;
        let mut tensors = self.query.named(&format!("{name}.{inner}.query"));
        tensors.extend(self.key.named(&format!("{name}.{inner}.key")));
        tensors.extend(self.value.named(&format!("{name}.{inner}.value")));
        tensors.extend(self.output.named(&format!("{name}.output.dense")));
        tensors
    }

    pub fn linears(&mut self, name: &str) -> Vec<(String, &mut Linear)> {
        let inner = self.inner;
        vec![
            (format!("{name}.{inner}.query"), &mut self.query),
            (format!("{name}.{inner}.key"), &mut self.key),
            (format!("{name}.{inner}.value"), &mut self.value),
            (format!("{name}.output.dense"), &mut self.output),
        ]
    }

    pub fn freeze(&mut self, kind: Kind) {
        let parts = [&self.query, &self.key, &self.value];
        let weight = Tensor::cat(&parts.map(|part| part.weight.to_kind(kind)), 0);
        let biases: Option<Vec<&Tensor>> = parts.iter().map(|part| part.bias.as_ref()).collect();
        let bias = biases.map(|biases| Tensor::cat(&biases, 0).to_kind(kind));
        for (position, part) in [&mut self.query, &mut self.key, &mut self.value].into_iter().enumerate() {
            let width = part.shape().0;
            let start = position as i64 * width;
            part.weight = weight.narrow(0, start, width);
            part.bias = bias.as_ref().map(|bias| bias.narrow(0, start, width));
        }
        self.fused = Some(Linear { weight, bias, delta: None });
        self.output.cast(kind);
    }
}

/// Sequences up to this length take plain matrix products on a CPU, where the fused kernel's
/// backward pass is slower (four times in bf16, at 65 tokens).
const SHORT: i64 = 256;

/// `softmax(q·kᵀ / √dim)·v` over the tokens of `mask` (rows, tokens), all (rows, heads, tokens, dim).
///
/// The fused kernel would draw its own dropout.
fn attend([query, key, value]: [&Tensor; 3], mask: Option<&Tensor>, noise: Option<(&Noise, f64)>) -> Tensor {
    let (rows, heads, tokens, dim) = key.size4().expect("rows, heads, tokens, dim");
    if noise.is_none() && (key.device() != Device::Cpu || tokens > SHORT) {
        let mask = mask.map(|mask| mask.view([rows, 1, 1, tokens]));
        return Tensor::scaled_dot_product_attention(query, key, value, mask, 0.0, false, None, false);
    }
    let kept = query.size()[2];
    let merged = |x: &Tensor, tokens| x.reshape([rows * heads, tokens, dim]);
    let (query, key, value) = (merged(query, kept), merged(key, tokens), merged(value, tokens));
    let options = (query.kind(), query.device());
    let (hidden, beta) = match mask {
        None => (query.new_zeros([1, 1, 1], options), 0.0),
        Some(mask) => (hidden(mask, heads, options), 1.0),
    };
    let scores = hidden.baddbmm(&query, &key.transpose(1, 2), beta, 1.0 / (dim as f64).sqrt());
    let weights = scores.softmax(-1, None);
    let weights = match noise {
        Some((noise, p)) => dropped(weights, p, Some(noise)),
        None => weights,
    };
    weights.bmm(&value).view([rows, heads, kept, dim])
}

/// What is added to the scores of each row's heads, (rows · heads, 1, tokens): −∞ where there is padding.
fn hidden(mask: &Tensor, heads: i64, options: (Kind, Device)) -> Tensor {
    let zeros = Tensor::zeros(mask.size(), options);
    let hidden = zeros.masked_fill(&mask.logical_not(), f64::NEG_INFINITY);
    hidden.unsqueeze(1).repeat_interleave_self_int(heads, 0, None)
}
