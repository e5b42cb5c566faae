//! What an adapter's files say of it, against the pipeline that is to take it. Tensors are not read.

use std::collections::BTreeSet;

use domain::pipeline::{Adapter as Trains, Lora, Model, Normalize, Spec};
use domain::state::PipelineState;
use perennial_proto::convert::{Invalid, from_json};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::Error;
use crate::upload::{Files, Received};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const LABELS: &str = "labels.json";
const MANIFEST: &str = "perennial_manifest.json";
const PREPROCESSOR: &str = "preprocessor_config.json";
const TAKEN: [&str; 6] = [CONFIG, WEIGHTS, "head.safetensors", LABELS, PREPROCESSOR, MANIFEST];

/// Largest JSON file that is read into memory.
const MAX_JSON: u64 = 1 << 20;

/// What transformers 5 calls modules of a ViT, and transformers 4 before it. PEFT goes by the last segment.
const RENAMED: [(&str, &str); 6] = [
    ("q_proj", "query"),
    ("k_proj", "key"),
    ("v_proj", "value"),
    ("o_proj", "dense"),
    ("fc1", "dense"),
    ("fc2", "dense"),
];

/// Why an adapter cannot become a pipeline's version.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Unfit {
    #[error("`{file}`: `{key}` is {given}, and the pipeline's `{field}` is {expected}; {remedy}")]
    Differs {
        file: &'static str,
        key: &'static str,
        given: String,
        field: &'static str,
        expected: String,
        remedy: &'static str,
    },
    #[error("`{CONFIG}`: `{key}` is {given}; {remedy}")]
    Unsupported { key: &'static str, given: String, remedy: &'static str },
    #[error(
        "the pipeline's `input.normalize` is dataset, and an import has no rows to measure; add the \
         `{PREPROCESSOR}` it was trained with, or set `unit`"
    )]
    Unmeasured,
}

const AGREE: &str = "change the pipeline's file and apply it, or import an adapter that agrees";
const SAME_BASE: &str = "import an adapter of the pipeline's own base model, or apply a pipeline with the adapter's";

/// As PEFT writes it; what is left out has PEFT's default.
#[derive(Deserialize)]
struct Config {
    peft_type: String,
    r: u32,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    target_modules: Value,
    #[serde(default)]
    bias: Value,
    #[serde(default)]
    use_dora: Value,
    #[serde(default)]
    rank_pattern: Value,
    #[serde(default)]
    alpha_pattern: Value,
    #[serde(default)]
    layers_to_transform: Value,
    #[serde(default)]
    init_lora_weights: Value,
}

/// What a published version says it was made of.
#[derive(Deserialize)]
struct Published {
    config: Origin,
}

#[derive(Deserialize)]
struct Origin {
    model: Model,
    seed: u64,
}

/// What an adapter's files say of it.
pub struct Adapter {
    config: Config,
    labels: Vec<String>,
    published: Option<Origin>,
    /// Of the base's folder where the adapter was sent from. Empty: not known.
    base_sha256: String,
    has_preprocessor: bool,
}

impl Adapter {
    pub fn read(files: &Files, base_sha256: &str) -> Result<Self, Error> {
        if let Some(stray) = files.keys().find(|name| !TAKEN.contains(&name.as_str())) {
            let reason = format!("`{stray}` is not one of {}", TAKEN.join(", "));
            return Err(Invalid::new("file", reason).into());
        }
        if let Some(missing) = [CONFIG, WEIGHTS].into_iter().find(|name| !files.contains_key(*name)) {
            return Err(Invalid::new("file", format!("the folder has no `{missing}`")).into());
        }
        Ok(Self {
            config: json(CONFIG, &files[CONFIG])?,
            labels: files.get(LABELS).map(|file| json(LABELS, file)).transpose()?.unwrap_or_default(),
            published: files.get(MANIFEST).map(|file| json::<Published>(MANIFEST, file)).transpose()?.map(|m| m.config),
            base_sha256: base_sha256.to_owned(),
            has_preprocessor: files.contains_key(PREPROCESSOR),
        })
    }

    /// Whether it is what the pipeline trains, as far as can be told without its tensors.
    pub fn check(&self, current: &PipelineState) -> Result<(), Error> {
        self.config.check_kind()?;
        if let Trains::Lora(lora) = &current.pipeline.adapter {
            self.config.check_numbers(lora)?;
            self.config.check_targets(&lora.target_modules)?;
        }
        self.check_base(&current.pipeline)?;
        self.check_labels(&current.labels)?;
        if current.pipeline.input.normalize == Some(Normalize::Dataset) && !self.has_preprocessor {
            return Err(Unfit::Unmeasured.into());
        }
        Ok(())
    }

    fn check_base(&self, pipeline: &Spec) -> Result<(), Unfit> {
        let expected = base(&pipeline.model, pipeline.seed);
        let field = match pipeline.model {
            Model::Folder(_) => "model.sha256",
            Model::Scratch(_) => "model",
        };
        let differs = |file, key, given| {
            let expected = expected.clone();
            Unfit::Differs { file, key, given, field, expected, remedy: SAME_BASE }
        };
        let stated = self.published.as_ref().map(|origin| base(&origin.model, origin.seed));
        if let Some(given) = stated.filter(|given| *given != expected) {
            return Err(differs(MANIFEST, "config.model", given));
        }
        let found = Some(folder(&self.base_sha256)).filter(|_| !self.base_sha256.is_empty());
        match found.filter(|given| *given != expected) {
            Some(given) => Err(differs(CONFIG, "base_model_name_or_path", given)),
            None => Ok(()),
        }
    }

