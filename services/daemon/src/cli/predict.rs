//! `perennial predict`: finds a version and its base model on this machine, then hands over to the worker.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use domain::pipeline::{Adapter, Model, ModelFolder, Pipeline};
use serde::Deserialize;

use super::cache::Cache;
use super::client::Context;
use super::failure::Failure;
use super::folder::Folder;
use super::hand_over;
use super::output::Output;
use super::pull::MANIFEST;
use super::reference::Reference;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  perennial predict tickets@champion --input rows.jsonl > predictions.jsonl
  cat rows.jsonl | perennial predict tickets/3 --input - --top 3 -o table
  perennial predict ./tickets-champion --input rows.parquet --model ./minilm

A row has a `text` or an `image` (base64), and a `row_id` if it likes. Where rows have labels, the accuracy goes to stderr.
Versions and base models that were fetched are kept in ${XDG_CACHE_HOME:-~/.cache}/perennial")]
pub struct Args {
    /// A version, or the folder of one, as `version pull` leaves it
    #[arg(value_name = "VERSION|DIR")]
    version: String,
    /// Parquet, JSONL, CSV, TSV or a WebDataset tar; `-` reads JSONL from standard input
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// The base model: a folder, or hf://ORG/NAME@REVISION. Default: fetched, if the version is an adapter to one
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Labels of each row, the likeliest first
    #[arg(long, value_name = "N", default_value = "1")]
    top: NonZeroUsize,
    /// The rows' task, for a version with a head for each task
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
    /// Default: `image` or `text`, whichever is there
    #[arg(long, value_name = "NAME")]
    input_column: Option<String>,
    /// Default: `label`
    #[arg(long, value_name = "NAME")]
    label_column: Option<String>,
}

impl Args {
    /// Predictions are for programs first: JSONL, unless asked otherwise.
    pub async fn run(self, ctx: &Context, output: Option<Output>) -> Result<(), Failure> {
        let folder = self.folder(ctx).await?;
        let model = match &self.model {
            Some(model) => Some(model.clone()),
            None => base(ctx, &folder).await?,
        };
        let mut args: Vec<OsString> = vec![folder.into(), "--input".into(), self.input.into()];
        args.extend(["--top".into(), self.top.to_string().into()]);
        let mut add = |flag: &str, value: Option<OsString>| {
            args.extend(value.into_iter().flat_map(|value| [flag.into(), value]));
        };
        add("--model", model.map(Into::into));
        add("--task", self.task.map(Into::into));
        add("--input-column", self.input_column.map(Into::into));
        add("--label-column", self.label_column.map(Into::into));
        add("-o", Some(output.unwrap_or(Output::Json).name().into()));
        Err(hand_over::exec(OsStr::new("predict"), args).await)
    }

    async fn folder(&self, ctx: &Context) -> Result<PathBuf, Failure> {
        if Path::new(&self.version).is_dir() {
            return Ok(PathBuf::from(&self.version));
        }
        let reference: Reference = self.version.parse().map_err(|reason| {
            Failure::Usage(format!("`{}` is neither a folder nor a version: {reason}", self.version))
        })?;
        Cache::open()?.version(ctx, &reference).await
    }
}

/// What is read of a version's manifest.
#[derive(Deserialize)]
struct Manifest {
    config: Pipeline,
}

/// The folder of the model that the version is an adapter to; none if it carries all its weights.
async fn base(ctx: &Context, version: &Path) -> Result<Option<PathBuf>, Failure> {
    let file = version.join(MANIFEST);
    let text = std::fs::read(&file).map_err(Failure::file("read", &file))?;
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|error| Failure::Failed(format!("`{}` is no version's manifest: {error}", file.display())))?;
    let (Adapter::Lora(_), Model::Folder(wanted)) = (&manifest.config.adapter, &manifest.config.model) else {
        return Ok(None);
    };
    let cache = Cache::open()?;
    if let Some(here) = cache.kept_model(wanted).or(beside(wanted).await) {
        return Ok(Some(here));
    }
    cache.model(ctx, wanted).await.map(Some)
}

/// The folder that a `file://` URI names, if this machine has the same one.
async fn beside(wanted: &ModelFolder) -> Option<PathBuf> {
    let folder = url::Url::parse(&wanted.uri).ok()?.to_file_path().ok()?;
    let found = Folder::whole(&folder).await.ok()?.digest();
    (found == wanted.sha256).then_some(folder)
}
