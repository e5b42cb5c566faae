//! Models: pixels -> embedded -> features -> logits.

pub mod folder;
pub mod head;
pub mod layers;
pub mod mlp;
pub mod scratch;
pub mod vit;

use serde_json::Value;
use tch::{Kind, Tensor};

use head::Head;
use layers::Linear;

/// The images a model takes: square, of so many channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub channels: i64,
    pub side: i64,
}

/// Everything below the head.
pub trait Model {
    /// Normalised pixels (rows, channels, side, side) -> what `encode` takes: for a transformer (rows, tokens, width).
    fn embed(&self, pixels: &Tensor) -> Tensor;

    /// -> features (rows, width)
    fn encode(&self, embedded: Tensor) -> Tensor;

    /// Of the features.
    fn width(&self) -> i64;

    fn geometry(&self) -> Geometry;

    /// Every base tensor under its name in a checkpoint. Handles, not copies.
    fn tensors(&self) -> Vec<(String, Tensor)>;

    /// The linear layers an adapter may change, by module path.
    fn linears(&mut self) -> Vec<(String, &mut Linear)>;

    /// Base tensors will not train: linear layers may be fused, and take `kind`.
    fn freeze(&mut self, kind: Kind);

    /// `config.json`.
    fn config(&self) -> Value;
}

/// A model with its head.
pub struct Net {
    pub body: Box<dyn Model>,
    pub head: Head,
}

impl Net {
    /// Normalised pixels (rows, channels, side, side) -> logits (rows, classes), f32.
    pub fn forward(&self, pixels: &Tensor) -> Tensor {
        self.head.forward(&self.body.encode(self.body.embed(pixels)))
    }
}