    fn check_labels(&self, known: &[String]) -> Result<(), Unfit> {
        let first = &known[..known.len().min(self.labels.len())];
        if first == self.labels {
            return Ok(());
        }
        let (given, expected) = (self.labels.join(", "), known.join(", "));
        let remedy = "the adapter's labels have to be the first of the pipeline's, in their order";
        Err(Unfit::Differs { file: LABELS, key: "labels", given, field: "labels", expected, remedy })
    }
}

impl Config {
    fn check_kind(&self) -> Result<(), Unfit> {
        let is = |value: &Value, neutral: &[Value]| value.is_null() || neutral.contains(value);
        let none = [Value::Object(serde_json::Map::new())];
        let peft_type = Value::from(self.peft_type.as_str());
        // Others, such as `pissa`, changed the base's weights at the start.
        let plain: [Value; 5] = [true.into(), false.into(), "gaussian".into(), "eva".into(), "orthogonal".into()];
        let init = is(&self.init_lora_weights, &plain);
        let cases = [
            ("peft_type", &peft_type, self.peft_type == "LORA", "only LORA is taken"),
            ("bias", &self.bias, is(&self.bias, &["none".into()]), "train it with `none`"),
            ("use_dora", &self.use_dora, is(&self.use_dora, &[false.into()]), "train it without"),
            ("rank_pattern", &self.rank_pattern, is(&self.rank_pattern, &none), "train every module with one rank"),
            ("alpha_pattern", &self.alpha_pattern, is(&self.alpha_pattern, &none), "train every module with one alpha"),
            ("layers_to_transform", &self.layers_to_transform, is(&self.layers_to_transform, &[]), "adapt every layer"),
            ("init_lora_weights", &self.init_lora_weights, init, "have PEFT convert it to one of the unchanged base"),
        ];
        match cases.into_iter().find(|(.., fits, _)| !fits) {
            Some((key, given, _, remedy)) => Err(Unfit::Unsupported { key, given: given.to_string(), remedy }),
            None => Ok(()),
        }
    }

    fn check_numbers(&self, lora: &Lora) -> Result<(), Unfit> {
        let pairs = [
            ("r", self.r.to_string(), "adapter.lora.r", lora.r.to_string()),
            ("lora_alpha", self.lora_alpha.to_string(), "adapter.lora.alpha", lora.alpha.get().to_string()),
            ("use_rslora", self.use_rslora.to_string(), "adapter.lora.use_rslora", lora.use_rslora.to_string()),
        ];
        match pairs.into_iter().find(|(_, given, _, expected)| given != expected) {
            Some((key, given, field, expected)) => {
                Err(Unfit::Differs { file: CONFIG, key, given, field, expected, remedy: AGREE })
            }
            None => Ok(()),
        }
    }

    fn check_targets(&self, targets: &[String]) -> Result<(), Unfit> {
        let key = "target_modules";
        let Ok(given) = serde_json::from_value::<Vec<String>>(self.target_modules.clone()) else {
            let (given, remedy) = (self.target_modules.to_string(), "list the modules by name");
            return Err(Unfit::Unsupported { key, given, remedy });
        };
        let expected: BTreeSet<&str> = targets.iter().map(String::as_str).collect();
        let last = |name: &'_ String| name.rsplit('.').next().unwrap_or_default().to_owned();
        let last: Vec<String> = given.iter().map(last).collect();
        let named: BTreeSet<&str> = last.iter().map(|name| older(name, &expected)).collect();
        // Which blocks have them shows in the tensors.
        if named == expected {
            return Ok(());
        }
        let (field, listed) =
            ("adapter.lora.target_modules", |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(", "));
        let given = listed(given.iter().map(String::as_str).collect());
        Err(Unfit::Differs { file: CONFIG, key, given, field, expected: listed(expected), remedy: AGREE })
    }
}

/// The name that the pipeline uses, where it uses the older one.
fn older<'a>(name: &'a str, targets: &BTreeSet<&str>) -> &'a str {
    let renamed = RENAMED.iter().find(|(new, _)| *new == name && !targets.contains(name));
    renamed.map_or(name, |(_, old)| *old)
}

/// A base model, so that equal ones read the same.
fn base(model: &Model, seed: u64) -> String {
    match model {
        Model::Folder(at) => folder(&at.sha256),
        Model::Scratch(spec) => format!("`{spec}` drawn from seed {seed}"),
    }
}

fn folder(sha256: &str) -> String {
    sha256.to_ascii_lowercase()
}

fn json<T: DeserializeOwned>(name: &'static str, file: &Received) -> Result<T, Error> {
    if file.bytes > MAX_JSON {
        let reason = format!("it has {} bytes, and at most {MAX_JSON} are read", file.bytes);
        return Err(Invalid::new(name, reason).into());
    }
    let text = std::fs::read(file.content.path()).map_err(Error::Spool)?;
    Ok(from_json(name, &text)?)
}

#[cfg(test)]
mod tests;
