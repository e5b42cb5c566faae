//! BERT (Devlin et al., 2019), tensor for tensor Hugging Face's `BertModel`: MiniLM and other sentence encoders.
//!
//! Post-norm blocks, GELU by erf, learned absolute positions, every token of the first type. The feature is the mean of
//! the tokens or the first one (Reimers and Gurevych, 2019, compare them). The pooler is not used.

use domain::pipeline::Pooling;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use crate::Error;
use crate::input::{Input, Tokens};
use crate::model::attention::{Attention, Shape};
use crate::model::dropout::{self, Noise, dropped};
use crate::model::layers::{Init, LayerNorm, Linear, Source};
use crate::model::{Embedded, Model, Site, Takes, TextLimits, placed};

pub const MODEL_TYPE: &str = "bert";

/// The fields of `config.json` that change the forward pass; defaults are Hugging Face's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    pub vocab_size: i64,
    pub hidden_size: i64,
    pub num_hidden_layers: i64,
    pub num_attention_heads: i64,
    pub intermediate_size: i64,
    pub max_position_embeddings: i64,
    pub type_vocab_size: i64,
    pub layer_norm_eps: f64,
    pub hidden_act: String,
    pub position_embedding_type: String,
    pub initializer_range: f64,
    pub hidden_dropout_prob: f64,
    pub attention_probs_dropout_prob: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            hidden_act: "gelu".to_owned(),
            position_embedding_type: "absolute".to_owned(),
            initializer_range: 0.02,
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
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
        if self.position_embedding_type != "absolute" {
            let reason = "only `absolute` is supported".to_owned();
            return refuse("position_embedding_type", &self.position_embedding_type, reason);
        }
        if self.num_attention_heads < 1 || self.hidden_size % self.num_attention_heads != 0 {
            let reason = format!("it must divide the hidden size, {}", self.hidden_size);
            return refuse("num_attention_heads", &self.num_attention_heads, reason);
        }
        let sizes = [
            ("num_hidden_layers", self.num_hidden_layers),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ];
        match sizes.into_iter().find(|(_, size)| *size < 1) {
            Some((field, size)) => refuse(field, &size, "at least 1 is needed".to_owned()),
            None => dropout::check([
                ("hidden_dropout_prob", self.hidden_dropout_prob),
                ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
            ]),
        }
    }

    fn attention(&self) -> Shape {
        Shape {
            inner: "self",
            width: self.hidden_size,
            heads: self.num_attention_heads,
            biased: true,
            deviation: self.initializer_range,
            dropout: self.attention_probs_dropout_prob,
        }
    }
}

pub struct Bert {
    config: Config,
    pooling: Pooling,
    /// (vocabulary, width), (positions, width), (types, width)
    words: Tensor,
    positions: Tensor,
    types: Tensor,
    norm: LayerNorm,
    blocks: Vec<Block>,
}

impl Bert {
    pub fn new(config: Config, pooling: Pooling, source: &mut Source) -> Result<Self, Error> {
        let (d, init) = (config.hidden_size, Init::Normal(config.initializer_range));
        let mut table = |name: &str, rows| source(&format!("embeddings.{name}.weight"), &[rows, d], init);
        Ok(Self {
            pooling,
            words: table("word_embeddings", config.vocab_size)?,
            positions: table("position_embeddings", config.max_position_embeddings)?,
            types: table("token_type_embeddings", config.type_vocab_size)?,
            norm: LayerNorm::new(source, "embeddings.LayerNorm", d, config.layer_norm_eps)?,
            blocks: (0..config.num_hidden_layers)
                .map(|layer| Block::new(source, &format!("encoder.layer.{layer}"), &config))
                .collect::<Result<_, _>>()?,
            config,
        })
    }
}

impl Model for Bert {
    fn embed(&self, input: &Input) -> Embedded {
        let Tokens { ids, mask } = input.tokens();
        let length = ids.size()[1];
        let words = Tensor::embedding(&self.words, ids, -1, false, false); // (rows, length, width)
        let x = words + self.positions.narrow(0, 0, length) + self.types.narrow(0, 0, 1);
        Embedded::new(self.norm.forward(&x), mask.as_ref().map(Tensor::shallow_clone))
    }

    fn depth(&self) -> usize {
        self.blocks.len()
    }

