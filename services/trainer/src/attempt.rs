//! One attempt of a run on this worker: fetch, resume, run the ranks, upload.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domain::chunk::{ObjectRef, Shard};
use domain::id::PipelineId;
use domain::manifest::{Candidate, Manifest, SnapshotMeta};
use domain::pipeline::{Contamination, Model};
use object_store::ObjectStore;
use store::fetch::Fetcher;
use store::{layout, objects};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::gang::{self, Meeting, Ranks};
use crate::job::{Progress, TrainJob, Trained};

/// What an attempt needs of the machine it runs on.
pub struct Node {
    pub store: Arc<dyn ObjectStore>,
    pub fetcher: Fetcher,
    /// The binary that is started as a rank.
    pub program: PathBuf,
    /// `cpu` or `cuda`.
    pub device: String,
}

/// This worker's part of an attempt.
pub struct Part {
    pub manifest: Manifest,
    pub attempt: u32,
    pub ranks: Ranks,
    pub meeting: Meeting,
    /// Longest silence of a rank.
    pub stall: Duration,
    /// An empty folder that goes when the attempt ends.
    pub scratch: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Gang(#[from] gang::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("cannot write `{path}`")]
    Scratch { path: PathBuf, source: std::io::Error },
    #[error("the ranks left no snapshot")]
    NoSnapshot,
}

impl Error {
    /// Whether another attempt would fail in the same way.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Gang(gang::Error::Rank { permanent, .. }) => *permanent,
            Self::Store(error) => error.kind() != store::Kind::Unavailable,
            _ => false,
        }
    }

    /// Whether the store could not be reached, which says nothing about the run.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Store(error) if error.kind() == store::Kind::Unavailable)
    }
}

/// An attempt that ended without a candidate.
#[derive(Debug)]
pub struct Ended {
    pub error: Error,
    /// A checkpoint newer than the attempt's start is in the store.
    pub progressed: bool,
}

/// The name of the file that makes a checkpoint whole. Written, and uploaded, last.
const WHOLE: &str = "MANIFEST.json";

/// Checkpoints tried, newest first, before the run starts over.
const KEPT: usize = 3;

/// Runs the part to its end. The candidate is rank 0's worker's; the others return none.
///
/// `progress` also hears whether a checkpoint of this attempt is in the store.
pub async fn run(
    node: &Node,
    part: &Part,
    progress: &mut (dyn FnMut(Progress, bool) + Send),
) -> Result<Option<Candidate>, Ended> {
    let early = |error| Ended { error, progressed: false };
    let job = prepare(node, part).await.map_err(early)?;
    let path = part.scratch.join("job.json");
    let text = serde_json::to_vec(&job).expect("a job is plain JSON");
    tokio::fs::write(&path, text).await.map_err(|source| early(Error::Scratch { path: path.clone(), source }))?;

    let mut uploads = Uploads::new(node.store.clone(), &part.manifest, &job.checkpoints);
    let meeting = (part.ranks.world > 1).then_some(&part.meeting);
    let mut observe = |at: Progress| {
        uploads.start_newest();
        progress(at, uploads.progressed());
    };
    let trained = gang::run(&node.program, &path, &part.ranks, meeting, part.stall, &mut observe).await;
    let progressed = uploads.finish().await;
    let trained = trained.map_err(|error| Ended { error: error.into(), progressed })?;
    if part.ranks.first > 0 {
        return Ok(None);
    }
    let candidate = upload(node, part, &job.out, trained).await;
    candidate.map(Some).map_err(|error| Ended { error, progressed })
}

async fn prepare(node: &Node, part: &Part) -> Result<TrainJob, Error> {
    let manifest = &part.manifest;
    let base_model = match &manifest.pipeline.model {
        Model::Folder(folder) => Some(node.fetcher.model(folder).await?),
        Model::Scratch(_) => None,
    };
    let parent = manifest.parent.as_ref().map(|parent| &parent.files);
    let import = manifest.import.as_ref().map(|import| &import.files);
    let snapshot = match &manifest.snapshot {
        Some(snapshot) => Some(node.fetcher.file(&snapshot.object).await?),
        None => None,
    };
    Ok(TrainJob {
        manifest: manifest.clone(),
        base_model,
        parent: lay_out(node, parent, part.scratch.join("parent")).await?,
        import: lay_out(node, import, part.scratch.join("import")).await?,
        snapshot,
        shards: node.fetcher.shards(shards(manifest)).await?,
        out: part.scratch.join("out"),
        checkpoints: part.scratch.join("checkpoints"),
        resume: resume(node, part).await?,
        device: node.device.clone(),
        probe: None,
    })
}

async fn lay_out(node: &Node, files: Option<&Vec<ObjectRef>>, folder: PathBuf) -> Result<Option<PathBuf>, Error> {
    let Some(files) = files else { return Ok(None) };
    node.fetcher.lay_out(files, &folder).await?;
    Ok(Some(folder))
}

