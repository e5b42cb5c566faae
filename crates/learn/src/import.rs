//! An adapter that PEFT wrote, on the pipeline's base: found under any name that transformers gives its modules.
//!
//! PEFT only warns of names it does not know. Here every tensor has to fit, since a model that lacks some still answers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tch::Tensor;

use crate::assemble::{self, Assembled, Sources};
use crate::data::images::PREPROCESSOR;
use crate::model::head::Head;
use crate::model::{Model, bert};
use crate::publish::{ADAPTER, ADAPTER_CONFIG, HEAD, LABELS, PREFIX};
use crate::{Error, files};

/// Where PEFT keeps a classifier that it trained in full, `modules_to_save`.
const CLASSIFIER: [&str; 2] = ["classifier.weight", "classifier.bias"];

/// Unknown tensors named in an error.
const NAMED: usize = 3;

/// The net of `sources`, which name no version, with what lies in `folder`. The head is the folder's own, else the
/// classifier beside the adapter, else the seed's.
pub fn import(sources: Sources, folder: &Path) -> Result<Assembled, Error> {
    let known = match folder.join(LABELS) {
        file if file.exists() => assemble::check_labels(&file, sources.labels)?,
        _ => sources.labels.len(),
    };
    let preprocessor = Some(folder.join(PREPROCESSOR)).filter(|file| file.exists());
    let preprocessor = preprocessor.as_deref().or(sources.preprocessor);
    let assembled = assemble::build(Sources { preprocessor, ..sources }, None)?;
    let mut adapter = Adapter::read(folder.join(ADAPTER))?;
    adapter.fill(assembled.net.body.as_ref(), &assembled.trained)?;
    let classifier = adapter.take_classifier();
    adapter.check_used(&assembled.trained)?;

    let head = &assembled.net.head;
    let own = folder.join(HEAD);
    if own.exists() {
        fill_head(head, &own, &files::read_tensors(&own)?, known)?;
    } else if !classifier.is_empty() {
        check_classifier(assembled.net.body.as_ref(), &folder.join(ADAPTER_CONFIG))?;
        fill_head(head, &adapter.file, &classifier, known)?;
    }
    Ok(assembled)
}

/// The tensors of an adapter's file that nothing has asked for yet.
struct Adapter {
    file: PathBuf,
    tensors: BTreeMap<String, Tensor>,
}

impl Adapter {
    fn read(file: PathBuf) -> Result<Self, Error> {
        let tensors = files::read_tensors(&file)?;
        Ok(Self { file, tensors })
    }

    /// Sets every adapted module's two factors.
    fn fill(&mut self, body: &dyn Model, trained: &[(String, Tensor)]) -> Result<(), Error> {
        let _guard = tch::no_grad_guard();
        for (name, leaf) in trained.iter().filter(|(name, _)| name.contains(".lora_")) {
            let value = self.take(&names(body, name), &leaf.size())?;
            leaf.shallow_clone().copy_(&value);
        }
        Ok(())
    }

    /// The tensor that goes by any of the names; under several it has to be the same.
    fn take(&mut self, names: &[String], shape: &[i64]) -> Result<Tensor, Error> {
        let found: Vec<&String> = names.iter().filter(|name| self.tensors.contains_key(*name)).collect();
        let first = found.first().copied().unwrap_or(&names[0]);
        let value = files::checked(&self.file, &self.tensors, first, shape)?;
        if let Some(other) = found.iter().find(|name| !self.tensors[**name].equal(&value)) {
            let reason = format!("`{first}` and `{other}` are one module's, and differ");
            return Err(files::damaged(&self.file, reason));
        }
        found.into_iter().for_each(|name| drop(self.tensors.remove(name)));
        Ok(value)
    }

    /// Under the names of a head's own file.
    fn take_classifier(&mut self) -> BTreeMap<String, Tensor> {
        let one = |path: &str| {
            let tensor = self.tensors.remove(&format!("{PREFIX}{path}"))?;
            Some((path.trim_start_matches("classifier.").to_owned(), tensor))
        };
        CLASSIFIER.into_iter().filter_map(one).collect()
    }

    fn check_used(&self, trained: &[(String, Tensor)]) -> Result<(), Error> {
        if self.tensors.is_empty() {
            return Ok(());
        }
        let named = self.tensors.keys().take(NAMED).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let more = match self.tensors.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Err(Error::Unused { file: self.file.clone(), tensors: named + &more, modules: modules(trained) })
    }
}

/// A leaf's names in an adapter's file: with and without the model that a classifier wraps, in either transformers.
fn names(body: &dyn Model, leaf: &str) -> Vec<String> {
    let config = body.config();
    let wrapped = config["model_type"].as_str().unwrap_or_default();
    let both = |path: String| [format!("{PREFIX}{path}"), format!("{PREFIX}{wrapped}.{path}")];
    body.hub_paths(leaf).into_iter().flat_map(both).collect()
}

/// The adapted modules, layers as `N`.
fn modules(trained: &[(String, Tensor)]) -> String {
    let path = |name: &str| {
        let module = name.split(".lora_").next().unwrap_or(name);
        let segments = module.split('.').map(|part| if part.parse::<u32>().is_ok() { "N" } else { part });
        segments.collect::<Vec<_>>().join(".")
    };
    let adapted = trained.iter().filter(|(name, _)| name.contains(".lora_"));
    let paths: BTreeSet<String> = adapted.map(|(name, _)| path(name)).collect();
    paths.into_iter().collect::<Vec<_>>().join(", ")
}

/// A BERT's classifier in transformers reads its pooler's output, not the features that a head reads here.
fn check_classifier(body: &dyn Model, file: &Path) -> Result<(), Error> {
    if body.config()["model_type"] != bert::MODEL_TYPE {
        return Ok(());
    }
    let config: Value = files::read_json(file)?;
    let class = config["auto_mapping"]["base_model_class"].as_str().unwrap_or_default();
    if config["task_type"] != "SEQ_CLS" && !class.ends_with("ForSequenceClassification") {
        return Ok(());
    }
    let reason = format!(
        "this classifier reads BERT's pooler, which a head here does not; put one that reads `input.pooling`'s \
         features into `{HEAD}`"
    );
    let given = config["modules_to_save"].to_string();
    Err(Error::Config { file: file.to_owned(), field: "modules_to_save", given, reason })
}

/// The first `known` rows; the seed's stay in the others.
fn fill_head(head: &Head, file: &Path, tensors: &BTreeMap<String, Tensor>, known: usize) -> Result<(), Error> {
    let _guard = tch::no_grad_guard();
    let (known, width) = (known as i64, head.weight.size()[1]);
    let weight = files::checked(file, tensors, "weight", &[known, width])?;
    let bias = files::checked(file, tensors, "bias", &[known])?;
    head.weight.narrow(0, 0, known).copy_(&weight);
    head.bias.narrow(0, 0, known).copy_(&bias);
    Ok(())
}
