//! The base model: a small ViT that knows the plain glyphs, trained by `pretrain`.
//!
//! In a process of its own, because training cannot be interrupted and this one may be.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use serde::Deserialize;
use tokio::process::Command;

use super::progress::Progress;
use super::story::SEED;
use crate::report::percent;

/// What `pretrain` prints, as far as it matters here.
#[derive(Debug, Deserialize)]
pub struct Base {
    pub folder: PathBuf,
    /// On drawings it was not trained on.
    pub accuracy: f64,
}

const MODEL: &str = "vit:d=64,layers=3,heads=4,patch=7,mlp=128";

pub async fn train(folder: &Path, progress: &Progress) -> anyhow::Result<Base> {
    progress.say("drawing glyphs and pretraining a small ViT on the plain ones");
    let base = pretrain(folder).await.context("cannot pretrain the base model")?;
    progress.say(format!("pretrained: {} of plain glyphs right", percent(Some(base.accuracy))));
    Ok(base)
}

async fn pretrain(folder: &Path) -> anyhow::Result<Base> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["pretrain", "--glyphs", "plain", "--limit", "4000", "--epochs", "4", "--lr", "0.004", "--model", MODEL]);
    command.args(["--seed", &SEED.to_string(), "-o", "json", "--out"]).arg(folder.join("base-model"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let done = command.spawn()?.wait_with_output().await?;
    if !done.status.success() {
        bail!("it ended with {}", done.status);
    }
    serde_json::from_slice(&done.stdout).context("its answer cannot be read")
}