/// Of the run's own chunks, of those its rehearsal buffer refers to, and of the items that rows are compared with.
fn shards(manifest: &Manifest) -> Vec<Shard> {
    let compared = manifest.pipeline.evaluation.contamination != Contamination::Off;
    let sets = manifest.eval_sets.iter().filter(|_| compared).flat_map(|set| &set.parts);
    manifest.shards().chain(sets.flat_map(|part| &part.shards).cloned()).collect()
}

/// The newest checkpoint that any attempt of the run uploaded and that loads.
async fn resume(node: &Node, part: &Part) -> Result<Option<PathBuf>, Error> {
    let folder = layout::checkpoints(&part.manifest.pipeline.id(), part.manifest.run);
    let paths = objects::list(&*node.store, &folder).await?;
    let whole: BTreeSet<&str> = paths.iter().filter_map(|path| path.strip_suffix(WHOLE)).collect();
    let target = part.scratch.join("resume");
    for newest in whole.into_iter().rev().take(KEPT) {
        let step = newest.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let local = target.join(step);
        for path in paths.iter().filter(|path| path.starts_with(newest)) {
            let bytes = objects::read(&*node.store, path).await?;
            write(&local, &path[newest.len()..], &bytes).await?;
        }
        let found = learn::checkpoint::newest(&target, &part.manifest);
        info!(checkpoint = newest, usable = found.is_some(), "attempt resumes");
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

async fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let file = folder.join(name);
    let written = async {
        tokio::fs::create_dir_all(folder).await?;
        tokio::fs::write(&file, bytes).await
    };
    written.await.map_err(|source| Error::Scratch { path: file.clone(), source })
}

/// Takes checkpoints to the store, one at a time, the newest first.
struct Uploads {
    store: Arc<dyn ObjectStore>,
    pipeline: PipelineId,
    run: u64,
    folder: PathBuf,
    newest: u64,
    running: Option<JoinHandle<()>>,
    done: Arc<AtomicBool>,
}

impl Uploads {
    fn new(store: Arc<dyn ObjectStore>, manifest: &Manifest, folder: &Path) -> Self {
        Self {
            store,
            pipeline: manifest.pipeline.id(),
            run: manifest.run,
            folder: folder.to_owned(),
            newest: 0,
            running: None,
            done: Arc::default(),
        }
    }

    /// Whether any checkpoint reached the store.
    fn progressed(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    /// Starts on a checkpoint that has become whole, unless the last is still under way.
    fn start_newest(&mut self) {
        if self.running.as_ref().is_some_and(|upload| !upload.is_finished()) {
            return;
        }
        let Some(step) = newest(&self.folder).filter(|step| *step > self.newest) else { return };
        self.newest = step;
        let (store, local) = (self.store.clone(), self.folder.join(step.to_string()));
        let remote = layout::checkpoint(&self.pipeline, self.run, step);
        let done = self.done.clone();
        self.running = Some(tokio::spawn(async move {
            match upload_whole(&*store, &local, &remote).await {
                Ok(whole) => drop(done.fetch_or(whole, Ordering::Relaxed)),
                Err(error) => warn!(checkpoint = remote, %error, "checkpoint not uploaded"),
            }
        }));
    }

    /// Waits for the upload under way; whether any checkpoint reached the store.
    async fn finish(mut self) -> bool {
        if let Some(upload) = self.running.take() {
            // One that panicked is one that failed.
            let _ = upload.await;
        }
        self.progressed()
    }
}

impl Drop for Uploads {
    /// A later attempt must not find checkpoints that came after it looked for the newest.
    fn drop(&mut self) {
        if let Some(upload) = &self.running {
            upload.abort();
        }
    }
}

fn newest(folder: &Path) -> Option<u64> {
    let entries = std::fs::read_dir(folder).ok()?;
    let whole = entries.flatten().filter(|entry| entry.path().join(WHOLE).is_file());
    whole.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).max()
}

/// False if the checkpoint was replaced by newer ones before it could be read.
async fn upload_whole(store: &dyn ObjectStore, local: &Path, remote: &str) -> Result<bool, store::Error> {
    let mut names: Vec<String> = std::fs::read_dir(local)
        .map(|entries| entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
        .unwrap_or_default();
    names.sort_by_key(|name| name == WHOLE);
    for name in &names {
        objects::put_file(store, &format!("{remote}/{name}"), &local.join(name)).await?;
    }
    Ok(names.last().is_some_and(|name| name == WHOLE))
}

async fn upload(node: &Node, part: &Part, out: &Path, trained: Trained) -> Result<Candidate, Error> {
    let folder = layout::candidate(&part.manifest.pipeline.id(), part.manifest.run, part.attempt);
    let files = objects::upload_dir(&*node.store, out, &folder).await?;
    let object = files.iter().find(|file| file.path.ends_with("/snapshot.json"));
    let object = object.ok_or(Error::NoSnapshot)?.clone();
    let (chunks, items, seen) = (trained.chunks, trained.items, trained.seen);
    Ok(Candidate {
        files,
        weights_sha256: trained.weights_sha256,
        finite: trained.finite,
        preprocessing: Some(trained.preprocessing),
        golden: trained.golden,
        snapshot: SnapshotMeta { object, chunks, items, seen },
        cost: trained.cost,
    })
}
