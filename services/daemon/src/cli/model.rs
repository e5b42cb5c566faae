//! `perennial model`: base models, as Hugging Face folders.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{Stream, StreamExt, stream};
use hub::Source;
use indicatif::ProgressBar;
use perennial_proto::v1;
use perennial_proto::v1::push_model_request::Part;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::cache::Cache;
use super::client::{Context, within};
use super::failure::Failure;
use super::output::Render;
use super::progress;
use super::upload::{self, Broken, LocalFile};

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

async fn push(ctx: &Context, folder: &Path) -> Result<(), Failure> {
    let mut files = Vec::new();
    for path in names(folder)? {
        files.push(upload::inspect(path).await?);
    }
    let bytes = files.iter().map(|file| file.bytes).sum();
    let (sha256, broken) = (digest(&files), Broken::default());
    let bar = progress::transfer(bytes, &folder.display().to_string());
    let request = within(upload::deadline(bytes, ctx.timeout), parts(files, bar.clone(), broken.clone()));
    let outcome = ctx.registry().await?.push_model(request).await;
    bar.finish_and_clear();
    let pushed = broken.or(outcome.map_err(Failure::from))?.into_inner();
    if pushed.sha256 != sha256 {
        let folder = folder.display();
        return Err(Failure::Failed(format!(
            "`{folder}` changed while it was pushed: it was {sha256}, {} arrived",
            pushed.sha256
        )));
    }
    ctx.show(&ModelView { uri: pushed.uri, sha256, already_exists: pushed.already_exists })
}

fn names(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let read = Failure::file("read", folder);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(&read)? {
        let entry = entry.map_err(&read)?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if entry.path().is_file() && !hidden {
            names.push(entry.path());
        }
    }
    names.sort();
    if names.iter().all(|name| !name.ends_with("config.json")) {
        return Err(Failure::Failed(format!("`{}` is not a model folder: it has no config.json", folder.display())));
    }
    Ok(names)
}

fn name(file: &LocalFile) -> String {
    file.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Of all files in a folder, hidden ones too, as a pipeline's `model.sha256` pins it.
pub async fn folder_digest(folder: &Path) -> Result<String, Failure> {
    let read = Failure::file("read", folder);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(&read)? {
        let path = entry.map_err(&read)?.path();
        if path.is_file() {
            files.push(upload::inspect(path).await?);
        }
    }
    Ok(digest(&files))
}

/// Of the folder: SHA-256 over the sorted lines `<sha256 of file>  <name>\n`.
pub fn digest(files: &[LocalFile]) -> String {
    let mut lines: Vec<_> = files.iter().map(|file| format!("{}  {}\n", file.sha256, name(file))).collect();
    lines.sort();
    hex::encode(Sha256::digest(lines.concat()))
}

fn parts(
    files: Vec<LocalFile>,
    bar: ProgressBar,
    broken: Broken,
) -> impl Stream<Item = v1::PushModelRequest> + Send + 'static {
    let part = |part| v1::PushModelRequest { part: Some(part) };
    stream::iter(files).flat_map(move |file| {
        let begin = stream::iter([part(Part::File(name(&file)))]);
        let frames = upload::frames(file.path, bar.clone(), broken.clone());
        begin.chain(frames.map(move |frame| part(Part::Frame(frame.into()))))
    })
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

    #[tokio::test]
    async fn a_folder_is_pushed_file_by_file_and_pinned_by_digest() {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in [("model.safetensors", "weights"), ("config.json", "{}"), (".git", "no")] {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        let mut files = Vec::new();
        for path in names(folder.path()).unwrap() {
            files.push(upload::inspect(path).await.unwrap());
        }
        let of = |content: &str| hex::encode(Sha256::digest(content));
        let mut lines = [format!("{}  config.json\n", of("{}")), format!("{}  model.safetensors\n", of("weights"))];
        lines.sort();
        assert_eq!(digest(&files), of(&lines.concat()));
        let parts: Vec<_> = parts(files, ProgressBar::hidden(), Broken::default()).collect().await;
        assert_eq!(parts[0].part, Some(Part::File("config.json".to_owned())));
        assert_eq!(parts.len(), 4);
    }

    #[test]
    fn a_folder_without_a_config_is_no_model() {
        let folder = tempfile::tempdir().unwrap();
        assert!(names(folder.path()).unwrap_err().to_string().contains("has no config.json"));
    }

    #[test]
    fn what_is_printed_can_be_pasted() {
        let view = ModelView { uri: "file:///m".into(), sha256: "12".into(), already_exists: true };
        let parsed: serde_json::Value = crate::yaml::load("x", &view.text()).unwrap();
        assert_eq!(parsed["model"]["sha256"], "12");
    }
}
