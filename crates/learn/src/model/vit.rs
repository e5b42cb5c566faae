//! Vision Transformer (Dosovitskiy et al., 2021), tensor for tensor Hugging Face's `ViTModel`.
//!
//! Pre-norm blocks, GELU by erf, the class token as feature. The pooler is not used.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use crate::Error;
use crate::input::Input;
use crate::model::attention::{Attention, Shape};
use crate::model::dropout::{self, Noise, dropped};
use crate::model::layers::{Init, LayerNorm, Linear, Source};
use crate::model::{Embedded, Geometry, Model, Site, Takes, placed};

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
    pub hidden_dropout_prob: f64,
    pub attention_probs_dropout_prob: f64,
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
            hidden_dropout_prob: 0.0,
            attention_probs_dropout_prob: 0.0,
        }
    }
}

impl Config {
    fn attention(&self) -> Shape {
        Shape {
            inner: "attention",
            width: self.hidden_size,
            heads: self.num_attention_heads,
            biased: self.qkv_bias,
            deviation: self.initializer_range,
            dropout: self.attention_probs_dropout_prob,
        }
    }

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
        dropout::check([
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
        ])
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
    fn embed(&self, input: &Input) -> Embedded {
        let pixels = input.pixels();
        let kernel = self.projection.weight.flatten(1, -1);
        let patches = self.patches(pixels).linear(&kernel, self.projection.bias.as_ref());
        let class = self.class_token.expand([pixels.size()[0], 1, self.config.hidden_size], false);
        Embedded::new(Tensor::cat(&[class, patches], 1) + &self.positions, None)
    }

    fn depth(&self) -> usize {
        self.blocks.len()
    }

    fn advance(&self, Embedded { x, mask, done, noise, statistics }: Embedded, to: usize) -> Embedded {
        let x = if done == 0 { dropped(x, self.config.hidden_dropout_prob, noise.as_ref()) } else { x };
        let blocks = self.blocks[done..to].iter();
        let x = blocks.fold(x, |x, block| block.forward(&x, x.size()[1], noise.as_ref()));
        Embedded { x, mask, done: to, noise, statistics }
    }

    fn encode(&self, embedded: Embedded) -> Tensor {
        let last = self.blocks.len() - 1;
        // Only the class token leaves the last block: queries and MLP of the others are not needed.
        let Embedded { x, noise, .. } = self.advance(embedded, last);
        let encoded = self.blocks[last].forward(&x, 1, noise.as_ref());
        self.norm.forward(&encoded.select(1, 0))
    }

    fn width(&self) -> i64 {
        self.config.hidden_size
    }

    fn takes(&self) -> Takes {
        Takes::Images(Geometry { channels: self.config.num_channels, side: self.config.image_size })
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

    fn sites(&mut self) -> Vec<Site<'_>> {
        let blocks = self.blocks.iter_mut().enumerate();
        let sites = blocks.map(|(block, made)| (block, made.linears(&format!("encoder.layer.{block}"))));
        sites.flat_map(|(block, linears)| placed(block, linears)).collect()
    }

    fn freeze(&mut self, kind: Kind) {
        self.blocks.iter_mut().for_each(|block| block.freeze(kind));
    }

    fn config(&self) -> Value {
        let mut config = json!(self.config);
        config["model_type"] = json!(MODEL_TYPE);
        config["architectures"] = json!(["ViTModel"]);
        config
    }

    fn hub_paths(&self, path: &str) -> Vec<String> {
        hub_paths(path)
    }
}

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`.
struct Block {
    before: LayerNorm,
    attention: Attention,
    after: LayerNorm,
    up: Linear,
    down: Linear,
    dropout: f64,
}

impl Block {
    fn new(source: &mut Source, name: &str, config: &Config) -> Result<Self, Error> {
        let (d, inner, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let (init, zeros) = (Init::Normal(config.initializer_range), Some(Init::Zeros));
        Ok(Self {
            before: LayerNorm::new(source, &format!("{name}.layernorm_before"), d, eps)?,
            attention: Attention::new(source, &format!("{name}.attention"), &config.attention())?,
            after: LayerNorm::new(source, &format!("{name}.layernorm_after"), d, eps)?,
            up: Linear::new(source, &format!("{name}.intermediate.dense"), [inner, d], init, zeros)?,
            down: Linear::new(source, &format!("{name}.output.dense"), [d, inner], init, zeros)?,
            dropout: config.hidden_dropout_prob,
        })
    }

    /// (rows, tokens, width) -> (rows, kept, width): the first `kept` tokens.
    fn forward(&self, x: &Tensor, kept: i64, noise: Option<&Noise>) -> Tensor {
        let attended = self.attention.forward(&self.before.forward(x), kept, None, noise);
        let x = x.narrow(1, 0, kept) + dropped(attended, self.dropout, noise);
        let flat = self.after.forward(&x).flatten(0, 1);
        let update = self.down.forward(&self.up.forward(&flat).gelu("none"));
        // The sum is f32 whatever the type of the layers.
        &x + dropped(update.view_as(&x), self.dropout, noise)
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

/// Module names of a ViT in transformers 4 and what transformers 5 calls them.
const RENAMED: [(&str, &str); 7] = [
    ("encoder.layer.", "layers."),
    (".attention.attention.query", ".attention.q_proj"),
    (".attention.attention.key", ".attention.k_proj"),
    (".attention.attention.value", ".attention.v_proj"),
    (".attention.output.dense", ".attention.o_proj"),
    (".intermediate.dense", ".mlp.fc1"),
    (".output.dense", ".mlp.fc2"),
];

fn hub_paths(path: &str) -> Vec<String> {
    let renamed = RENAMED.iter().fold(path.to_owned(), |path, (old, new)| path.replace(old, new));
    let mut keys = vec![path.to_owned()];
    if renamed != path {
        keys.push(renamed);
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vit_layer_has_a_name_for_each_transformers() {
        let second = |path: &str| hub_paths(&format!("encoder.layer.3.{path}")).swap_remove(1);
        assert_eq!(second("attention.attention.query"), "layers.3.attention.q_proj");
        assert_eq!(second("attention.output.dense"), "layers.3.attention.o_proj");
        assert_eq!(second("intermediate.dense"), "layers.3.mlp.fc1");
        assert_eq!(second("output.dense"), "layers.3.mlp.fc2");
        assert_eq!(hub_paths("fc1"), ["fc1"]);
    }
}
