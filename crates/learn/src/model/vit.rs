//! Vision Transformer (Dosovitskiy et al., 2021), tensor for tensor Hugging Face's `ViTModel`.
//!
//! Pre-norm blocks, GELU by erf, the class token as feature. The pooler is not used; dropout is off.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::Error;
use crate::model::layers::{Init, LayerNorm, Linear, Source};
use crate::model::{Geometry, Model};

pub const MODEL_TYPE: &str = "vit";

/// The fields of `config.json` that change the forward pass; defaults are Hugging Face's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    pub hidden_size: i64,
    pub num_hidden_layers: i64,
    pub num_attention_heads: i64,
    pub intermediate_size: i64,
    pub image_size: i64,
    pub patch_size: i64,
    pub num_channels: i64,
    pub layer_norm_eps: f64,
    pub hidden_act: String,
    pub qkv_bias: bool,
    pub initializer_range: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            image_size: 224,
            patch_size: 16,
            num_channels: 3,
            layer_norm_eps: 1e-12,
            hidden_act: "gelu".to_owned(),
            qkv_bias: true,
            initializer_range: 0.02,
        }
    }
}

impl Config {
    /// Otherwise the field at fault, what it is, and why that cannot be.
    pub fn check(&self) -> Result<(), (&'static str, String, String)> {
        let refuse = |field, given: &dyn ToString, reason: String| Err((field, given.to_string(), reason));
        if self.hidden_act != "gelu" {
            return refuse("hidden_act", &self.hidden_act, "only `gelu` is supported".to_owned());
        }
        if self.num_attention_heads < 1 || self.hidden_size % self.num_attention_heads != 0 {
            let reason = format!("it must divide the hidden size, {}", self.hidden_size);
            return refuse("num_attention_heads", &self.num_attention_heads, reason);
        }
        if self.patch_size < 1 || self.image_size % self.patch_size != 0 {
            let reason = format!("it must divide the image size, {}", self.image_size);
            return refuse("patch_size", &self.patch_size, reason);
        }
        if self.num_hidden_layers < 1 {
            return refuse("num_hidden_layers", &self.num_hidden_layers, "at least 1 is needed".to_owned());
        }
        Ok(())
    }
}

pub struct Vit {
    config: Config,
    class_token: Tensor,
    /// (1, 1 + patches, width)
    positions: Tensor,
    /// (width, channels · patch · patch): the convolution as a matrix.
    projection: Linear,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

impl Vit {
    pub fn new(config: Config, source: &mut Source) -> Result<Self, Error> {
        let (d, patch, channels) = (config.hidden_size, config.patch_size, config.num_channels);
        let tokens = 1 + (config.image_size / patch).pow(2);
        let init = Init::Normal(config.initializer_range);
        let kernel = source("embeddings.patch_embeddings.projection.weight", &[d, channels, patch, patch], init)?;
        Ok(Self {
            class_token: source("embeddings.cls_token", &[1, 1, d], init)?,
            positions: source("embeddings.position_embeddings", &[1, tokens, d], init)?,
            projection: Linear {
                weight: kernel,
                bias: Some(source("embeddings.patch_embeddings.projection.bias", &[d], Init::Zeros)?),
                delta: None,
            },
            blocks: (0..config.num_hidden_layers)
                .map(|layer| Block::new(source, &format!("encoder.layer.{layer}"), &config))
                .collect::<Result<_, _>>()?,
            norm: LayerNorm::new(source, "layernorm", d, config.layer_norm_eps)?,
            config,
        })
    }

    /// (rows, channels, side, side) -> (rows, patches, channels · patch · patch)
    fn patches(&self, pixels: &Tensor) -> Tensor {
        let (channels, patch) = (self.config.num_channels, self.config.patch_size);
        let grid = self.config.image_size / patch;
        pixels.reshape([-1, channels, grid, patch, grid, patch]).permute([0, 2, 4, 1, 3, 5]).reshape([
            -1,
            grid * grid,
            channels * patch * patch,
        ])
    }
}

impl Model for Vit {
    fn embed(&self, pixels: &Tensor) -> Tensor {
        let kernel = self.projection.weight.flatten(1, -1);
        let patches = self.patches(pixels).linear(&kernel, self.projection.bias.as_ref());
        let class = self.class_token.expand([pixels.size()[0], 1, self.config.hidden_size], false);
        Tensor::cat(&[class, patches], 1) + &self.positions
    }

