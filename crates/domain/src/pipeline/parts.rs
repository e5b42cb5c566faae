//! The sections of a pipeline file, each with its defaults.

use std::num::{NonZeroU32, NonZeroU64};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::number::{NonNegative, Positive, Share};

/// Where the base model comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Model {
    /// A Hugging Face folder, pinned by digest. `perennial model push DIR` prints both.
    Folder(ModelFolder),
    /// A model initialised from the seed: `mlp:100,100` (hidden widths), `vit:d=64,layers=4,heads=4,patch=4,mlp=128`, or
    /// `resnet18:slim`, `resnet18:cifar` and `resnet18:imagenet`, with `,norm=continual,groups=20,nf=20` after it.
    Scratch(String),
}

/// Whether `text` asks for a model initialised from the seed.
pub fn is_line(text: &str) -> bool {
    ["mlp:", "vit:", "resnet18:"].iter().any(|kind| text.starts_with(kind))
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelFolder {
    pub uri: String,
    /// Of the folder: SHA-256 over the sorted lines `<sha256 of file>  <name>\n`.
    pub sha256: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LabelsMode {
    /// A row with a name outside `labels` goes to quarantine.
    #[default]
    Closed,
    /// A new name is appended to `labels`.
    Open,
}

/// How pixels become numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Normalize {
    /// Divided by 255.
    Unit,
    /// Standardised by the first update's training rows; the numbers are kept with the version.
    Dataset,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Input {
    /// Default: what the model folder's `preprocessor_config.json` says, else `unit`.
    pub normalize: Option<Normalize>,
    /// Channels and side of the image that a model made from scratch takes. Folders know theirs.
    pub channels: Option<NonZeroU32>,
    pub image_size: Option<NonZeroU32>,
    /// Tokens of a text; what is longer is cut. Default: 128, or what the model takes if that is less.
    pub max_length: Option<NonZeroU32>,
    /// How a text's tokens become one vector.
    pub pooling: Pooling,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// The mean over tokens, padding left out.
    #[default]
    Mean,
    /// The first token's.
    Cls,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Every row seen is kept with equal probability (Vitter, 1985).
    #[default]
    Reservoir,
    /// A row is kept while its label holds less than an equal share of the memory (GDumb; Prabhu et al., 2020).
    ClassBalanced,
    /// Every new row is kept, in place of a random one of a most frequent label (Renate; Wistuba et al., 2023).
    Greedy,
    /// The last rows are kept (Renate's sliding window; Wistuba et al., 2023).
    Window,
    /// Every row is kept. What `joint` uses.
    Infinite,
    /// After each chunk, of each label the rows that best keep its mean feature (iCaRL; Rebuffi et al., 2017).
    Herding,
    /// After each chunk, rows that leave no other far from a kept one (Gonzalez, 1985; Sener and Savarese, 2018).
    KCentre,
    /// After each chunk, weighted rows whose gradients add up to those of all rows (GMC; Balles et al., 2022).
    Gmc,
}

impl Policy {
    pub const ALL: [Self; 8] = [
        Self::Reservoir,
        Self::ClassBalanced,
        Self::Greedy,
        Self::Window,
        Self::Infinite,
        Self::Herding,
        Self::KCentre,
        Self::Gmc,
    ];

    /// As a pipeline file writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reservoir => "reservoir",
            Self::ClassBalanced => "class-balanced",
            Self::Greedy => "greedy",
            Self::Window => "window",
            Self::Infinite => "infinite",
            Self::Herding => "herding",
            Self::KCentre => "k-centre",
            Self::Gmc => "gmc",
        }
    }

    /// Whether rows are chosen among memory and chunk together, once the chunk has ended, instead of one by one.
    pub const fn selects(self) -> bool {
        matches!(self, Self::Herding | Self::KCentre | Self::Gmc)
    }
}

/// When rows are offered to the rehearsal buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BufferUpdate {
    /// All rows of the chunk, once, after its last step.
    Chunk,
    /// Each row, once, after the step that first saw it, so that replay reaches into the running chunk.
    Online,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rehearsal {
    /// Default: what the method is used with, for most `reservoir`.
    pub policy: Option<Policy>,
    /// Rows the buffer holds at most; `infinite` ignores it.
    pub memory_size: NonZeroU32,
    /// Default: `online` where a whole model sees each row once and the method allows it, else `chunk`.
    pub update: Option<BufferUpdate>,
    /// What the weights of remembered rows do, where the policy gives them any.
    pub weights: SlotWeights,
    pub gmc: Gmc,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SlotWeights {
    /// A remembered row's loss counts by its weight, where memory has batches of its own. Not in `icarl`.
    #[default]
    Loss,
    /// A row is replayed as often as its weight says.
    Sampling,
    /// Every row counts the same.
    Unit,
}

/// How `gmc` chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Gmc {
    /// Draws of the initial weights whose gradients are matched.
    pub initialisations: NonZeroU32,
    /// Matches each label's rows on their own, by the gradient of that label's row of the head.
    pub per_class: bool,
    /// Matches the gradient of everything ever offered instead of that of memory and chunk. Not `per_class`.
    pub carries_target: bool,
}

impl Default for Gmc {
    fn default() -> Self {
        Self { initialisations: NonZeroU32::new(10).expect("not zero"), per_class: false, carries_target: true }
    }
}

impl Default for Rehearsal {
    fn default() -> Self {
        Self {
            policy: None,
            memory_size: NonZeroU32::new(500).expect("not zero"),
            update: None,
            weights: SlotWeights::default(),
            gmc: Gmc::default(),
        }
    }
}

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

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// World size.
    pub ranks: NonZeroU32,
    pub threads_per_rank: NonZeroU32,
    pub prefix_cache: PrefixCache,
}

impl Default for Resources {
    fn default() -> Self {
        Self { ranks: NonZeroU32::MIN, threads_per_rank: NonZeroU32::MIN, prefix_cache: PrefixCache::default() }
    }
}

/// What a rank may keep of the outputs of blocks below every adapter, in MiB. Rows beyond both are run at each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PrefixCache {
    pub memory_mib: u64,
    /// In the worker's scratch folder.
    pub disk_mib: u64,
}

impl Default for PrefixCache {
    fn default() -> Self {
        Self { memory_mib: 1024, disk_mib: 8192 }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluation {
    /// Share of a chunk pushed with `split: auto` that is held out.
    pub held_out_fraction: Share,
    pub eval_items_per_task: NonZeroU64,
    /// Beyond this many tasks the oldest merge into one `archive` set.
    pub max_tasks: NonZeroU32,
}

impl Default for Evaluation {
    fn default() -> Self {
        Self {
            held_out_fraction: Share(0.1),
            eval_items_per_task: NonZeroU64::new(500).expect("not zero"),
            max_tasks: NonZeroU32::new(64).expect("not zero"),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GateMode {
    /// A refused candidate changes nothing.
    #[default]
    Enforce,
    /// Every candidate is published as `challenger`, with its verdict.
    Report,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GateSpec {
    pub mode: GateMode,
    /// The candidate's average accuracy may lie below the champion's by at most this.
    pub max_average_accuracy_drop: NonNegative,
    /// The candidate's accuracy on any task may lie below the champion's by at most this.
    pub max_forgetting: NonNegative,
}

impl Default for GateSpec {
    fn default() -> Self {
        Self {
            mode: GateMode::default(),
            max_average_accuracy_drop: NonNegative(0.01),
            max_forgetting: NonNegative(0.1),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    /// `run start`.
    #[default]
    Manual,
    /// A sealed chunk with training rows.
    Chunk,
}
