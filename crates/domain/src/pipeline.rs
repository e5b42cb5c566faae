//! The pipeline file: what is trained, on what, how, and when a result may be published.
//!
//! One serde type from YAML to the wire to the learning core. [`Spec`] is what was written;
//! [`Pipeline`] is a spec with nothing left to doubt.

mod adapter;
mod check;
mod data;
mod loss;
mod method;
mod number;
mod parts;
mod rehearsal;
mod retention;
mod selection;
mod source;
mod training;

use std::ops::Deref;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{Namespace, PipelineId, PipelineName};

pub use adapter::{Adapter, Layers, Lora};
pub use check::hub_remedy;
pub use data::{Data, LateLabels};
pub use loss::{Deploys, FeaturePooling, Loss, Normalization, ReplayDraws};
pub use method::{Method, Parameter, Range};
pub use number::{InvalidNumber, NonNegative, Positive, Ratio, Share};
pub use parts::*;
pub use rehearsal::*;
pub use retention::Retention;
pub use selection::{Rule, Selection, SelectionWeights};
pub use source::Source;
pub use training::*;

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
    #[serde(default)]
    pub heads: Heads,
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
    #[serde(default, skip_serializing_if = "Data::is_default")]
    pub data: Data,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Source>,
    #[serde(default, skip_serializing_if = "Retention::keeps_all")]
    pub retention: Retention,
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

    /// Which weights become the version.
    pub fn deploys(&self) -> Deploys {
        let usual = if self.method == Method::ClsEr { Deploys::Stable } else { Deploys::Working };
        self.loss.deploys.unwrap_or(usual)
    }

    /// What `training.reinitialize` says, or comes to.
    pub fn reinitialize(&self) -> Option<ShrinkPerturb> {
        let usual = (self.method == Method::SuperEr).then(ShrinkPerturb::default);
        self.training.reinitialize.or(usual)
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
        check::all(&spec)?;
        Ok(Self(spec))
    }
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
        for (uris, said) in
            [(&["/data"][..], "file:///absolute/path"), (&["s3://b/x/y", "s3://b/x/"], "another one covers it")]
        {
            let sources: Vec<Value> = uris.iter().map(|uri| json!({"uri": uri})).collect();
            let e = parse(|s| s["sources"] = sources.into()).unwrap_err();
            assert!(e.contains("`sources.uri`") && e.contains(said), "{e}");
        }
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
    fn what_would_be_passed_over_is_refused() {
        let refused = |change: Value| {
            let merged = parse(|s| change.as_object().unwrap().iter().for_each(|(k, v)| s[k] = v.clone()));
            merged.unwrap_err()
        };
        let training = |key: &str, value: Value| json!({"training": {key: value}});
        for (change, expected) in [
            (json!({"rehearsal": {"memory_size": 0}}), "invalid value: integer `0`, expected a nonzero u32"),
            (training("selection", json!({"keep": 0.3})), "`training.selection.keep` is 0.3: the rule is `all`"),
            (training("selection", json!({"rule": "random", "keep": 0.0})), "0 is out of range: must be above 0"),
            (training("validation", json!({"patience": 2})), "set `training.validation.fraction`"),
            (json!({"rehearsal": {"refresh_decay": 0.9}}), "`er` keeps no answers"),
            (json!({"method": "joint", "rehearsal": {"policy": "window"}}), "`joint` keeps everything"),
            (json!({"method": "rd", "training": {"reinitialize": {}}}), "`rd` starts from the base's weights"),
            (json!({"input": {"augment": ["hflip", "hflip"]}}), "naming `hflip` twice"),
            (json!({"method": "cls-er", "training": {"validation": {"fraction": 0.1}}}), "set `loss.deploys: working`"),
            (
                json!({"method": "icarl", "training": {"validation": {"fraction": 0.1}}}),
                "`icarl` answers by class means",
            ),
            (json!({"loss": {"deploys": "working"}}), "`er` would pass it over"),
            (json!({"loss": {"feature_pooling": "gap"}}), "`er` would pass it over"),
            (json!({"method": "icarl", "loss": {"mask_absent_classes": true}}), "`icarl` would pass it over"),
            (
                json!({"method": "der", "training": {"selection": {"rule": "top-loss"}}}),
                "`training.selection.rule` is top-loss: `der` keeps the answers of every row as it comes",
            ),
        ] {
            let e = refused(change);
            assert!(e.contains(expected), "{e}");
        }
    }

    #[test]
    fn what_is_deployed_and_reinitialised_is_the_methods_own_unless_said() {
        let of = |method: &str| parse(|s| s["method"] = json!(method)).unwrap();
        assert_eq!((of("cls-er").deploys(), of("super-er").deploys()), (Deploys::Stable, Deploys::Working));
        assert!(of("super-er").reinitialize().is_some() && of("der").reinitialize().is_none());
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
