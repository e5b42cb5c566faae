//! The pipeline file: what is trained, on what, how, and when a result may be published.
//!
//! One serde type from YAML to the wire to the learning core. [`Spec`] is what was written;
//! [`Pipeline`] is a spec with nothing left to doubt.

mod adapter;
mod method;
mod number;
mod parts;

use std::ops::Deref;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::evalset::ARCHIVE;
use crate::id::{Namespace, PipelineId, PipelineName};

pub use adapter::{Adapter, Layers, Lora};
pub use method::{Deploys, Loss, Method, Normalization, Parameter, Range, ReplayDraws};
pub use number::{InvalidNumber, NonNegative, Positive, Share};
pub use parts::*;

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
    pub loss: Loss,
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

    /// What `rehearsal.policy` says, unless the method allows one alone; where it says nothing, the method's usual one.
    pub fn policy(&self) -> Policy {
        self.method.policy(self.rehearsal.policy)
    }

    /// What `rehearsal.update` says, or comes to.
    pub fn buffer_update(&self) -> BufferUpdate {
        let (selects, adapts) = (self.policy().selects(), self.adapter != Adapter::Full);
        let usual = || method::usual_update(self.method, selects, self.training.epochs.get(), adapts);
        self.rehearsal.update.unwrap_or_else(usual)
    }

    /// A number of the method's loss.
    ///
    /// # Panics
    /// If the method has none of that name.
    pub fn parameter(&self, name: &str) -> f64 {
        self.loss.parameter(self.method, name)
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
        check_model(&spec)?;
        check_labels(&spec)?;
        check_steps(&spec)?;
        check_method(&spec)?;
        if spec.adapter == Adapter::Full && spec.training.precision == Precision::Bf16 {
            let reason =
                "only frozen layers take it, and without an adapter none is frozen; use `f32`, or `adapter.lora`";
            return Err(invalid("training.precision", "bf16", reason));
        }
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

/// A worker reads stores, by digest; the Hub is the client's.
fn check_hub(spec: &Spec) -> Result<(), InvalidSpec> {
    let (field, place) = match &spec.model {
        Model::Folder(folder) => ("model.uri", &folder.uri),
        Model::Scratch(line) => ("model", line),
    };
    match hub_remedy(place) {
        Some(remedy) => Err(invalid(field, format!("`{place}`"), remedy)),
        None => Ok(()),
    }
}

/// What to do instead of naming a model of the Hub, if `place` is one.
pub fn hub_remedy(place: &str) -> Option<String> {
    place.starts_with("hf://").then(|| {
        format!("`perennial model push {place}` stores a copy and prints the `uri` and `sha256` to write instead")
    })
}

/// The digest names a folder of the worker's cache, so that it must be nothing but a digest.
fn check_model(spec: &Spec) -> Result<(), InvalidSpec> {
    check_hub(spec)?;
    match &spec.model {
        Model::Folder(folder) if folder.sha256.len() != 64 || !folder.sha256.bytes().all(|b| b.is_ascii_hexdigit()) => {
            let reason = "expected 64 hex digits, as `perennial model push DIR` prints them";
            Err(invalid("model.sha256", format!("`{}`", folder.sha256), reason))
        }
        Model::Scratch(line) if !is_line(line) => {
            let reason = "expected a line such as `mlp:100,100`, `vit:d=64` or `resnet18:slim`, or the `uri` and `sha256` of \
                          a folder, as `perennial model push DIR` prints them";
            Err(invalid("model", format!("`{line}`"), reason))
        }
        _ => Ok(()),
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

fn check_method(spec: &Spec) -> Result<(), InvalidSpec> {
    spec.loss.check(spec.method).map_err(|(given, reason)| invalid("loss.parameters", given, reason))?;
    if spec.rehearsal.update == Some(BufferUpdate::Online) && !spec.method.may_offer_online() {
        let reason = format!("`{}` fills its memory after training; use `chunk`", spec.method.name());
        return Err(invalid("rehearsal.update", "online", reason));
    }
    if spec.rehearsal.update == Some(BufferUpdate::Online) && spec.policy().selects() {
        let reason = format!("`{}` chooses among a whole chunk; use `chunk`", spec.policy().name());
        return Err(invalid("rehearsal.update", "online", reason));
    }
    if let Some((field, given)) = spec.loss.idle(spec.method) {
        return Err(invalid(field, given, format!("`{}` would pass it over; leave it out", spec.method.name())));
    }
    if spec.rehearsal.weights == SlotWeights::Sampling && !spec.method.replays() {
        let reason = format!("`{}` draws no replay batches; leave it out", spec.method.name());
        return Err(invalid("rehearsal.weights", "sampling", reason));
    }
    if spec.rehearsal.gmc != Gmc::default() && spec.policy() != Policy::Gmc {
        let reason = format!("the policy is `{}`; leave it out, or use `gmc`", spec.policy().name());
        return Err(invalid("rehearsal.gmc", "set", reason));
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
        let e = parse(|s| s["model"] = json!("./vit")).unwrap_err();
        assert!(e.contains("`model` is `./vit`") && e.contains("model push DIR"), "{e}");
        for hub in [json!("hf://google/vit@main"), json!({"uri": "hf://google/vit@main", "sha256": "0".repeat(64)})] {
            let e = parse(|s| s["model"] = hub).unwrap_err();
            assert!(e.contains("is `hf://google/vit@main`") && e.contains("`perennial model push hf://"), "{e}");
        }
        let e = parse(|s| s["training"] = json!({"precision": "bf16"})).unwrap_err();
        assert!(e.contains("`training.precision` is bf16") && e.contains("adapter.lora"), "{e}");
        let e = parse(|s| s["labels"] = json!([])).unwrap_err();
        assert!(e.contains("labels_mode: open"), "{e}");
    }

    #[test]
    fn every_method_of_the_schema_is_in_the_table_under_its_name() {
        let schema = serde_json::to_value(schemars::schema_for!(Method)).unwrap();
        let mut listed: Vec<&str> =
            schema["oneOf"].as_array().unwrap().iter().map(|one| one["const"].as_str().unwrap()).collect();
        listed.sort_unstable();
        let mut names = Method::ALL.map(Method::name);
        names.sort_unstable();
        assert_eq!(listed, names);
        for method in Method::ALL {
            assert_eq!(serde_json::to_value(method).unwrap(), json!(method.name()));
        }
    }

    #[test]
    fn joint_keeps_everything_and_the_others_what_the_file_says() {
        let policy = |method: &str| parse(|s| s["method"] = json!(method)).unwrap().policy();
        assert_eq!(["joint", "er"].map(policy), [Policy::Infinite, Policy::Reservoir]);
    }

    #[test]
    fn a_method_takes_its_own_numbers_within_their_range() {
        let loss = |method: &str, parameters: Value| {
            parse(|s| {
                s["method"] = json!(method);
                s["loss"] = json!({"parameters": parameters});
            })
        };
        let der = loss("der++", json!({"alpha": 0.2})).unwrap();
        assert_eq!((der.parameter("alpha"), der.parameter("beta")), (0.2, 1.0));
        for (method, parameters, expected) in [
            ("er", json!({"beta": 0.5}), "naming `beta: 0.5`: `er` takes alpha"),
            ("ft", json!({"alpha": 0.5}), "`ft` takes none"),
            ("der", json!({"alpha": -1.0}), "naming `alpha: -1`: must be 0 or above"),
            ("lwf", json!({"temperature": 0.0}), "must be above 0"),
            ("cls-er", json!({"plastic_frequency": 0.5}), "must be above `stable_frequency`, 0.7"),
            ("cls-er", json!({"stable_decay": 0.9}), "naming `plastic_decay: 0.999`: must not be above `stable_decay`"),
        ] {
            let e = loss(method, parameters).unwrap_err();
            assert!(e.contains("`loss.parameters` is") && e.contains(expected), "{e}");
        }
    }

    #[test]
    fn the_buffer_fills_while_training_where_a_whole_model_sees_rows_once() {
        let update = |change: Value| {
            let merged = parse(|s| change.as_object().unwrap().iter().for_each(|(k, v)| s[k] = v.clone()));
            merged.map(|pipeline| pipeline.buffer_update())
        };
        assert_eq!(update(json!({})), Ok(BufferUpdate::Online));
        assert_eq!(update(json!({"rehearsal": {"update": "chunk"}})), Ok(BufferUpdate::Chunk));
        assert_eq!(update(json!({"training": {"epochs": 2}})), Ok(BufferUpdate::Chunk));
        assert_eq!(
            update(json!({"adapter": {"lora": {"r": 2, "alpha": 4.0, "target_modules": ["fc1"]}}})),
            Ok(BufferUpdate::Chunk)
        );
        assert_eq!(update(json!({"method": "gdumb"})), Ok(BufferUpdate::Chunk));
        assert_eq!(update(json!({"rehearsal": {"policy": "herding"}})), Ok(BufferUpdate::Chunk));
        let e = update(json!({"rehearsal": {"policy": "k-centre", "update": "online"}})).unwrap_err();
        assert!(e.contains("`k-centre` chooses among a whole chunk; use `chunk`"), "{e}");
        let e = update(json!({"method": "gdumb", "rehearsal": {"update": "online"}})).unwrap_err();
        assert!(e.contains("`rehearsal.update` is online: `gdumb` fills its memory after training"), "{e}");
    }

    #[test]
    fn every_policy_is_documented_under_its_name_and_three_of_them_select() {
        let schema = serde_json::to_value(schemars::schema_for!(Policy)).unwrap();
        let listed = schema["oneOf"].as_array().unwrap().iter();
        assert!(listed.clone().all(|one| one["description"].as_str().is_some_and(|text| text.len() > 20)));
        let names: Vec<&str> = listed.map(|one| one["const"].as_str().unwrap()).collect();
        let expected = ["reservoir", "class-balanced", "greedy", "window", "infinite", "herding", "k-centre", "gmc"];
        assert_eq!(names, expected);
        assert_eq!(Policy::ALL.map(Policy::name), expected);
        let named = |name: &&str| serde_json::from_value::<Policy>(json!(name)).unwrap().name() == *name;
        assert!(names.iter().all(named));
        let selects = |name: &&str| serde_json::from_value::<Policy>(json!(name)).unwrap().selects();
        assert_eq!(names.into_iter().filter(selects).collect::<Vec<_>>(), expected[5..]);
    }

    #[test]
    fn replay_by_batch_comes_beside_the_new_rows() {
        let p = parse(|s| s["training"] = json!({"batch_size": 10, "replay": {"batch": 10}})).unwrap();
        assert_eq!((p.training.split(), p.training.micro_batches()), ((10, 10), 1));
    }
}