    fn encode(&self, embedded: Tensor) -> Tensor {
        let last = self.blocks.len().saturating_sub(1);
        let encoded = self.blocks.iter().enumerate().fold(embedded, |x, (layer, block)| {
            // Only the class token leaves the last block: queries and MLP of the others are not needed.
            let kept = if layer == last { 1 } else { x.size()[1] };
            block.forward(&x, kept)
        });
        self.norm.forward(&encoded.select(1, 0))
    }

    fn width(&self) -> i64 {
        self.config.hidden_size
    }

    fn geometry(&self) -> Geometry {
        Geometry { channels: self.config.num_channels, side: self.config.image_size }
    }

    fn tensors(&self) -> Vec<(String, Tensor)> {
        let mut tensors = vec![
            ("embeddings.cls_token".to_owned(), self.class_token.shallow_clone()),
            ("embeddings.position_embeddings".to_owned(), self.positions.shallow_clone()),
        ];
        tensors.extend(self.projection.named("embeddings.patch_embeddings.projection"));
        for (layer, block) in self.blocks.iter().enumerate() {
            tensors.extend(block.named(&format!("encoder.layer.{layer}")));
        }
        tensors.extend(self.norm.named("layernorm"));
        tensors
    }

    fn linears(&mut self) -> Vec<(String, &mut Linear)> {
        let blocks = self.blocks.iter_mut().enumerate();
        blocks.flat_map(|(layer, block)| block.linears(&format!("encoder.layer.{layer}"))).collect()
    }

    fn freeze(&mut self, kind: Kind) {
        self.blocks.iter_mut().for_each(|block| block.freeze(kind));
    }

