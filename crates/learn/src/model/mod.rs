//! Models: rows -> embedded -> features -> logits.

mod attention;
pub mod bert;
pub mod folder;
pub mod head;
pub mod layers;
pub mod mlp;
pub mod scratch;
pub mod vit;

use serde_json::Value;
use tch::{Kind, Tensor};

use crate::input::Input;
use head::Head;
use layers::Linear;

/// The images a model takes: square, of so many channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub channels: i64,
    pub side: i64,
}

/// The texts a model takes: ids below `vocabulary`, at most `positions` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextLimits {
    pub vocabulary: i64,
    pub positions: i64,
}

/// What a model reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    Images(Geometry),
    Texts(TextLimits),
}

/// What `embed` makes and `encode` takes.
pub struct Embedded {
    /// For a transformer (rows, tokens, width).
    pub x: Tensor,
    /// (rows, tokens), bool: false where a token is padding. None where none is.
    pub mask: Option<Tensor>,
}

/// Everything below the head.
pub trait Model {
    fn embed(&self, input: &Input) -> Embedded;

    /// -> features (rows, width)
    fn encode(&self, embedded: Embedded) -> Tensor;

    /// Of the features.
    fn width(&self) -> i64;

    fn takes(&self) -> Takes;

    /// Every base tensor under its name in a checkpoint. Handles, not copies.
    fn tensors(&self) -> Vec<(String, Tensor)>;

    /// The linear layers an adapter may change, by module path.
    fn linears(&mut self) -> Vec<(String, &mut Linear)>;

    /// Base tensors will not train: linear layers may be fused, and take `kind`.
    fn freeze(&mut self, kind: Kind);

    /// `config.json`.
    fn config(&self) -> Value;

    /// The names under which Hugging Face code of any version may look for what is called `path` in a checkpoint.
    fn hub_paths(&self, path: &str) -> Vec<String> {
        vec![path.to_owned()]
    }
}

/// A model with its head.
pub struct Net {
    pub body: Box<dyn Model>,
    pub head: Head,
}

impl Net {
    /// -> logits (rows, classes), f32.
    pub fn forward(&self, input: &Input) -> Tensor {
        self.head.forward(&self.body.encode(self.body.embed(input)))
    }
}
