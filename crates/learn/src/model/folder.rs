//! Hugging Face model folders: `config.json`, `model.safetensors`, `preprocessor_config.json`.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tch::Device;

use crate::Error;
use crate::data::Preprocess;
use crate::files;
use crate::model::Model;
use crate::model::layers::{Init, Source};
use crate::model::mlp::{self, Mlp};
use crate::model::vit::{self, Vit};

pub const CONFIG: &str = "config.json";
pub const WEIGHTS: &str = "model.safetensors";
pub const PREPROCESSOR: &str = "preprocessor_config.json";

/// The model without its head: what a checkpoint's classifier knows is not what the pipeline asks.
pub fn load(folder: &Path, device: Device) -> Result<Box<dyn Model>, Error> {
    let file = folder.join(CONFIG);
    let config: Value = files::read_json(&file)?;
    match config["model_type"].as_str() {
        Some(vit::MODEL_TYPE) => {
            let config: vit::Config = parsed(&file, config)?;
            let refused = |(field, given, reason)| Error::Config { file, field, given, reason };
            config.check().map_err(refused)?;
            Ok(Box::new(Vit::new(config, source(folder, device, "vit.")?.as_mut())?))
        }
        Some(mlp::MODEL_TYPE) => {
            let config: mlp::Config = parsed(&file, config)?;
            Ok(Box::new(Mlp::new(config, source(folder, device, "")?.as_mut())?))
        }
        other => Err(Error::UnknownModel {
            file,
            given: other.unwrap_or("(none)").to_owned(),
            supported: [vit::MODEL_TYPE, mlp::MODEL_TYPE].join(", "),
        }),
    }
}

fn parsed<T: DeserializeOwned>(file: &Path, config: Value) -> Result<T, Error> {
    serde_json::from_value(config).map_err(|e| files::damaged(file, e))
}

/// Tensors from the folder's file, whose names may carry `prefix`, as those of a classifier do.
fn source(folder: &Path, device: Device, prefix: &'static str) -> Result<Box<Source<'static>>, Error> {
    let file = folder.join(WEIGHTS);
    let tensors = files::read_tensors(&file)?;
    Ok(Box::new(move |name: &str, shape: &[i64], _: Init| {
        let prefixed = format!("{prefix}{name}");
        let stored = if tensors.contains_key(&prefixed) { &prefixed } else { name };
        Ok(files::checked(&file, &tensors, stored, shape)?.to_device(device))
    }))
}

/// Writes a folder that [`load`] and, for a ViT, `transformers.ViTModel.from_pretrained` read.
pub fn save(folder: &Path, model: &dyn Model, preprocess: &Preprocess) -> Result<(), Error> {
    std::fs::create_dir_all(folder).map_err(|source| Error::Write { file: folder.to_owned(), source })?;
    files::write_json(&folder.join(CONFIG), &model.config())?;
    files::write_tensors(&folder.join(WEIGHTS), &model.tensors())?;
    preprocess.save(&folder.join(PREPROCESSOR))
}
