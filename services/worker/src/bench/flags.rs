//! What the commands of the learning core share: flag values, results on stdout, exit codes.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use domain::chunk::Row;
use domain::pipeline::{Adapter, InvalidNumber, InvalidSpec, Lora, Model, ModelFolder, Precision, Spec, is_line};
use learn::assemble::{Sources, assemble};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    #[default]
    Table,
    Json,
}

/// Flags that do not fit together, or with what they name.
#[derive(Debug, thiserror::Error)]
pub enum Usage {
    #[error("these flags do not fit together")]
    Spec(#[from] InvalidSpec),
    #[error(
        "--model: `{given}` is neither a folder nor a model to make: expected a folder with config.json and model.safetensors, `hf://ORG/NAME@REVISION`, `mlp:100,100`, `vit:d=64,layers=4,heads=4,patch=4,mlp=128` or `resnet18:slim`"
    )]
    Model { given: String },
    #[error("--model: `{given}` is fetched by `perennial`: run `perennial bench` instead of `perennial-worker bench`")]
    Hub { given: String },
    #[error("--model cannot be made")]
    Made(#[source] learn::Error),
    #[error("--adapter does not fit the model; choose its layers with targets=A,B")]
    Adapter(#[source] learn::Error),
}

/// Ends a command: 0, 2 for wrong usage, 1 for any other error, whose chain goes to stderr.
pub fn exit(done: anyhow::Result<()>) -> ExitCode {
    let Err(error) = done else { return ExitCode::SUCCESS };
    let mut stderr = std::io::stderr();
    // Nobody is left to tell.
    let _ = writeln!(stderr, "error: {error:#}");
    ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
}

/// A reader that has seen enough (`| head`) is no error.
pub fn print<T: Serialize>(output: Output, result: &T, text: impl Fn(&T) -> String) -> anyhow::Result<()> {
    let text = match output {
        Output::Table => text(result),
        Output::Json => serde_json::to_string_pretty(result)?,
    };
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("cannot print the result"),
        _ => Ok(()),
    }
}

/// One of the names under which serde knows the variants of `T`.
pub fn one_of<T>(names: impl Into<PossibleValuesParser>) -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    names.into().try_map(|name| serde_json::from_value::<T>(Value::String(name)))
}

/// A number with an invariant.
pub fn number<T: TryFrom<f64, Error = InvalidNumber>>(given: &str) -> Result<T, String> {
    let value: f64 = given.parse().map_err(|_| "not a number".to_owned())?;
    T::try_from(value).map_err(|e| e.to_string())
}

/// `NAME=NUMBER,…`
pub fn parameters(given: &str) -> Result<BTreeMap<String, f64>, String> {
    let pair = |part: &str| {
        let (name, value) = part.split_once('=').ok_or_else(|| format!("`{part}` is not NAME=NUMBER"))?;
        let number = value.parse().map_err(|_| format!("{name}: `{value}` is not a number"))?;
        Ok((name.to_owned(), number))
    };
    given.split(',').map(pair).collect()
}

/// `full`, or `lora:R` with `alpha=`, `targets=A,B`, `layers=last:N` and `rslora` after it.
pub fn adapter(given: &str) -> Result<Adapter, String> {
    if given == "full" {
        return Ok(Adapter::Full);
    }
    let Some(settings) = given.strip_prefix("lora:") else {
        return Err(
            "expected `full` or `lora:<rank>[,alpha=16][,targets=query,value][,layers=last:2][,rslora]`".to_owned()
        );
    };
    let mut parts = settings.split(',');
    let rank = parts.next().unwrap_or_default();
    let rank: u32 = rank.parse().map_err(|_| format!("the rank `{rank}` is not a whole number"))?;
    let mut lora = json!({ "r": rank });
    let mut targets: Vec<&str> = Vec::new();
    for part in parts {
        match part.split_once('=') {
            Some(("alpha", alpha)) => {
                let alpha: f64 = alpha.parse().map_err(|_| format!("alpha `{alpha}` is not a number"))?;
                lora["alpha"] = json!(alpha);
            }
            Some(("layers", layers)) => lora["layers"] = json!(layers),
            Some(("targets", first)) => targets.push(first),
            None if part == "rslora" => lora["use_rslora"] = json!(true),
            None if !targets.is_empty() => targets.push(part),
            _ => return Err(format!("`{part}` is not a LoRA setting; known: alpha=, targets=, layers=, rslora")),
        }
    }
    if !targets.is_empty() {
        lora["target_modules"] = json!(targets);
    }
    serde_json::from_value::<Lora>(lora).map(Adapter::Lora).map_err(|e| e.to_string())
}

