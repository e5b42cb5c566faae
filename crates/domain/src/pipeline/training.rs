//! How an update trains: the section `training` of a pipeline file.

use std::num::{NonZeroU32, NonZeroU64};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::number::{NonNegative, Positive, Ratio, Share};
use super::selection::Selection;

/// How many remembered rows a step sees.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Replay {
    /// This share of `batch_size`; the rest is new rows.
    Fraction(Share),
    /// This many rows beside a full batch of new ones.
    Batch(NonZeroU32),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    #[default]
    Adamw,
    Sgd,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    #[default]
    Constant,
    /// From `learning_rate` to zero over the update.
    Cosine,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    #[default]
    F32,
    /// Frozen linear layers in bf16; adapters, head, moments and reductions in f32.
    Bf16,
    /// The faster of the two on the devices of the run, measured at its start. Versions are scored in f32.
    Auto,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reduction {
    /// Every micro-batch's f32 partial is gathered and added in order: the same bits at any world size.
    Ordered,
    /// One all-reduce of each rank's sum.
    Fast,
}

/// Rows of the chunk that an update does not train on, but looks at after every epoch. They are never held-out items.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Validation {
    /// Share of the chunk's rows; with more than 0, the epoch that did best on them is the one kept.
    pub fraction: Share,
    pub metric: Metric,
    /// Training ends after so many epochs in a row without a better one. Default: never early.
    pub patience: Option<NonZeroU32>,
}

impl Default for Validation {
    fn default() -> Self {
        Self { fraction: Share(0.0), metric: Metric::default(), patience: None }
    }
}

/// What the best epoch is best in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Mean cross-entropy; the lowest is best.
    #[default]
    Loss,
    /// Share of rows answered rightly; the highest is best.
    Accuracy,
}

/// Every weight that trains becomes `shrink·θ + sigma·N(0, 1)` (Ash and Adams, 2020).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ShrinkPerturb {
    pub shrink: Ratio,
    pub sigma: NonNegative,
}

impl Default for ShrinkPerturb {
    /// Renate's.
    fn default() -> Self {
        Self { shrink: Ratio(0.95), sigma: NonNegative(0.001) }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Training {
    pub epochs: NonZeroU32,
    pub batch_size: NonZeroU32,
    pub replay: Replay,
    pub optimizer: OptimizerKind,
    pub learning_rate: Positive,
    pub weight_decay: NonNegative,
    pub schedule: Schedule,
    /// Logical micro-batches a step is cut into, whatever the number of ranks. Default: 4 for batches of 32 or more, else 1.
    pub micro_batches: Option<NonZeroU32>,
    /// Default: `ordered` on CPU, `fast` on GPU.
    pub reduction: Option<Reduction>,
    /// Activations are dropped as the base's `config.json` says; blocks below every adapter drop none.
    pub dropout: bool,
    pub precision: Precision,
    /// Which of a step's new rows are back-propagated.
    pub selection: Selection,
    pub validation: Validation,
    /// What is done to the parent's weights first. Default: nothing; for `super-er`, as Renate has it.
    pub reinitialize: Option<ShrinkPerturb>,
    /// A checkpoint is kept after this many steps…
    pub checkpoint_steps: NonZeroU64,
    /// …or seconds, whichever comes first.
    pub checkpoint_seconds: NonZeroU64,
}

impl Default for Training {
    fn default() -> Self {
        Self {
            epochs: NonZeroU32::MIN,
            batch_size: NonZeroU32::new(32).expect("not zero"),
            replay: Replay::Fraction(Share(0.5)),
            optimizer: OptimizerKind::default(),
            learning_rate: Positive(2e-3),
            weight_decay: NonNegative(0.0),
            schedule: Schedule::default(),
            micro_batches: None,
            reduction: None,
            dropout: true,
            precision: Precision::default(),
            selection: Selection::default(),
            validation: Validation::default(),
            reinitialize: None,
            checkpoint_steps: NonZeroU64::new(200).expect("not zero"),
            checkpoint_seconds: NonZeroU64::new(30).expect("not zero"),
        }
    }
}

impl Training {
    /// L, the number of logical micro-batches of a step.
    pub fn micro_batches(&self) -> usize {
        let default = if self.batch_size.get() >= 32 { 4 } else { 1 };
        self.micro_batches.map_or(default, |l| l.get() as usize)
    }

    /// Rows of new data and of memory in one step.
    pub fn split(&self) -> (usize, usize) {
        let batch = self.batch_size.get() as usize;
        match self.replay {
            Replay::Fraction(share) => {
                let memory = (share.get() * batch as f64).floor() as usize;
                (batch - memory, memory)
            }
            Replay::Batch(rows) => (batch, rows.get() as usize),
        }
    }
}
