//! Hugging Face model folders: `config.json`, weights in one file or in shards, and what reads rows for them.

use std::path::Path;

use domain::pipeline::Pooling;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tch::Device;

use crate::Error;
use crate::data::Reader;
use crate::files;
use crate::model::Model;
use crate::model::bert::{self, Bert};
use crate::model::layers::{Init, Source};
use crate::model::mlp::{self, Mlp};
use crate::model::resnet::{self, Resnet};
use crate::model::vit::{self, Vit};
use crate::weights::Weights;

pub const CONFIG: &str = "config.json";
pub const WEIGHTS: &str = "model.safetensors";
/// Lists the files that hold the tensors of a checkpoint in shards.
pub const INDEX: &str = "model.safetensors.index.json";

/// The model without its head: what a checkpoint's classifier knows is not what the pipeline asks.
pub fn load(folder: &Path, pooling: Pooling, device: Device) -> Result<Box<dyn Model>, Error> {
    let file = folder.join(CONFIG);
    let config: Value = files::read_json(&file)?;
    match config["model_type"].as_str() {
        Some(vit::MODEL_TYPE) => {
            let config: vit::Config = parsed(&file, config)?;
            let refused = |(field, given, reason)| Error::Config { file, field, given, reason };
            config.check().map_err(refused)?;
            Ok(Box::new(Vit::new(config, source(folder, device, "vit.")?.as_mut())?))
        }
        Some(bert::MODEL_TYPE) => {
            let config: bert::Config = parsed(&file, config)?;
            let refused = |(field, given, reason)| Error::Config { file, field, given, reason };
            config.check().map_err(refused)?;
            Ok(Box::new(Bert::new(config, pooling, source(folder, device, "bert.")?.as_mut())?))
        }
        Some(resnet::MODEL_TYPE | resnet::OWN_TYPE) => {
            let config: resnet::Config = parsed(&file, config)?;
            let refused = |(field, given, reason)| Error::Config { file, field, given, reason };
            config.check().map_err(refused)?;
            Ok(Box::new(Resnet::new(config, source(folder, device, "resnet.")?.as_mut())?))
        }
        Some(mlp::MODEL_TYPE) => {
            let config: mlp::Config = parsed(&file, config)?;
            Ok(Box::new(Mlp::new(config, source(folder, device, "")?.as_mut())?))
        }
        other => Err(Error::UnknownModel {
            file,
            given: other.unwrap_or("(none)").to_owned(),
            supported: [bert::MODEL_TYPE, vit::MODEL_TYPE, resnet::MODEL_TYPE, resnet::OWN_TYPE, mlp::MODEL_TYPE]
                .join(", "),
        }),
    }
}

fn parsed<T: DeserializeOwned>(file: &Path, config: Value) -> Result<T, Error> {
    serde_json::from_value(config).map_err(|e| files::damaged(file, e))
}

/// Tensors from the folder's weights, whose names may carry `prefix`, as those of a classifier do.
fn source(folder: &Path, device: Device, prefix: &'static str) -> Result<Box<Source<'static>>, Error> {
    let weights = Weights::open(folder)?;
    Ok(Box::new(move |name: &str, shape: &[i64], _: Init| {
        let prefixed = format!("{prefix}{name}");
        let stored = if weights.holds(&prefixed) { &prefixed } else { name };
        Ok(weights.tensor(stored, shape)?.to_device(device))
    }))
}

/// Writes a folder that [`load`] and `transformers.AutoModel.from_pretrained` read; an MLP is ours alone, and so are ResNets
/// of [`resnet::OWN_TYPE`].
pub fn save(folder: &Path, model: &dyn Model, reader: &Reader) -> Result<(), Error> {
    std::fs::create_dir_all(folder).map_err(|source| Error::Write { file: folder.to_owned(), source })?;
    files::write_json(&folder.join(CONFIG), &model.config())?;
    files::write_tensors(&folder.join(WEIGHTS), &model.tensors())?;
    reader.save(folder).map(drop)
}
