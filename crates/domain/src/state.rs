//! Every table of the control plane in memory, and the fold that fills it: `state = fold(apply, events)`.
//!
//! Whether an event may happen is decided in [`crate::planning`] or by the services, before it is
//! recorded. `apply` refuses only what would leave the tables inconsistent.

mod chunks;
mod shifts;
mod versions;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::chunk::{Chunk, ChunkState};
use crate::erasure::Erasure;
use crate::evalset::EvalSet;
use crate::id::{ChunkId, PipelineId, ProducerName, RunNumber, TaskName, Version};
use crate::labelled::Labelled;
use crate::manifest::Manifest;
use crate::pipeline::{GateMode, Pipeline};
use crate::producer::Producer;
use crate::run::{IllegalTransition, Run, RunEvent, RunState};
use crate::shift::Measured;
use crate::version::{AdapterVersion, Alias, Disposition, lineage};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub pipelines: BTreeMap<PipelineId, PipelineState>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PipelineState {
    pub pipeline: Pipeline,
    /// Counts applied specs, from 1.
    pub revision: u64,
    /// Append only; the head's rows.
    pub labels: Vec<String>,
    pub chunks: BTreeMap<ChunkId, Chunk>,
    /// Chunks in the order they were recorded.
    pub arrivals: Vec<ChunkId>,
    /// In order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub erasures: Vec<Erasure>,
    /// Those that number their pushes.
    #[serde(default)]
    pub producers: BTreeMap<ProducerName, Producer>,
    /// In the order they opened.
    pub tasks: Vec<Task>,
    pub runs: BTreeMap<RunNumber, Run>,
    pub versions: BTreeMap<Version, AdapterVersion>,
    pub aliases: BTreeMap<Alias, Version>,
    /// The version the next run continues from.
    pub tip: Option<Version>,
    /// Versions that keep their files whatever the retention says, and why.
    #[serde(default)]
    pub holds: BTreeMap<Version, String>,
    /// Versions whose files are not to be had any more, and since when. What is known of them, and their place in the
    /// lineage, stay.
    #[serde(default)]
    pub retired: BTreeMap<Version, Timestamp>,
    /// Of those, whose files may still lie in the store.
    #[serde(default)]
    pub leaving: BTreeSet<Version>,
    /// How chunks compared, by their places in `arrivals`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shifts: BTreeMap<u64, Measured>,
}

/// A named slice of the data, and every EvalSet it has had.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub name: TaskName,
    pub sets: Vec<EvalSet>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub pipeline: PipelineId,
    #[serde(flatten)]
    pub kind: EventKind,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventKind {
    PipelineApplied {
        pipeline_spec: Box<Pipeline>,
    },
    ChunkReceived {
        chunk: Box<Chunk>,
    },
    /// `new_labels` are appended where they are not known yet.
    ChunkSealed {
        chunk: ChunkId,
        new_labels: Vec<String>,
    },
    /// It waits for labels, until then at most.
    ChunkLabelling {
        chunk: ChunkId,
        new_labels: Vec<String>,
        until: Timestamp,
    },
    LabelsPushed {
        labelled: Box<Labelled>,
    },
    ChunkQuarantined {
        chunk: ChunkId,
        reason: String,
    },
    ChunkReleased {
        chunk: ChunkId,
    },
    /// Its rows were compared with what its pipeline knew.
    ChunkMeasured {
        /// Of the chunk in `arrivals`.
        place: u64,
        measured: Box<Measured>,
    },
    /// It stays in quarantine for good.
    ChunkDropped {
        chunk: ChunkId,
    },
    /// Pushes under an older epoch are shut out from here on.
    ProducerOpened {
        producer: ProducerName,
        epoch: u64,
    },
    /// Rows are gone: nothing that begins from here on may read them.
    RowsErased {
        erasure: Box<Erasure>,
    },
    /// And no object holds them any more.
    ErasureFinished {
        erasure: u64,
    },
    /// Its next push was this chunk.
    ProducerAdvanced {
        producer: ProducerName,
        chunk: ChunkId,
    },
    RunQueued {
        manifest: Box<Manifest>,
        /// EvalSets that open if the run is published.
        opened: Vec<EvalSet>,
    },
    Run {
        run: RunNumber,
        change: Box<RunEvent>,
    },
    /// The run's last change: the version becomes visible.
    VersionPublished {
        version: Box<AdapterVersion>,
    },
    AliasSet {
        alias: Alias,
        version: Version,
    },
    /// A person's promotion or rollback: the version and its snapshot become the next run's parent.
    ChampionMoved {
        to: Version,
        chunks: Disposition,
    },
    VersionHeld {
        version: Version,
        reason: String,
    },
    VersionReleased {
        version: Version,
    },
    /// Nobody is given their files from here on.
    VersionsRetired {
        versions: Vec<Version>,
    },
    /// Of retired versions: nothing of them is left in the store.
    FilesRemoved {
        versions: Vec<Version>,
    },
}

