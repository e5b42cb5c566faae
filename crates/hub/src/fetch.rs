//! From a model's name to a folder with the files that make it one.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
use hf_hub::{HFClient, HFResult};
use serde::Deserialize;
use tokio::time::timeout;

use crate::{Error, Source};

/// Longest wait for the first answer.
const ANSWER: Duration = Duration::from_secs(20);
/// Longest time in which a download does not get on.
const STALL: Duration = Duration::from_secs(60);

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Taken where they are.
const OPTIONAL: [&str; 2] = ["tokenizer.json", "preprocessor_config.json"];

/// Called with a file's bytes so far and in all.
pub type Report = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// A folder in `home` with the model's own files and no others, so that its digest is the model's wherever it is made.
/// The files themselves lie in the Hub's cache.
pub async fn fetch(source: &Source, home: &Path, report: Report) -> Result<PathBuf, Error> {
    let hub = Hub::new(source, report)?;
    let (commit, present) = hub.commit().await?;
    let folder = home.join(format!("{}--{}--{commit}", source.org, source.name));
    std::fs::create_dir_all(&folder).map_err(|source| Error::Write { path: folder.clone(), source })?;
    for file in hub.wanted(&commit, &present).await? {
        let fetched = hub.file(&commit, &file).await?;
        link(&fetched, &folder.join(file))?;
    }
    Ok(folder)
}

struct Hub<'a> {
    client: HFClient,
    source: &'a Source,
    report: Report,
}

impl<'a> Hub<'a> {
    fn new(source: &'a Source, report: Report) -> Result<Self, Error> {
        // One more try: what does not answer is soon known not to.
        let client = HFClient::builder().retry_max_attempts(1).build();
        let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_default();
        let client = client.map_err(|error| Error::of(error, &endpoint, &source.repository()))?;
        Ok(Self { client, source, report })
    }

    /// The commit that the revision means now, and the files that it holds.
    async fn commit(&self) -> Result<(String, BTreeSet<String>), Error> {
        let repository = self.client.model(&self.source.org, &self.source.name);
        let asked = repository.info().revision(self.source.revision.clone()).send();
        let answer = timeout(ANSWER, asked).await.map_err(|_| self.silent(ANSWER))?;
        let info = answer.map_err(|error| self.failed(error))?;
        let commit = info.sha.filter(|sha| !sha.is_empty() && sha.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let commit = commit.ok_or_else(|| Error::Refused {
            endpoint: self.client.endpoint().to_owned(),
            repository: self.source.repository(),
            reason: format!("it says no commit for `{}`", self.source.revision),
        })?;
        Ok((commit, info.siblings.into_iter().flatten().map(|file| file.rfilename).collect()))
    }

    /// The names of the files that make the model.
    async fn wanted(&self, commit: &str, present: &BTreeSet<String>) -> Result<Vec<String>, Error> {
        let missing = |file: &str| Error::Incomplete {
            repository: self.source.repository(),
            commit: commit.to_owned(),
            file: file.to_owned(),
        };
        let mut wanted: Vec<String> = OPTIONAL.into_iter().map(str::to_owned).collect();
        wanted.retain(|file| present.contains(file));
        wanted.push(CONFIG.to_owned());
        match present.contains(WEIGHTS) {
            false if present.contains(INDEX) => {
                wanted.extend(self.shards(&self.file(commit, INDEX).await?)?);
                wanted.push(INDEX.to_owned());
            }
            _ => wanted.push(WEIGHTS.to_owned()),
        }
        match wanted.iter().find(|file| !present.contains(*file)) {
            Some(file) => Err(missing(file)),
            None => Ok(wanted),
        }
    }

    /// The files that an index lists.
    fn shards(&self, index: &Path) -> Result<BTreeSet<String>, Error> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let damaged =
            |reason: String| Error::Damaged { repository: self.source.repository(), file: INDEX.to_owned(), reason };
        let text = std::fs::read(index).map_err(|error| damaged(error.to_string()))?;
        let index: Index = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        let shards: BTreeSet<String> = index.weight_map.into_values().collect();
        match shards.iter().find(|name| name.contains('/') || name.starts_with('.')) {
            Some(name) => Err(damaged(format!("`{name}` is not the name of a file beside it"))),
            None => Ok(shards),
        }
    }

    /// The file in the Hub's cache.
    async fn file(&self, commit: &str, name: &str) -> Result<PathBuf, Error> {
        let progress = Arc::new(Heard { bytes: AtomicU64::new(0), report: self.report.clone() });
        let repository = self.client.model(&self.source.org, &self.source.name);
        let download = repository.download_file().filename(name).revision(commit).progress(progress.clone()).send();
        self.unless_stalled(download, &progress.bytes).await
    }

    /// Gives up when no byte comes for a while, however long the whole takes.
    async fn unless_stalled<T>(&self, work: impl Future<Output = HFResult<T>>, bytes: &AtomicU64) -> Result<T, Error> {
        tokio::pin!(work);
        loop {
            let before = bytes.load(Ordering::Relaxed);
            match timeout(STALL, &mut work).await {
                Ok(outcome) => return outcome.map_err(|error| self.failed(error)),
                Err(_) if bytes.load(Ordering::Relaxed) == before => return Err(self.silent(STALL)),
                Err(_) => {}
            }
        }
    }

    fn failed(&self, error: hf_hub::HFError) -> Error {
        Error::of(error, self.client.endpoint(), &self.source.repository())
    }

    fn silent(&self, after: Duration) -> Error {
        Error::silent(after, self.client.endpoint(), &self.source.repository())
    }
}

/// How far a file is.
struct Heard {
    bytes: AtomicU64,
    report: Report,
}

impl Heard {
    fn at(&self, bytes: u64, total: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
        (self.report)(bytes, total);
    }
}

impl ProgressHandler for Heard {
    fn on_progress(&self, event: &ProgressEvent) {
        match event {
            ProgressEvent::Download(DownloadEvent::Progress { files }) => {
                files.iter().for_each(|file| self.at(file.bytes_completed, file.total_bytes));
            }
            ProgressEvent::Download(DownloadEvent::AggregateProgress { bytes_completed, total_bytes, .. }) => {
                self.at(*bytes_completed, *total_bytes);
            }
            _ => {}
        }
    }
}

/// Whoever made the same link first did the same.
fn link(to: &Path, at: &Path) -> Result<(), Error> {
    if !at.exists() {
        // One that leads nowhere, because the Hub's cache was cleared, is in the way.
        let _ = std::fs::remove_file(at);
        let made = std::os::unix::fs::symlink(to, at);
        if !at.exists() {
            made.map_err(|source| Error::Write { path: at.to_owned(), source })?;
        }
    }
    Ok(())
}