    fn config(&self) -> Value {
        let mut config = json!(self.config);
        config["model_type"] = json!(MODEL_TYPE);
        config["architectures"] = json!(["ViTModel"]);
        config["hidden_dropout_prob"] = json!(0.0);
        config["attention_probs_dropout_prob"] = json!(0.0);
        config
    }
}

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`.
struct Block {
    before: LayerNorm,
    attention: Attention,
    after: LayerNorm,
    up: Linear,
    down: Linear,
}

impl Block {
    fn new(source: &mut Source, name: &str, config: &Config) -> Result<Self, Error> {
        let (d, inner, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let (init, zeros) = (Init::Normal(config.initializer_range), Some(Init::Zeros));
        Ok(Self {
            before: LayerNorm::new(source, &format!("{name}.layernorm_before"), d, eps)?,
            attention: Attention::new(source, &format!("{name}.attention"), config)?,
            after: LayerNorm::new(source, &format!("{name}.layernorm_after"), d, eps)?,
            up: Linear::new(source, &format!("{name}.intermediate.dense"), [inner, d], init, zeros)?,
            down: Linear::new(source, &format!("{name}.output.dense"), [d, inner], init, zeros)?,
        })
    }

    /// (rows, tokens, width) -> (rows, kept, width): the first `kept` tokens.
    fn forward(&self, x: &Tensor, kept: i64) -> Tensor {
        let attended = self.attention.forward(&self.before.forward(x), kept);
        let x = x.narrow(1, 0, kept) + attended;
        let flat = self.after.forward(&x).flatten(0, 1);
        let update = self.down.forward(&self.up.forward(&flat).gelu("none"));
        // The sum is f32 whatever the type of the layers.
        &x + update.view_as(&x)
    }

    fn named(&self, name: &str) -> Vec<(String, Tensor)> {
        let mut tensors = self.before.named(&format!("{name}.layernorm_before"));
        tensors.extend(self.attention.named(&format!("{name}.attention")));
        tensors.extend(self.after.named(&format!("{name}.layernorm_after")));
        tensors.extend(self.up.named(&format!("{name}.intermediate.dense")));
        tensors.extend(self.down.named(&format!("{name}.output.dense")));
        tensors
    }

    fn linears(&mut self, name: &str) -> Vec<(String, &mut Linear)> {
        let mut linears = self.attention.linears(&format!("{name}.attention"));
        linears.push((format!("{name}.intermediate.dense"), &mut self.up));
        linears.push((format!("{name}.output.dense"), &mut self.down));
        linears
    }

    fn freeze(&mut self, kind: Kind) {
        self.attention.freeze(kind);
        self.up.cast(kind);
        self.down.cast(kind);
    }
}

struct Attention {
    heads: i64,
    query: Linear,
    key: Linear,
    value: Linear,
    /// The three as one layer, which costs one pass over the input instead of three. Only while frozen.
    fused: Option<Linear>,
    output: Linear,
}

impl Attention {
    fn new(source: &mut Source, name: &str, config: &Config) -> Result<Self, Error> {
        let d = config.hidden_size;
        let init = Init::Normal(config.initializer_range);
        let bias = config.qkv_bias.then_some(Init::Zeros);
        let mut linear = |part: &str, bias| Linear::new(source, &format!("{name}.{part}"), [d, d], init, bias);
        Ok(Self {
            heads: config.num_attention_heads,
            query: linear("attention.query", bias)?,
            key: linear("attention.key", bias)?,
            value: linear("attention.value", bias)?,
            fused: None,
            output: linear("output.dense", Some(Init::Zeros))?,
        })
    }

    /// (rows, tokens, width) -> (rows, kept, width): what the first `kept` tokens gather from all.
    fn forward(&self, x: &Tensor, kept: i64) -> Tensor {
        let (rows, tokens, width) = x.size3().expect("rows, tokens, width");
        let split = |part: &Tensor, tokens| {
            part.view([rows, tokens, self.heads, width / self.heads]).transpose(1, 2) // (rows, heads, tokens, dim)
        };
        let [query, key, value] = self.projected(&x.flatten(0, 1));
        let query = query.reshape([rows, tokens, width]).narrow(1, 0, kept).contiguous();
        let (key, value) = (split(&key.contiguous(), tokens), split(&value.contiguous(), tokens));
        let gathered = attend(&split(&query, kept), &key, &value);
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

    fn named(&self, name: &str) -> Vec<(String, Tensor)> {
        let mut tensors = self.query.named(&format!("{name}.attention.query"));
        tensors.extend(self.key.named(&format!("{name}.attention.key")));
        tensors.extend(self.value.named(&format!("{name}.attention.value")));
        tensors.extend(self.output.named(&format!("{name}.output.dense")));
        tensors
    }

    fn linears(&mut self, name: &str) -> Vec<(String, &mut Linear)> {
        vec![
            (format!("{name}.attention.query"), &mut self.query),
            (format!("{name}.attention.key"), &mut self.key),
            (format!("{name}.attention.value"), &mut self.value),
            (format!("{name}.output.dense"), &mut self.output),
        ]
    }

    fn freeze(&mut self, kind: Kind) {
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

/// `softmax(q·kᵀ / √dim)·v`, all (rows, heads, tokens, dim).
fn attend(query: &Tensor, key: &Tensor, value: &Tensor) -> Tensor {
    let (rows, heads, tokens, dim) = key.size4().expect("rows, heads, tokens, dim");
    if key.device() != Device::Cpu || tokens > SHORT {
        return Tensor::scaled_dot_product_attention(query, key, value, None::<&Tensor>, 0.0, false, None, false);
    }
    let kept = query.size()[2];
    let merged = |x: &Tensor, tokens| x.reshape([rows * heads, tokens, dim]);
    let (query, key, value) = (merged(query, kept), merged(key, tokens), merged(value, tokens));
    let nothing = query.new_zeros([1, 1, 1], (query.kind(), query.device()));
    let scores = nothing.baddbmm(&query, &key.transpose(1, 2), 0.0, 1.0 / (dim as f64).sqrt());
    scores.softmax(-1, None).bmm(&value).view([rows, heads, kept, dim])
}