#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Inapplicable {
    #[error("pipeline `{0}` is not registered")]
    UnknownPipeline(PipelineId),
    #[error("chunk {0} is not known")]
    UnknownChunk(ChunkId),
    #[error("run {0} is not known")]
    UnknownRun(RunNumber),
    #[error("version {0} is not known")]
    UnknownVersion(Version),
    #[error("producer `{0}` is not known")]
    UnknownProducer(ProducerName),
    #[error("erasure {0} is not known")]
    UnknownErasure(u64),
    #[error("version {0} exists")]
    VersionTaken(Version),
    #[error(transparent)]
    Run(#[from] IllegalTransition),
}

impl State {
    /// The only way the state changes. On error nothing has changed.
    pub fn apply(&mut self, event: &Event, at: Timestamp) -> Result<(), Inapplicable> {
        if let EventKind::PipelineApplied { pipeline_spec } = &event.kind {
            self.apply_spec(&event.pipeline, pipeline_spec);
            return Ok(());
        }
        let unknown = || Inapplicable::UnknownPipeline(event.pipeline.clone());
        let pipeline = self.pipelines.get_mut(&event.pipeline).ok_or_else(unknown)?;
        pipeline.apply(&event.kind, at)
    }

    fn apply_spec(&mut self, id: &PipelineId, spec: &Pipeline) {
        let entry = self.pipelines.entry(id.clone());
        let pipeline = entry.or_insert_with(|| PipelineState::new(spec.clone()));
        pipeline.revision += 1;
        pipeline.pipeline = spec.clone();
        pipeline.append_labels(&spec.labels);
    }
}

impl PipelineState {
    pub fn new(pipeline: Pipeline) -> Self {
        Self {
            labels: pipeline.labels.clone(),
            pipeline,
            revision: 0,
            chunks: BTreeMap::new(),
            arrivals: Vec::new(),
            erasures: Vec::new(),
            producers: BTreeMap::new(),
            tasks: Vec::new(),
            runs: BTreeMap::new(),
            versions: BTreeMap::new(),
            aliases: BTreeMap::new(),
            tip: None,
            holds: BTreeMap::new(),
            retired: BTreeMap::new(),
            leaving: BTreeSet::new(),
            shifts: BTreeMap::new(),
        }
    }

    pub fn champion(&self) -> Option<Version> {
        self.aliases.get(&Alias::Champion).copied()
    }

    /// The run that has not ended, if there is one. A pipeline has one at most.
    pub fn active_run(&self) -> Option<&Run> {
        self.runs.values().rev().find(|run| !run.state.is_terminal())
    }

    /// Chunks in order of arrival.
    pub fn chunks_in_order(&self) -> impl Iterator<Item = &Chunk> {
        self.arrivals.iter().filter_map(|id| self.chunks.get(id))
    }

    /// The number the next published version will have.
    pub fn next_version(&self) -> Version {
        Version(self.versions.keys().next_back().map_or(1, |last| last.0 + 1))
    }

    fn apply(&mut self, event: &EventKind, at: Timestamp) -> Result<(), Inapplicable> {
        match event {
            EventKind::PipelineApplied { .. } => {}
            EventKind::ChunkReceived { chunk } => self.receive(chunk),
            EventKind::ChunkSealed { chunk, new_labels } => {
                self.chunk(chunk)?.state = ChunkState::Sealed;
                self.append_labels(new_labels);
            }
            EventKind::ChunkLabelling { chunk, new_labels, until } => {
                self.chunk(chunk)?.state = ChunkState::Labelling { until: *until };
                self.append_labels(new_labels);
            }
            EventKind::LabelsPushed { labelled } => self.label(labelled, at)?,
            EventKind::RowsErased { erasure } => self.erase(erasure, at)?,
            EventKind::ErasureFinished { erasure } => self.finish_erasure(*erasure, at)?,
            EventKind::ChunkQuarantined { chunk, reason } => {
                let reason = reason.clone();
                self.chunk(chunk)?.state = ChunkState::Quarantined { reason };
            }
            EventKind::ChunkReleased { chunk } => self.release(chunk)?,
            EventKind::ChunkMeasured { place, measured } => self.measured(*place, measured),
            EventKind::ChunkDropped { chunk } => self.drop_chunk(chunk)?,
            EventKind::ProducerOpened { producer, epoch } => {
                self.producers.entry(producer.clone()).or_default().epoch = *epoch;
            }
            EventKind::ProducerAdvanced { producer, chunk } => {
                let known = self.producers.get_mut(producer);
                known.ok_or_else(|| Inapplicable::UnknownProducer(producer.clone()))?.advance(chunk.clone());
            }
            EventKind::RunQueued { manifest, opened } => self.queue(manifest, opened, at)?,
            EventKind::Run { run, change } => self.change_run(*run, change, at)?,
            EventKind::VersionPublished { version } => self.publish(version, at)?,
            EventKind::AliasSet { alias, version } => self.set_alias(*alias, *version)?,
            EventKind::ChampionMoved { to, chunks } => self.move_champion(*to, *chunks)?,
            EventKind::VersionHeld { version, reason } => drop(self.holds.insert(*version, reason.clone())),
            EventKind::VersionReleased { version } => drop(self.holds.remove(version)),
            EventKind::VersionsRetired { versions } => self.retire(versions, at),
            EventKind::FilesRemoved { versions } => self.forget_files(versions),
        }
        Ok(())
    }

