//! Models: rows -> embedded -> features -> logits.

mod attention;
pub mod bert;
pub mod dropout;
pub mod folder;
pub mod head;
pub mod layers;
pub mod mlp;
pub mod norm;
mod pooled;
pub mod resnet;
pub mod scratch;
pub mod vit;

use domain::pipeline::FeaturePooling;
use serde_json::Value;
use tch::{Kind, Tensor};

use crate::heads::Heads;
use crate::input::Input;
use dropout::Noise;
use head::Head;
use layers::Linear;
use pooled::pooled;

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

/// Linear layers of a block.
fn placed(block: usize, linears: Vec<(String, &mut Linear)>) -> impl Iterator<Item = Site<'_>> {
    linears.into_iter().map(move |(path, linear)| Site { block, path, linear })
}

/// What a model reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    Images(Geometry),
    Texts(TextLimits),
}

/// Rows on their way through a model.
pub struct Embedded {
    /// For a transformer (rows, tokens, width).
    pub x: Tensor,
    /// (rows, tokens), bool: false where a token is padding. None where none is.
    pub mask: Option<Tensor>,
    /// Blocks they have been through.
    pub done: usize,
    /// What drops activations while training.
    pub noise: Option<Noise>,
    /// Where a learning pass leaves the statistics of its rows, laid out as the net's running ones are.
    pub statistics: Option<Tensor>,
}

impl Embedded {
    /// Before the first block, as no pass that learns sees it.
    pub fn new(x: Tensor, mask: Option<Tensor>) -> Self {
        Self { x, mask, done: 0, noise: None, statistics: None }
    }

    /// The same rows, as no pass that learns sees them.
    pub fn shallow_clone(&self) -> Self {
        let mask = self.mask.as_ref().map(Tensor::shallow_clone);
        Self { done: self.done, ..Self::new(self.x.shallow_clone(), mask) }
    }
}

/// A linear layer that an adapter may change.
pub struct Site<'a> {
    /// Of the model's blocks, from below.
    pub block: usize,
    /// Module path in a checkpoint.
    pub path: String,
    pub linear: &'a mut Linear,
}

/// Everything below the head.
pub trait Model {
    fn embed(&self, input: &Input) -> Embedded;

    /// Blocks between the embedding and the features.
    fn depth(&self) -> usize;

    /// Through all blocks below `to`.
    fn advance(&self, embedded: Embedded, to: usize) -> Embedded;

    /// Through whatever blocks are left -> features (rows, width)
    fn encode(&self, embedded: Embedded) -> Tensor;

    /// Of the features.
    fn width(&self) -> i64;

    fn takes(&self) -> Takes;

    /// Every base tensor under its name in a checkpoint. Handles, not copies.
    fn tensors(&self) -> Vec<(String, Tensor)>;

    fn sites(&mut self) -> Vec<Site<'_>>;

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
    /// Blocks below the lowest that trains.
    pub frozen: usize,
    /// (classes, width): the mean of each class's normalised features, itself normalised; NaN for a class without any.
    pub means: Option<Tensor>,
    /// Where tasks have heads of their own.
    pub heads: Option<Heads>,
}

/// What a net makes of rows, and what on the way.
pub struct Seen {
    /// Of each block but the last, above those that are frozen: its output, pooled; then the features. Rows of norm 1.
    pub levels: Vec<Tensor>,
    /// (rows, classes)
    pub logits: Tensor,
}

/// Of features (rows, width), once they are normalised; −∞ to a class without a mean.
fn nearness(features: &Tensor, means: &Tensor) -> Tensor {
    let distance = Tensor::cdist(&normalised(features), &means.nan_to_num(0.0, 0.0, 0.0), 2.0, None::<i64>);
    (-distance.square()).masked_fill(&means.select(1, 0).isnan(), f64::NEG_INFINITY)
}

/// Each row divided by its norm.
pub fn normalised(features: &Tensor) -> Tensor {
    let features = features.to_kind(Kind::Float);
    let squares = features.square().sum_dim_intlist(&[-1i64][..], true, Kind::Float);
    // Before the root, whose slope at 0 is infinite.
    features / squares.clamp_min(1e-24).sqrt()
}

impl Net {
    /// -> logits (rows, classes), f32.
    pub fn forward(&self, input: &Input) -> Tensor {
        self.head.forward(&self.features(input))
    }

    /// -> (rows, width)
    pub fn features(&self, input: &Input) -> Tensor {
        self.body.encode(self.embedded(input))
    }

    /// The scores that decide: the logits, or where the version knows class means, how near each is, −‖f − μ‖².
    pub fn answer(&self, input: &Input) -> Tensor {
        match &self.means {
            Some(means) => nearness(&self.features(input), means),
            None => self.forward(input),
        }
    }

    /// The same of rows of one task, where it is known: −∞ to what is no label of it.
    pub fn answer_within(&self, input: &Input, task: Option<&str>) -> Tensor {
        let answers = self.answer(input);
        let classes = answers.size()[1] as usize;
        let mask = task.and_then(|task| self.heads.as_ref()?.mask(task, classes));
        match mask {
            Some(mask) => &answers + mask.to_device(answers.device()),
            None => answers,
        }
    }

    /// The same while training: activations are dropped as the model's configuration says, and batch normalisation has the
    /// rows' statistics, which it leaves in `statistics`.
    pub fn learn(&self, input: &Input, noise: Option<Noise>, statistics: Option<&Tensor>) -> Tensor {
        let statistics = statistics.map(Tensor::shallow_clone);
        let embedded = Embedded { noise, statistics, ..self.embedded(input) };
        self.head.forward(&self.body.encode(embedded))
    }

    /// The same, with what it comes from.
    pub fn observe(
        &self,
        input: &Input,
        noise: Option<Noise>,
        statistics: Option<&Tensor>,
        pooling: FeaturePooling,
    ) -> Seen {
        let statistics = statistics.map(Tensor::shallow_clone);
        let mut embedded = Embedded { noise, statistics, ..self.embedded(input) };
        let mut levels = Vec::new();
        for to in self.frozen + 1..self.body.depth() {
            embedded = self.body.advance(embedded, to);
            levels.push(pooled(&embedded.x, embedded.mask.as_ref(), pooling));
        }
        let features = self.body.encode(embedded);
        levels.push(normalised(&features));
        Seen { levels, logits: self.head.forward(&features) }
    }

    fn embedded(&self, input: &Input) -> Embedded {
        match input {
            Input::Hidden(hidden) => hidden.shallow_clone(),
            rows => self.body.embed(rows),
        }
    }
}