    fn advance(&self, Embedded { x, mask, done, noise, statistics }: Embedded, to: usize) -> Embedded {
        let x = if done == 0 { dropped(x, self.config.hidden_dropout_prob, noise.as_ref()) } else { x };
        let blocks = self.blocks[done..to].iter();
        let x = blocks.fold(x, |x, block| block.forward(&x, x.size()[1], mask.as_ref(), noise.as_ref()));
        Embedded { x, mask, done: to, noise, statistics }
    }

    fn encode(&self, embedded: Embedded) -> Tensor {
        let last = self.blocks.len() - 1;
        let Embedded { x, mask, noise, .. } = self.advance(embedded, last);
        // Only the first token leaves the last block, if it is the feature.
        let kept = if self.pooling == Pooling::Cls { 1 } else { x.size()[1] };
        let encoded = self.blocks[last].forward(&x, kept, mask.as_ref(), noise.as_ref());
        match (self.pooling, mask) {
            (Pooling::Cls, _) => encoded.select(1, 0),
            (Pooling::Mean, None) => encoded.mean_dim(&[1i64][..], false, Kind::Float),
            (Pooling::Mean, Some(mask)) => {
                let mask = mask.unsqueeze(-1).to_kind(Kind::Float); // (rows, tokens, 1)
                (encoded * &mask).sum_dim_intlist(&[1i64][..], false, Kind::Float)
                    / mask.sum_dim_intlist(&[1i64][..], false, Kind::Float)
            }
        }
    }

    fn width(&self) -> i64 {
        self.config.hidden_size
    }

    fn takes(&self) -> Takes {
        let (vocabulary, positions) = (self.config.vocab_size, self.config.max_position_embeddings);
        Takes::Texts(TextLimits { vocabulary, positions })
    }

    fn tensors(&self) -> Vec<(String, Tensor)> {
        let tables = [
            ("word_embeddings", &self.words),
            ("position_embeddings", &self.positions),
            ("token_type_embeddings", &self.types),
        ];
        let named = |(name, table): (&str, &Tensor)| (format!("embeddings.{name}.weight"), table.shallow_clone());
        let mut tensors: Vec<_> = tables.into_iter().map(named).collect();
        tensors.extend(self.norm.named("embeddings.LayerNorm"));
        for (layer, block) in self.blocks.iter().enumerate() {
            tensors.extend(block.named(&format!("encoder.layer.{layer}")));
        }
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
        config["architectures"] = json!(["BertModel"]);
        config
    }
}

/// `x = norm(x + attention(x))`, then `x = norm(x + mlp(x))`.
struct Block {
    attention: Attention,
    attended: LayerNorm,
    up: Linear,
    down: Linear,
    norm: LayerNorm,
    dropout: f64,
}

impl Block {
    fn new(source: &mut Source, name: &str, config: &Config) -> Result<Self, Error> {
        let (d, inner, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let (init, zeros) = (Init::Normal(config.initializer_range), Some(Init::Zeros));
        Ok(Self {
            attention: Attention::new(source, &format!("{name}.attention"), &config.attention())?,
            attended: LayerNorm::new(source, &format!("{name}.attention.output.LayerNorm"), d, eps)?,
            up: Linear::new(source, &format!("{name}.intermediate.dense"), [inner, d], init, zeros)?,
            down: Linear::new(source, &format!("{name}.output.dense"), [d, inner], init, zeros)?,
            norm: LayerNorm::new(source, &format!("{name}.output.LayerNorm"), d, eps)?,
            dropout: config.hidden_dropout_prob,
        })
    }

    /// (rows, tokens, width) -> (rows, kept, width): the first `kept` tokens.
    fn forward(&self, x: &Tensor, kept: i64, mask: Option<&Tensor>, noise: Option<&Noise>) -> Tensor {
        let attended = dropped(self.attention.forward(x, kept, mask, noise), self.dropout, noise);
        // Sums are f32 whatever the type of the layers.
        let x = self.attended.forward(&(x.narrow(1, 0, kept) + attended));
        let update = self.down.forward(&self.up.forward(&x.flatten(0, 1)).gelu("none"));
        self.norm.forward(&(&x + dropped(update.view_as(&x), self.dropout, noise)))
    }

    fn named(&self, name: &str) -> Vec<(String, Tensor)> {
        let mut tensors = self.attention.named(&format!("{name}.attention"));
        tensors.extend(self.attended.named(&format!("{name}.attention.output.LayerNorm")));
        tensors.extend(self.up.named(&format!("{name}.intermediate.dense")));
        tensors.extend(self.down.named(&format!("{name}.output.dense")));
        tensors.extend(self.norm.named(&format!("{name}.output.LayerNorm")));
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