/// A model to make, or a folder pinned by its digest.
pub fn model(given: &str) -> anyhow::Result<(Model, Option<PathBuf>)> {
    if is_line(given) {
        return Ok((Model::Scratch(given.to_owned()), None));
    }
    if given.starts_with("hf://") {
        return Err(Usage::Hub { given: given.to_owned() }.into());
    }
    let folder = Path::new(given);
    if !folder.is_dir() {
        return Err(Usage::Model { given: given.to_owned() }.into());
    }
    let folder = std::path::absolute(folder)?;
    let sha256 = learn::folder_digest(&folder)?;
    let uri = format!("file://{}", folder.display());
    Ok((Model::Folder(ModelFolder { uri, sha256 }), Some(folder)))
}

/// Whether model and adapter fit each other and rows like this one. Asked before anything starts.
pub fn check_model(spec: &Spec, base: Option<&Path>, first: &Row) -> anyhow::Result<()> {
    let sources = Sources {
        pipeline: spec,
        labels: &spec.labels,
        base,
        version: None,
        preprocessor: None,
        device: tch::Device::Cpu,
        precision: Precision::F32,
    };
    match assemble(sources, first) {
        Ok(made) => Ok(made.reader.decode(std::slice::from_ref(first), "the stream", &spec.labels).map(drop)?),
        Err(error @ learn::Error::ModelSpec { .. }) => Err(Usage::Made(error).into()),
        Err(
            error @ (learn::Error::Rank { .. }
            | learn::Error::UnknownTarget { .. }
            | learn::Error::NoLinear
            | learn::Error::TooFewBlocks { .. }),
        ) => Err(Usage::Adapter(error).into()),
        Err(error) => Err(error.into()),
    }
}

/// Where tensors live on this machine.
pub fn device() -> &'static str {
    if tch::Cuda::is_available() { "cuda" } else { "cpu" }
}

/// A figure between 0 and 1, in percent.
pub fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1}", 100.0 * share))
}

/// Columns under their names.
pub fn table<R>(columns: impl IntoIterator<Item = impl Display>, rows: impl IntoIterator<Item = R>) -> String
where
    R: IntoIterator<Item = String>,
{
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(columns.into_iter().map(|name| name.to_string()).collect::<Vec<_>>());
    for row in rows {
        table.add_row(row.into_iter().collect::<Vec<_>>());
    }
    let lines: Vec<String> =
        table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned()).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_is_read_from_one_line() {
        assert_eq!(adapter("full"), Ok(Adapter::Full));
        let Ok(Adapter::Lora(lora)) = adapter("lora:8,alpha=32,targets=query,key,rslora") else { panic!("not LoRA") };
        assert_eq!((lora.r.get(), lora.alpha.get(), lora.use_rslora), (8, 32.0, true));
        assert_eq!(lora.target_modules, ["query", "key"]);
        let Ok(Adapter::Lora(lora)) = adapter("lora:8,layers=last:2") else { panic!("not LoRA") };
        assert_eq!(String::from(lora.layers), "last:2");
        assert!(adapter("lora:8,layers=first:2").unwrap_err().contains("last:N"));
        let Ok(Adapter::Lora(lora)) = adapter("lora:4") else { panic!("not LoRA") };
        assert_eq!((lora.alpha.get(), lora.target_modules), (16.0, Lora::default_targets()));
    }

    #[test]
    fn an_adapter_that_is_none_says_what_would_be() {
        assert!(adapter("qlora:8").unwrap_err().contains("`full` or `lora:<rank>"));
        assert!(adapter("lora:0").is_err());
        assert!(adapter("lora:x").unwrap_err().contains("`x` is not a whole number"));
        assert!(adapter("lora:8,beta=2").unwrap_err().contains("known: alpha="));
    }

    #[test]
    fn a_model_is_made_or_lies_in_a_folder() {
        assert_eq!(model("mlp:10").unwrap(), (Model::Scratch("mlp:10".to_owned()), None));
        let error = model("/no/such/folder").unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains("mlp:100,100"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), "{}").unwrap();
        let (found, at) = model(folder.path().to_str().unwrap()).unwrap();
        assert!(
            matches!(found, Model::Folder(pinned) if pinned.uri.starts_with("file:///") && pinned.sha256.len() == 64)
        );
        assert_eq!(at.as_deref(), Some(folder.path()));
    }
}
