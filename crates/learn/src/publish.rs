//! A version's files, as others read them: PEFT, transformers, or forty lines of anything.

mod card;

use std::collections::BTreeSet;
use std::path::Path;

use domain::buffer::Snapshot;
use domain::pipeline::{Adapter, Layers, Lora, Model as Origin, Spec};
use serde_json::{Value, json};
use tch::Tensor;

use crate::data::Reader;
use crate::heads::HEADS;
use crate::model::{Net, folder};
use crate::{Carried, Error, LEARNER, files};

pub const ADAPTER: &str = "adapter_model.safetensors";
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
pub const HEAD: &str = "head.safetensors";
pub const LABELS: &str = "labels.json";
/// Where the nearest class mean decides.
pub const MEANS: &str = "class_means.safetensors";
pub const SNAPSHOT: &str = "snapshot.json";
pub const CARD: &str = "README.md";
/// How PEFT begins every tensor's name.
pub(crate) const PREFIX: &str = "base_model.model.";

/// What is written down.
pub struct Publication<'a> {
    pub pipeline: &'a Spec,
    pub labels: &'a [String],
    pub net: &'a Net,
    pub trained: &'a [(String, Tensor)],
    pub reader: &'a Reader,
    pub snapshot: &'a Snapshot,
    /// What the next update begins with, besides.
    pub carried: &'a Carried,
    /// (classes, width), where the nearest one decides.
    pub means: Option<&'a Tensor>,
    /// It was trained elsewhere.
    pub imported: bool,
}

/// Writes the files into `out` and names them, sorted.
pub fn publish(out: &Path, publication: &Publication) -> Result<Vec<String>, Error> {
    let Publication { pipeline, labels, net, trained, reader, snapshot, carried, means, .. } = publication;
    std::fs::create_dir_all(out).map_err(|source| Error::Write { file: out.to_owned(), source })?;
    let mut names = vec![HEAD, LABELS, SNAPSHOT, CARD, reader.save(out)?];
    match &pipeline.adapter {
        Adapter::Full => {
            folder::save(out, net.body.as_ref(), reader)?;
            names.extend([folder::CONFIG, folder::WEIGHTS]);
        }
        Adapter::Lora(lora) => {
            let tensors = peft_tensors(net, trained);
            files::write_json(&out.join(ADAPTER_CONFIG), &peft_config(pipeline, lora, &tensors))?;
            files::write_tensors(&out.join(ADAPTER), &tensors)?;
            names.extend([ADAPTER, ADAPTER_CONFIG]);
        }
    }
    files::write_tensors(&out.join(HEAD), &net.head.named(""))?;
    files::write_json(&out.join(LABELS), labels)?;
    files::write_json(&out.join(SNAPSHOT), snapshot)?;
    if let Some(means) = means {
        files::write_tensors(&out.join(MEANS), &[("means".to_owned(), means.shallow_clone())])?;
        names.push(MEANS);
    }
    if let Some(heads) = &net.heads {
        heads.save(&out.join(HEADS), labels)?;
        names.push(HEADS);
    }
    if !carried.0.is_empty() {
        let tensors: Vec<_> = carried.0.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
        files::write_tensors(&out.join(LEARNER), &tensors)?;
        names.push(LEARNER);
    }
    files::write_bytes(&out.join(CARD), card::card(publication).as_bytes())?;
    names.sort_unstable();
    Ok(names.into_iter().map(str::to_owned).collect())
}

/// SHA-256 over the trained tensors in name order (name, shape, f32 values).
pub fn weights_sha256(trained: &[(String, Tensor)]) -> String {
    files::weights_digest(trained)
}

/// Under every name that some version of transformers gives the module.
fn peft_tensors(net: &Net, trained: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    let adapters = trained.iter().filter(|(name, _)| name.contains(".lora_"));
    adapters
        .flat_map(|(name, tensor)| {
            let paths = net.body.hub_paths(name).into_iter();
            paths.map(|path| (format!("{PREFIX}{path}"), tensor.shallow_clone()))
        })
        .collect()
}

/// Only keys that PEFT has known since 0.9, so that old and new readers accept it.
fn peft_config(pipeline: &Spec, lora: &Lora, tensors: &[(String, Tensor)]) -> Value {
    let alpha = lora.alpha.get();
    let alpha = if alpha.fract() == 0.0 { json!(alpha as i64) } else { json!(alpha) };
    json!({
        "peft_type": "LORA", "task_type": null, "auto_mapping": null,
        "base_model_name_or_path": base_name(pipeline), "revision": null,
        "inference_mode": true,
        "r": lora.r, "lora_alpha": alpha, "use_rslora": lora.use_rslora, "lora_dropout": 0.0,
        "target_modules": targets(lora.layers, tensors), "modules_to_save": null,
        "bias": "none", "use_dora": false, "fan_in_fan_out": false, "init_lora_weights": true,
        "layers_to_transform": null, "layers_pattern": null, "rank_pattern": {}, "alpha_pattern": {},
    })
}

/// Every name the adapted modules go by: last segments, or whole paths where only some blocks have them.
///
/// `layers_to_transform` would say it shorter, but PEFT does not find it in paths that begin with `layers.`, as a ViT's.
fn targets(layers: Layers, tensors: &[(String, Tensor)]) -> BTreeSet<&str> {
    let modules = tensors.iter().filter_map(|(name, _)| name.strip_prefix(PREFIX)?.split(".lora_").next());
    let targets = modules.map(|module| match layers {
        Layers::All => module.rsplit('.').next().unwrap_or(module),
        Layers::Last(_) => module,
    });
    targets.collect()
}

/// Where a reader finds the base model.
fn base_name(pipeline: &Spec) -> &str {
    match &pipeline.model {
        Origin::Folder(model) => model.uri.strip_prefix("file://").unwrap_or(&model.uri),
        Origin::Scratch(spec) => spec,
    }
}
