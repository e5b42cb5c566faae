//! Lays a passed candidate down under its version's name and makes it visible.
//!
//! Level-triggered: whatever run is `publishing` is published, after a restart too. Copies are
//! idempotent and read back, the manifest is written last and only if absent, and the version becomes
//! visible by the record after it. A version number that anybody can see is therefore complete, and holds
//! what an evaluator loaded and verified. A candidate that is gone or damaged is trained again; what can
//! never be laid down fails its run, so that the pipeline goes on.

use std::sync::Arc;
use std::time::Duration;

use domain::Timestamp;
use domain::chunk::ObjectRef;
use domain::id::{PipelineId, Version};
use domain::manifest::{Candidate, SnapshotMeta};
use domain::planning::Refusal;
use domain::report::EvalReport;
use domain::run::{Ending, Run, RunEvent, RunState};
use domain::state::{Event, EventKind, State};
use domain::version::AdapterVersion;
use object_store::ObjectStore;
use perennial_proto::status::chain;
use serde_json::{Value, json};
use store::journal::Journal;
use store::{Kind, layout, objects};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::error::Error;

/// The file whose presence makes a version's folder whole.
pub const MANIFEST: &str = "perennial_manifest.json";

pub struct Publisher {
    journal: Arc<Journal>,
    store: Arc<dyn ObjectStore>,
}

/// A run that waits to be published.
#[derive(Clone)]
struct Pending {
    pipeline: PipelineId,
    run: Run,
    candidate: Candidate,
    report: EvalReport,
    version: Version,
}

impl Publisher {
    pub fn new(journal: Arc<Journal>, store: Arc<dyn ObjectStore>) -> Self {
        Self { journal, store }
    }

    /// Publishes whatever waits, at every change of the log and again after a failure.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut changed = self.journal.watch();
        loop {
            let mut failed = false;
            for pending in self.journal.read(pending) {
                failed |= !self.settle(pending).await;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                closed = changed.changed() => if closed.is_err() { return },
                () = tokio::time::sleep(Duration::from_secs(1)), if failed => {}
            }
        }
    }

    /// False if it has to be tried again.
    async fn settle(&self, pending: Pending) -> bool {
        let (pipeline, version) = (pending.pipeline.clone(), pending.version);
        let error = match self.publish(pending.clone()).await {
            Ok(()) => {
                info!(%pipeline, %version, "version published");
                return true;
            }
            Err(error) => error,
        };
        let reason = chain(&error);
        if !error.is_permanent() {
            warn!(%pipeline, %version, error = reason, "version not published yet");
            return false;
        }
        error!(%pipeline, %version, error = reason, "version cannot be published");
        let reason =
            format!("version {version} cannot be laid down ({reason}); mend the store, then release the chunks");
        let (run, attempt) = (pending.run.number, pending.run.attempts);
        let change = match error.is_damage() {
            true => RunEvent::AttemptEnded { attempt, reason, ending: Ending::Spoiled },
            false => RunEvent::PublishFailed { reason },
        };
        let kind = EventKind::Run { run, change: Box::new(change) };
        self.record(pending, move |_, _| kind).await.is_ok()
    }

    async fn publish(&self, pending: Pending) -> Result<(), Error> {
        let folder = layout::version(&pending.pipeline, pending.version);
        let target = |file: &ObjectRef| ObjectRef { path: format!("{folder}/{}", name(file)), ..file.clone() };
        let mut files: Vec<ObjectRef> = pending.candidate.files.iter().map(target).collect();
        files.push(self.lay_down(&pending, &folder, &files).await.map_err(Error::Store)?);
        let published = move |pending: &Pending, at| {
            let version = Box::new(version(pending, files, at));
            EventKind::VersionPublished { version }
        };
        self.record(pending, published).await
    }

    /// Copies the candidate's files, then writes the manifest if there is none; after a crash an equal one may be there.
    async fn lay_down(&self, pending: &Pending, folder: &str, files: &[ObjectRef]) -> Result<ObjectRef, store::Error> {
        let bytes = serde_json::to_vec_pretty(&manifest(pending, files)).expect("plain JSON");
        let path = format!("{folder}/{MANIFEST}");
        match objects::read(&*self.store, &path).await {
            // The folder is whole. If it is another version's, none of its files may be overwritten.
            Ok(_) => {}
            Err(error) if error.kind() == Kind::NotFound => {
                for (file, target) in pending.candidate.files.iter().zip(files) {
                    objects::copy(&*self.store, file, &target.path).await?;
                }
            }
            Err(error) => return Err(error),
        }
        let manifest = objects::create(&*self.store, &path, bytes.into()).await?;
        objects::check(&*self.store, &manifest).await?;
        Ok(manifest)
    }

    /// Records what became of it, unless that has been recorded before.
    async fn record(
        &self,
        pending: Pending,
        outcome: impl FnOnce(&Pending, Timestamp) -> EventKind + Send + 'static,
    ) -> Result<(), Error> {
        let decide = move |state: &State, at| {
            let known = state.pipelines.get(&pending.pipeline).and_then(|p| p.runs.get(&pending.run.number));
            if !matches!(known.map(|run| &run.state), Some(RunState::Publishing { .. })) {
                return Ok::<_, Refusal>((Vec::new(), ()));
            }
            let kind = outcome(&pending, at);
            Ok((vec![Event { pipeline: pending.pipeline, kind }], ()))
        };
        Ok(self.journal.commit(decide).await?)
    }
}

