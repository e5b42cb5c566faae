//! The pipeline file: what is trained, on what, how, and when a result may be published.
//!
//! One serde type from YAML to the wire to the learning core. [`Spec`] is what was written;
//! [`Pipeline`] is a spec with nothing left to doubt.

use std::num::{NonZeroU32, NonZeroU64};
use std::ops::Deref;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::evalset::ARCHIVE;
use crate::id::{Namespace, PipelineId, PipelineName};

#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{0}")]
pub struct InvalidNumber(String);

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $test:expr, $must:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "f64", into = "f64")]
        pub struct $name(f64);

        impl $name {
            pub const fn get(self) -> f64 {
                self.0
            }
        }
        impl TryFrom<f64> for $name {
            type Error = InvalidNumber;
            fn try_from(value: f64) -> Result<Self, InvalidNumber> {
                let test: fn(f64) -> bool = $test;
                if test(value) {
                    Ok(Self(value))
                } else {
                    Err(InvalidNumber(format!("{value} is out of range: must be {}", $must)))
                }
            }
        }
        impl From<$name> for f64 {
            fn from(number: $name) -> f64 {
                number.0
            }
        }
    };
}

number!(
    /// A share in `[0, 1)`: of a batch drawn from memory, of rows held out.
    Share, |v| (0.0..1.0).contains(&v), "at least 0 and below 1"
);
number!(
    /// A finite number above zero.
    Positive, |v| v.is_finite() && v > 0.0, "above 0"
);
number!(
    /// A finite number, zero or above.
    NonNegative, |v| v.is_finite() && v >= 0.0, "0 or above"
);

/// Where the base model comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Model {
    /// A Hugging Face folder, pinned by digest. `perennial model push DIR` prints both.
    Folder(ModelFolder),
    /// A small model initialised from the seed: `mlp:100,100` (hidden widths) or
    /// `vit:d=64,layers=4,heads=4,patch=4,mlp=128`.
    Scratch(String),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelFolder {
    pub uri: String,
    /// Of the folder: SHA-256 over the sorted lines `<sha256 of file>  <name>\n`.
    pub sha256: String,
}

/// What trains.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Adapter {
    /// Every parameter.
    #[default]
    Full,
    /// Low-rank updates of chosen linear layers (Hu et al., 2021), and the head.
    Lora(Lora),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    pub r: NonZeroU32,
    /// The update is scaled by `alpha / r`, or `alpha / sqrt(r)` with `use_rslora`.
    #[serde(default = "Lora::default_alpha")]
    pub alpha: Positive,
    #[serde(default)]
    pub use_rslora: bool,
    /// Names of the linear layers to adapt, as their last path segment.
    #[serde(default = "Lora::default_targets")]
    pub target_modules: Vec<String>,
}

impl Lora {
    fn default_alpha() -> Positive {
        Positive(16.0)
    }
    pub fn default_targets() -> Vec<String> {
        vec!["query".to_owned(), "value".to_owned()]
    }
    /// The factor on `B·A·x`.
    pub fn scale(&self) -> f64 {
        let r = f64::from(self.r.get());
        self.alpha.get() / if self.use_rslora { r.sqrt() } else { r }
    }
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Fine-tuning on the new chunk alone; nothing is replayed.
    Ft,
    /// Experience replay (Chaudhry et al., 2019).
    Er,
    /// Training on everything seen so far; the upper reference.
    Joint,
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
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Every row seen is kept with equal probability (Vitter, 1985).
    #[default]
    Reservoir,
    /// Every row is kept. What `joint` uses.
    Infinite,
}

/// When rows are offered to the rehearsal buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BufferUpdate {
    /// All rows of the chunk, once, after its last step.
    #[default]
    Chunk,
    /// Each row, once, after the step that first saw it, so that replay reaches into the running chunk.
    Step,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rehearsal {
    pub policy: Policy,
    /// Rows the buffer holds at most; `infinite` ignores it.
    pub memory_size: NonZeroU32,
    pub update: BufferUpdate,
}

impl Default for Rehearsal {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            memory_size: NonZeroU32::new(500).expect("not zero"),
            update: BufferUpdate::default(),
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
}

impl Default for Resources {
    fn default() -> Self {
        Self { ranks: NonZeroU32::MIN, threads_per_rank: NonZeroU32::MIN }
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

/// A pipeline file as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    #[serde(default)]
    pub namespace: Namespace,
    pub name: PipelineName,
    pub model: Model,
    #[serde(default)]
    pub adapter: Adapter,
    /// Label names in the order of the head's rows. Append only.
    #[serde(default)]
    pub labels: Vec<String>,
    #[serde(default)]
    pub labels_mode: LabelsMode,
    /// Task of a chunk that names none.
    #[serde(default = "Spec::default_task")]
    pub task: crate::id::TaskName,
    #[serde(default)]
    pub input: Input,
    pub method: Method,
    #[serde(default)]
    pub rehearsal: Rehearsal,
    #[serde(default)]
    pub training: Training,
    #[serde(default)]
    pub resources: Resources,
    #[serde(default)]
    pub evaluation: Evaluation,
    #[serde(default)]
    pub gate: GateSpec,
    #[serde(default)]
    pub trigger: Trigger,
    #[serde(default)]
    pub seed: u64,
}

impl Spec {
    fn default_task() -> crate::id::TaskName {
        "main".parse().expect("a valid name")
    }

