//! Sending an adapter that was trained elsewhere, to be a pipeline's first version.

use std::path::{Path, PathBuf};

use domain::id::PipelineName;
use futures::{StreamExt, stream};
use perennial_proto::v1;
use perennial_proto::v1::import_version_request;
use serde_json::Value;

use super::client::{Context, present, within};
use super::failure::Failure;
use super::folder::{Folder, Part};
use super::upload::{self, Broken};
use super::{progress, run, version};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What a version published here has besides.
const OPTIONAL: [&str; 4] = ["head.safetensors", "labels.json", "preprocessor_config.json", "perennial_manifest.json"];

pub async fn import(ctx: &Context, pipeline: &PipelineName, path: &Path, wait: bool) -> Result<(), Failure> {
    let folder = Folder::read(files(path)?).await?;
    let base_sha256 = base(path).await?;
    let header = v1::ImportHeader { pipeline: ctx.pipeline(pipeline), base_sha256 };
    let queued = send(ctx, path, folder, header).await?;
    match wait {
        true => {
            let number = run::published(ctx, queued.name).await?;
            version::show(ctx, pipeline, number).await
        }
        false => ctx.show(&run::RunView::from(queued)),
    }
}

async fn send(ctx: &Context, path: &Path, folder: Folder, header: v1::ImportHeader) -> Result<v1::Run, Failure> {
    let (bytes, broken) = (folder.bytes(), Broken::default());
    let bar = progress::transfer(bytes, &path.display().to_string());
    let files = folder.parts(bar.clone(), broken.clone()).map(|part| match part {
        Part::File(name) => import_version_request::Part::File(name),
        Part::Frame(frame) => import_version_request::Part::Frame(frame.into()),
    });
    let parts = stream::iter([import_version_request::Part::Header(header)]).chain(files);
    let messages = parts.map(|part| v1::ImportVersionRequest { part: Some(part) });
    let outcome = ctx.registry().await?.import_version(within(upload::deadline(bytes, ctx.timeout), messages)).await;
    bar.finish_and_clear();
    present(broken.or(outcome.map_err(Failure::from))?.into_inner().run)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let is_there = |name: &&str| folder.join(name).is_file();
    if let Some(missing) = [CONFIG, WEIGHTS].into_iter().find(|name| !is_there(name)) {
        let folder = folder.display();
        return Err(Failure::Failed(format!("`{folder}` is not an adapter that PEFT saved: it has no {missing}")));
    }
    let names = [CONFIG, WEIGHTS].into_iter().chain(OPTIONAL.into_iter().filter(is_there));
    Ok(names.map(|name| folder.join(name)).collect())
}

/// Digest of the base model that the adapter's file names, if it lies here. Empty: it does not.
async fn base(folder: &Path) -> Result<String, Failure> {
    let file = folder.join(CONFIG);
    let text = std::fs::read(&file).map_err(Failure::file("read", &file))?;
    let config: Value = serde_json::from_slice(&text)
        .map_err(|error| Failure::Failed(format!("`{}` is not JSON: {error}", file.display())))?;
    match config["base_model_name_or_path"].as_str().map(Path::new) {
        Some(base) if base.join("config.json").is_file() => Ok(Folder::of_model(base).await?.digest()),
        _ => Ok(String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(config: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(CONFIG), config).unwrap();
        folder
    }

    #[test]
    fn only_what_belongs_to_an_adapter_is_sent() {
        let folder = adapter("{}");
        let missing = files(folder.path()).unwrap_err().to_string();
        assert!(missing.ends_with("it has no adapter_model.safetensors"), "{missing}");
        for name in [WEIGHTS, "labels.json", "optimizer.pt", "README.md"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let names = files(folder.path()).unwrap();
        let names: Vec<_> = names.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, [CONFIG, WEIGHTS, "labels.json"]);
    }

    #[tokio::test]
    async fn a_base_model_that_lies_here_is_known_by_its_digest() {
        let model = tempfile::tempdir().unwrap();
        std::fs::write(model.path().join("config.json"), "{}").unwrap();
        let config = serde_json::json!({"base_model_name_or_path": model.path()}).to_string();
        let digest = Folder::of_model(model.path()).await.unwrap().digest();
        assert_eq!(base(adapter(&config).path()).await.unwrap(), digest);
        let elsewhere = adapter("{\"base_model_name_or_path\": \"google/vit-base-patch16-224\"}");
        assert_eq!(base(elsewhere.path()).await.unwrap(), "");
        let torn = base(adapter("{").path()).await.unwrap_err().to_string();
        assert!(torn.contains("adapter_config.json` is not JSON"), "{torn}");
    }
}