fn pending(state: &State) -> Vec<Pending> {
    let one = |(id, current): (&PipelineId, &domain::state::PipelineState)| {
        let run = current.active_run()?;
        let RunState::Publishing { candidate, report, version } = &run.state else { return None };
        Some(Pending {
            pipeline: id.clone(),
            run: run.clone(),
            candidate: candidate.clone(),
            report: report.clone(),
            version: *version,
        })
    };
    state.pipelines.iter().filter_map(one).collect()
}

/// The last segment of a path.
fn name(file: &ObjectRef) -> &str {
    file.path.rsplit('/').next().unwrap_or(&file.path)
}

fn version(pending: &Pending, files: Vec<ObjectRef>, at: Timestamp) -> AdapterVersion {
    let manifest = &pending.run.manifest;
    let snapshot = snapshot(pending, &files);
    AdapterVersion {
        number: pending.version,
        parent: manifest.parent.as_ref().map(|parent| parent.version),
        run: pending.run.number,
        update: manifest.update,
        chunks: pending.run.chunk_ids().cloned().collect(),
        labels: manifest.labels.clone(),
        snapshot,
        files,
        weights_sha256: pending.candidate.weights_sha256.clone(),
        report: pending.report.clone(),
        cost: pending.candidate.cost.clone(),
        published_at: at,
    }
}

/// The candidate's, where it lies once it is published: the candidate's own folder goes with the run.
fn snapshot(pending: &Pending, files: &[ObjectRef]) -> SnapshotMeta {
    let mut snapshot = pending.candidate.snapshot.clone();
    if let Some(published) = files.iter().find(|file| file.sha256 == snapshot.object.sha256) {
        snapshot.object = published.clone();
    }
    snapshot
}

/// Everything a reader needs to explain the version from ids alone. Holds no time, so that a
/// repeated attempt writes the same bytes.
fn manifest(pending: &Pending, files: &[ObjectRef]) -> Value {
    let run = &pending.run.manifest;
    let file = |f: &ObjectRef| json!({"name": name(f), "sha256": f.sha256, "bytes": f.bytes});
    let mut manifest = json!({
        "pipeline": pending.pipeline.to_string(),
        "version": pending.version,
        "parent": run.parent.as_ref().map(|parent| parent.version),
        "run": run.run,
        "update": run.update,
        "chunks": run.chunks,
        "snapshot": snapshot(pending, files),
        "parent_snapshot": run.snapshot.as_ref().map(|snapshot| &snapshot.object),
        "config": run.pipeline,
        "seed": run.pipeline.seed,
        "labels": run.labels,
        "preprocessing": pending.candidate.preprocessing,
        "eval_sets": run.eval_sets,
        "weights_sha256": pending.candidate.weights_sha256,
        "files": files.iter().map(file).collect::<Vec<_>>(),
        "report": pending.report,
        "cost": pending.candidate.cost,
    });
    if let Some(import) = &run.import {
        manifest["import"] = json!({"files": import.files.iter().map(file).collect::<Vec<_>>()});
    }
    manifest
}

#[cfg(test)]
mod tests;