    fn queue(&mut self, manifest: &Manifest, opened: &[EvalSet], at: Timestamp) -> Result<(), Inapplicable> {
        let ids: Vec<ChunkId> = manifest.chunks.iter().map(|chunk| chunk.id.clone()).collect();
        self.set_chunks(&ids, &ChunkState::InRun { run: manifest.run })?;
        self.runs.insert(manifest.run, Run::queued(manifest.clone(), opened.to_vec(), at));
        Ok(())
    }

    fn open(&mut self, set: &EvalSet) {
        match self.tasks.iter_mut().find(|task| task.name == set.task) {
            Some(task) => task.sets.push(set.clone()),
            None => self.tasks.push(Task { name: set.task.clone(), sets: vec![set.clone()] }),
        }
    }

    fn change_run(&mut self, number: RunNumber, change: &RunEvent, at: Timestamp) -> Result<(), Inapplicable> {
        let run = self.runs.get_mut(&number).ok_or(Inapplicable::UnknownRun(number))?;
        run.apply(change.clone(), at)?;
        let reason = match &run.state {
            RunState::Rejected { report } => report.verdict.reasons().join("; "),
            RunState::Failed { reason } => format!("run {number} failed: {reason}"),
            RunState::Cancelled => format!("run {number} was cancelled"),
            _ => return Ok(()),
        };
        // What only measures did not spoil the candidate; but it may be what an attempt failed on.
        let measures_on = !matches!(run.state, RunState::Failed { .. });
        let mut ids: Vec<ChunkId> = run.chunk_ids().cloned().collect();
        // Those that a version in use has absorbed stay its own, whatever became of training them again.
        for (id, version) in self.in_use() {
            if let Some(at) = ids.iter().position(|known| *known == id) {
                self.chunk(&ids.swap_remove(at))?.state = ChunkState::Absorbed { version };
            }
        }
        let (held_out, others): (Vec<_>, Vec<_>) =
            ids.into_iter().partition(|id| measures_on && self.only_measures(id));
        self.set_chunks(&held_out, &ChunkState::Sealed)?;
        self.set_chunks(&others, &ChunkState::Refused { reason })
    }

    /// Chunks that the versions in use have absorbed, and which did.
    fn in_use(&self) -> Vec<(ChunkId, Version)> {
        let line = lineage(&self.versions, self.tip);
        line.into_iter().flat_map(|v| self.versions[&v].chunks.iter().map(move |id| (id.clone(), v))).collect()
    }

    fn only_measures(&self, id: &ChunkId) -> bool {
        self.chunks.get(id).is_some_and(|chunk| chunk.train.is_empty())
    }

    fn publish(&mut self, version: &AdapterVersion, at: Timestamp) -> Result<(), Inapplicable> {
        if self.versions.contains_key(&version.number) {
            return Err(Inapplicable::VersionTaken(version.number));
        }
        self.change_run(version.run, &RunEvent::Published, at)?;
        let state = ChunkState::Absorbed { version: version.number };
        self.set_chunks(&version.chunks, &state)?;
        self.note_labels(version.run);
        for set in self.runs[&version.run].opened.clone() {
            self.open(&set);
        }
        self.versions.insert(version.number, version.clone());
        self.tip = Some(version.number);
        let run = &self.runs[&version.run];
        match run.manifest.pipeline.gate.mode {
            GateMode::Enforce => self.crown(version.number),
            GateMode::Report => {
                self.aliases.insert(Alias::Challenger, version.number);
            }
        }
        Ok(())
    }
}
