//! The sections of a pipeline file, each with its defaults.

use std::num::{NonZeroU32, NonZeroU64};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::number::{NonNegative, Share};

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

/// What a row is told apart from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Heads {
    /// Every label.
    #[default]
    Labels,
    /// The labels that its task has had: a head for each task. Its task is known in training and evaluation, and from
    /// `predict --task`; elsewhere every label may be the answer. Old tasks do not merge into an archive.
    Tasks,
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
    /// How images are varied while training, each anew whenever it is read: new and replayed ones. What memory
    /// chooses by, and what it keeps after training, are the images as they are; what it keeps of a step is the step's. In
    /// the order written.
    pub augment: Vec<Augmentation>,
    /// Tokens of a text; what is longer is cut. Default: 128, or what the model takes if that is less.
    pub max_length: Option<NonZeroU32>,
    /// How a text's tokens become one vector.
    pub pooling: Pooling,
}

/// A random change of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Augmentation {
    /// Padded by an eighth of its side with zeros, then cut to its size at a random place.
    RandomCrop,
    /// Mirrored left to right, with probability ½.
    Hflip,
    /// Turned by at most 15 degrees either way; bilinear, zeros outside.
    Rotate,
    /// Brightness, contrast and saturation, each multiplied by a factor from 0.6 to 1.4.
    ColourJitter,
}

impl Augmentation {
    pub const ALL: [Self; 4] = [Self::RandomCrop, Self::Hflip, Self::Rotate, Self::ColourJitter];

    /// As a pipeline file writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RandomCrop => "random_crop",
            Self::Hflip => "hflip",
            Self::Rotate => "rotate",
            Self::ColourJitter => "colour_jitter",
        }
    }
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
    /// Which rows of chunks and of memory are left out of training as held-out items.
    pub contamination: Contamination,
}

/// When a row counts as a held-out item. Texts are compared in lower case, with one space between words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Contamination {
    /// If it equals one, or is a text of which at least half the runs of 13 words occur in some.
    #[default]
    Overlap,
    /// If it equals one.
    Equal,
    /// Never.
    Off,
}

impl Default for Evaluation {
    fn default() -> Self {
        Self {
            held_out_fraction: Share(0.1),
            eval_items_per_task: NonZeroU64::new(500).expect("not zero"),
            max_tasks: NonZeroU32::new(64).expect("not zero"),
            contamination: Contamination::default(),
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