    pub fn id(&self) -> PipelineId {
        PipelineId { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// Reservoir, unless the method has to see everything.
    pub fn policy(&self) -> Policy {
        match self.method {
            Method::Joint => Policy::Infinite,
            Method::Ft | Method::Er => self.rehearsal.policy,
        }
    }
}

/// A [`Spec`] whose fields agree with each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Spec", into = "Spec")]
pub struct Pipeline(Spec);

#[derive(Debug, thiserror::Error, PartialEq)]
#[error("`{field}` is {given}: {reason}")]
pub struct InvalidSpec {
    pub field: &'static str,
    pub given: String,
    pub reason: String,
}

fn invalid(field: &'static str, given: impl ToString, reason: impl Into<String>) -> InvalidSpec {
    InvalidSpec { field, given: given.to_string(), reason: reason.into() }
}

impl TryFrom<Spec> for Pipeline {
    type Error = InvalidSpec;
    fn try_from(spec: Spec) -> Result<Self, InvalidSpec> {
        if spec.task.as_str() == ARCHIVE {
            return Err(invalid("task", format!("`{ARCHIVE}`"), "old tasks merge under that name; choose another"));
        }
        check_labels(&spec)?;
        check_steps(&spec)?;
        if let Adapter::Lora(lora) = &spec.adapter
            && lora.target_modules.is_empty()
        {
            return Err(invalid(
                "adapter.lora.target_modules",
                "empty",
                "name at least one linear layer, such as `query`",
            ));
        }
        Ok(Self(spec))
    }
}

fn check_labels(spec: &Spec) -> Result<(), InvalidSpec> {
    let mut seen = std::collections::HashSet::new();
    for label in &spec.labels {
        if label.is_empty() {
            return Err(invalid("labels", "holding an empty name", "give each label a name"));
        }
        if !seen.insert(label) {
            return Err(invalid("labels", format!("naming `{label}` twice"), "names must differ"));
        }
    }
    if spec.labels.is_empty() && spec.labels_mode == LabelsMode::Closed {
        let reason = "list the label names, or set `labels_mode: open`";
        return Err(invalid("labels", "empty", reason));
    }
    Ok(())
}

fn check_steps(spec: &Spec) -> Result<(), InvalidSpec> {
    let training = &spec.training;
    let (l, ranks) = (training.micro_batches(), spec.resources.ranks.get() as usize);
    if ranks > l {
        let reason = format!("at most `training.micro_batches` ({l}) ranks have work to do");
        return Err(invalid("resources.ranks", ranks, reason));
    }
    let (new, memory) = training.split();
    if l > new {
        let reason = format!("a step has only {new} new rows to divide");
        return Err(invalid("training.micro_batches", l, reason));
    }
    if new == 0 {
        return Err(invalid("training.replay", memory, "it leaves no room for new rows"));
    }
    Ok(())
}

impl From<Pipeline> for Spec {
    fn from(pipeline: Pipeline) -> Spec {
        pipeline.0
    }
}

impl Deref for Pipeline {
    type Target = Spec;
    fn deref(&self) -> &Spec {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parse(change: impl FnOnce(&mut Value)) -> Result<Pipeline, String> {
        let mut spec = json!({
            "name": "tickets", "model": "mlp:100,100", "labels": ["a", "b"], "method": "er",
        });
        change(&mut spec);
        serde_json::from_value(spec).map_err(|e| e.to_string())
    }

    #[test]
    fn the_shortest_file_is_complete() {
        let pipeline = parse(|_| ()).unwrap();
        assert_eq!(pipeline.training.micro_batches(), 4);
        assert_eq!(pipeline.training.split(), (16, 16));
        let again: Pipeline = serde_json::from_value(serde_json::to_value(&pipeline).unwrap()).unwrap();
        assert_eq!(again, pipeline);
    }

    #[test]
    fn errors_name_field_value_and_remedy() {
        let e = parse(|s| s["resources"] = json!({"ranks": 8})).unwrap_err();
        assert!(e.contains("`resources.ranks` is 8") && e.contains("micro_batches"), "{e}");
        let e = parse(|s| s["training"] = json!({"learning_rate": -1.0})).unwrap_err();
        assert!(e.contains("-1 is out of range"), "{e}");
        let e = parse(|s| s["labels"] = json!([])).unwrap_err();
        assert!(e.contains("labels_mode: open"), "{e}");
    }

    #[test]
    fn replay_by_batch_comes_beside_the_new_rows() {
        let p = parse(|s| s["training"] = json!({"batch_size": 10, "replay": {"batch": 10}})).unwrap();
        assert_eq!((p.training.split(), p.training.micro_batches()), ((10, 10), 1));
    }
}
