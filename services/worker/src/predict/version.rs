//! A version's folder: what it says of itself, and the net it makes.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use domain::chunk::Row;
use domain::pipeline::{Adapter, Model, Pipeline};
use learn::assemble::{self, Assembled, Sources};
use learn::data::Reader;
use learn::model::Net;
use serde::Deserialize;

use crate::bench::flags;

const MANIFEST: &str = "perennial_manifest.json";

/// What is read of a version's manifest.
#[derive(Deserialize)]
struct Manifest {
    config: Pipeline,
    labels: Vec<String>,
}

pub struct Version {
    folder: PathBuf,
    /// Of the base model, where the version is an adapter to one.
    base: Option<PathBuf>,
    pipeline: Pipeline,
    pub labels: Vec<String>,
}

/// Ready to predict.
pub struct Loaded {
    pub net: Net,
    pub reader: Reader,
    pub device: tch::Device,
}

impl Version {
    /// `model` must be the very folder that the version was trained on.
    pub fn open(folder: &Path, model: Option<&Path>) -> anyhow::Result<Self> {
        let file = folder.join(MANIFEST);
        let text = std::fs::read(&file)
            .with_context(|| format!("`{}` is not a version's folder: cannot read its {MANIFEST}", folder.display()))?;
        let manifest: Manifest =
            serde_json::from_slice(&text).with_context(|| format!("`{}` is damaged", file.display()))?;
        let base = base(&manifest.config, model)?;
        Ok(Self { folder: folder.to_owned(), base, pipeline: manifest.config, labels: manifest.labels })
    }

    pub fn load(&self, first: &Row, task: Option<&str>) -> anyhow::Result<Loaded> {
        let name = flags::device();
        let device = assemble::device(name).with_context(|| format!("`{name}` is not a device"))?;
        let sources = Sources {
            pipeline: &self.pipeline,
            labels: &self.labels,
            base: self.base.as_deref(),
            version: Some(&self.folder),
            preprocessor: None,
            device,
            precision: self.pipeline.training.precision,
        };
        let Assembled { net, reader, .. } = assemble::assemble(sources, first)?;
        check_task(&net, task)?;
        Ok(Loaded { net, reader, device })
    }
}

fn check_task(net: &Net, task: Option<&str>) -> anyhow::Result<()> {
    match (task, &net.heads) {
        (None, Some(heads)) if heads.tasks().next().is_some() => {
            let tasks = heads.tasks().collect::<Vec<_>>().join(", ");
            eprintln!("every label may be the answer; with --task, only that task's: {tasks}");
            Ok(())
        }
        (Some(task), None) => bail!("--task: the version has one head for all; leave `{task}` out"),
        (Some(task), Some(heads)) if !heads.tasks().any(|known| known == task) => {
            bail!(
                "--task: the version has no head for `{task}`; known: {}",
                heads.tasks().collect::<Vec<_>>().join(", ")
            )
        }
        _ => Ok(()),
    }
}

fn base(pipeline: &Pipeline, given: Option<&Path>) -> anyhow::Result<Option<PathBuf>> {
    // A version of a whole model carries its weights; one of a model made from a seed needs no folder.
    let (Adapter::Lora(_), Model::Folder(model)) = (&pipeline.adapter, &pipeline.model) else { return Ok(None) };
    let Some(given) = given else {
        bail!("the version is an adapter to `{}`: say where a copy of that folder lies with --model DIR", model.uri);
    };
    let found = learn::folder_digest(given)?;
    if found != model.sha256 {
        bail!(
            "--model: `{}` has SHA-256 {found}, and the version was trained on {}; name a copy of `{}`",
            given.display(),
            model.sha256,
            model.uri
        );
    }
    Ok(Some(given.to_owned()))
}
