//! `perennial model`: base models, as Hugging Face folders.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use hub::Source;
use perennial_proto::v1;
use perennial_proto::v1::push_model_request;
use serde::Serialize;

use super::cache::Cache;
use super::client::{Context, within};
use super::failure::Failure;
use super::folder::{Folder, Part};
use super::output::Render;
use super::progress;
use super::upload::{self, Broken};

#[derive(clap::Subcommand)]
pub enum Verb {
    /// Store a model folder (config.json, model.safetensors, …) for pipelines to start from
    #[command(
        after_help = "Example:\n  perennial model push ./vit-base\n  perennial model push hf://google/vit-base-patch16-224@main\n\n\
                      HF_ENDPOINT, HF_TOKEN and HF_HOME mean what they mean to Hugging Face's own tools"
    )]
    Push {
        /// A folder, whose files are pushed without hidden ones and without folders within it; or a model of the
        /// Hugging Face Hub, hf://ORG/NAME@REVISION
        #[arg(value_name = "DIR|hf://…")]
        folder: PathBuf,
    },
}

impl Verb {
    pub async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let Self::Push { folder } = self;
        match folder.to_str().filter(|given| Source::is_meant(given)) {
            Some(given) => push(ctx, &hub_model(given).await?).await,
            None => push(ctx, &folder).await,
        }
    }
}

/// A local folder with a model of the Hugging Face Hub.
pub async fn hub_model(given: &str) -> Result<PathBuf, Failure> {
    let source: Source = given.parse().map_err(|error: hub::Error| Failure::Usage(error.to_string()))?;
    let bar = progress::transfer(0, given);
    let shown = bar.clone();
    let report = move |done, total| {
        shown.set_length(total);
        shown.set_position(done);
    };
    let fetched = hub::fetch(&source, &Cache::open()?.hub(), Arc::new(report)).await;
    bar.finish_and_clear();
    fetched.map_err(|error| Failure::Failed(error.to_string()))
}

async fn push(ctx: &Context, path: &Path) -> Result<(), Failure> {
    let folder = Folder::of_model(path).await?;
    let (bytes, sha256, broken) = (folder.bytes(), folder.digest(), Broken::default());
    let bar = progress::transfer(bytes, &path.display().to_string());
    let messages = folder.parts(bar.clone(), broken.clone()).map(message);
    let outcome = ctx.registry().await?.push_model(within(upload::deadline(bytes, ctx.timeout), messages)).await;
    bar.finish_and_clear();
    let pushed = broken.or(outcome.map_err(Failure::from))?.into_inner();
    if pushed.sha256 != sha256 {
        let path = path.display();
        return Err(Failure::Failed(format!(
            "`{path}` changed while it was pushed: it was {sha256}, {} arrived",
            pushed.sha256
        )));
    }
    ctx.show(&ModelView { uri: pushed.uri, sha256, already_exists: pushed.already_exists })
}

fn message(part: Part) -> v1::PushModelRequest {
    let part = match part {
        Part::File(name) => push_model_request::Part::File(name),
        Part::Frame(frame) => push_model_request::Part::Frame(frame.into()),
    };
    v1::PushModelRequest { part: Some(part) }
}

#[derive(Serialize)]
struct ModelView {
    uri: String,
    sha256: String,
    already_exists: bool,
}

impl Render for ModelView {
    fn text(&self) -> String {
        let already = if self.already_exists { "# was there already\n" } else { "" };
        format!("{already}model:\n  uri: {}\n  sha256: \"{}\"", self.uri, self.sha256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_pasted() {
        let view = ModelView { uri: "file:///m".into(), sha256: "12".into(), already_exists: true };
        let parsed: serde_json::Value = crate::yaml::load("x", &view.text()).unwrap();
        assert_eq!(parsed["model"]["sha256"], "12");
    }
}
