//! What may start, and with which inputs: pure functions from the state to events.

mod alias;
mod measure;
mod release;
mod retention;
mod without;

use crate::chunk::{Chunk, ChunkState};
use crate::evalset::{ARCHIVE, EvalSet, Part};
use crate::id::{ChunkId, PipelineId, RunNumber, Version};
use crate::manifest::{ChunkData, Import, Manifest, Parent, SnapshotData};
use crate::pipeline::{Adapter, Heads, Pipeline, Trigger};
use crate::run::{RunEvent, RunState};
use crate::state::{Event, EventKind, PipelineState, State, Task};

pub use alias::{Expected, rollback, set_alias};
pub use measure::{generation, manifest_to_measure, measured, next_to_measure};
pub use release::{drop_chunks, release};
pub use retention::{available, end_hold, expired, hold, retire};
pub use without::start_without;

#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Refusal {
    #[error("pipeline `{0}` is not registered; `perennial pipeline apply -f FILE` registers it")]
    UnknownPipeline(PipelineId),
    #[error("run {0} is not known")]
    UnknownRun(RunNumber),
    #[error("version {0} is not known")]
    UnknownVersion(Version),
    #[error(
        "version {0} is retired: `retention.versions` did not keep its files; use one that is not, and hold what has to stay"
    )]
    Retired(Version),
    #[error("chunk {0} is not known")]
    UnknownChunk(ChunkId),
    #[error("run {0} has not ended; a pipeline trains one run at a time")]
    Busy(RunNumber),
    #[error(
        "nothing to train: no sealed chunk has training rows ({unchecked} wait until their rows are checked; {refused} refused: name them with `--chunks` or release them)"
    )]
    NothingToTrain { refused: usize, unchecked: usize },
    #[error("chunk {chunk} is {state}, only sealed and refused chunks can be trained")]
    NotTrainable { chunk: ChunkId, state: &'static str },
    #[error("chunk {chunk} is {state}, only refused and quarantined chunks can be released")]
    NotReleasable { chunk: ChunkId, state: &'static str },
    #[error(
        "chunk {chunk} is {state}; only chunks that wait in quarantine, for better data or for their release, can be dropped"
    )]
    NotDroppable { chunk: ChunkId, state: &'static str },
    #[error("chunk {0} was dropped; push its good rows as a file of their own")]
    Dropped(ChunkId),
    #[error("chunk {0} is quarantined because its rows could not be sealed; mend the data and push it again")]
    Unsealed(ChunkId),
    #[error("no label is known yet")]
    NoLabels,
    #[error(
        "`{pipeline}` has version {newest}: only a pipeline's first version can be imported; apply the file under a new name"
    )]
    HasVersions { pipeline: PipelineId, newest: Version },
    #[error("`adapter` is full: only adapters are imported; apply a pipeline with `adapter: lora` under a new name")]
    NotLora,
    #[error("run {run} is {state} and cannot be cancelled any more")]
    TooLate { run: RunNumber, state: &'static str },
    #[error("`labels` must begin with the {known} names already in use ({first}…); names are append-only")]
    LabelsChanged { known: usize, first: String },
    #[error("`{field}` cannot change once {since}; apply it under a new pipeline name")]
    Frozen { field: &'static str, since: &'static str },
    #[error("alias `{alias}` is at {found}, not at {expected}; another writer moved it")]
    AliasMoved { alias: &'static str, expected: String, found: String },
    #[error("the champion continues from no version to roll back to; name one with `--to`")]
    NoPrevious,
    #[error("nothing of that subject was erased; `perennial buffer erase --subject` comes first")]
    NotErased,
    #[error("no version that is in use has learnt from what was erased of that subject")]
    NothingLearnt,
    #[error(transparent)]
    Producer(#[from] crate::producer::Refusal),
}

pub fn pipeline<'a>(state: &'a State, id: &PipelineId) -> Result<&'a PipelineState, Refusal> {
    state.pipelines.get(id).ok_or_else(|| Refusal::UnknownPipeline(id.clone()))
}

fn event(id: &PipelineId, kind: EventKind) -> Event {
    Event { pipeline: id.clone(), kind }
}

/// Registers a pipeline, or replaces its spec where nothing published depends on the old one.
pub fn apply_spec(state: &State, spec: &Pipeline) -> Result<Vec<Event>, Refusal> {
    let id = spec.id();
    if let Some(current) = state.pipelines.get(&id) {
        let shared = current.labels.len().min(spec.labels.len());
        if current.labels[..shared] != spec.labels[..shared] {
            let first = current.labels[0].clone();
            return Err(Refusal::LabelsChanged { known: current.labels.len(), first });
        }
        frozen(current, spec)?;
        if current.pipeline == *spec {
            return Ok(Vec::new());
        }
    }
    let pipeline_spec = Box::new(spec.clone());
    Ok(vec![event(&id, EventKind::PipelineApplied { pipeline_spec })])
}

/// What published versions and sealed chunks depend on: the shape of what trains, and which rows are held out.
fn frozen(current: &PipelineState, spec: &Pipeline) -> Result<(), Refusal> {
    let old = &current.pipeline;
    let fractions = [old, spec].map(|pipeline| pipeline.evaluation.held_out_fraction);
    // A run that is under way may publish what it was queued with.
    let version = !current.versions.is_empty() || current.active_run().is_some();
    let chunk = !current.chunks.is_empty();
    let since = "a version exists or is being made";
    let changed = [
        ("model", version && old.model != spec.model, since),
        ("adapter", version && old.adapter != spec.adapter, since),
        ("input", version && old.input != spec.input, since),
        ("seed", chunk && old.seed != spec.seed, "a chunk exists"),
        ("evaluation.held_out_fraction", chunk && fractions[0] != fractions[1], "a chunk exists"),
    ];
    let first = changed.into_iter().find(|(_, changed, _)| *changed);
    first.map_or(Ok(()), |(field, _, since)| Err(Refusal::Frozen { field, since }))
}

/// Queues a run over `chunks`, or over every sealed chunk if none are named. Some of it must train; chunks that are held
/// out entirely come along, so that what becomes of the run becomes of them.
pub fn start_run(state: &State, id: &PipelineId, chunks: &[ChunkId]) -> Result<(RunNumber, Vec<Event>), Refusal> {
    let current = pipeline(state, id)?;
    if let Some(run) = current.active_run() {
        return Err(Refusal::Busy(run.number));
    }
    if current.labels.is_empty() {
        return Err(Refusal::NoLabels);
    }
    let chosen = if chunks.is_empty() { waiting(current)? } else { named(current, chunks)? };
    let run = next_run(current);
    let opened = eval_sets_to_open(current, &chosen);
    let manifest = Box::new(manifest(current, run, current.tip, &chosen, &opened));
    Ok((run, vec![event(id, EventKind::RunQueued { manifest, opened })]))
}

fn next_run(current: &PipelineState) -> RunNumber {
    current.last_run() + 1
}

/// The pipeline, if an adapter may become its first version.
pub fn importable<'a>(state: &'a State, id: &PipelineId) -> Result<&'a PipelineState, Refusal> {
    let current = pipeline(state, id)?;
    if let Some(&newest) = current.versions.keys().next_back() {
        return Err(Refusal::HasVersions { pipeline: id.clone(), newest });
    }
    if let Some(run) = current.active_run() {
        return Err(Refusal::Busy(run.number));
    }
    if current.pipeline.adapter == Adapter::Full {
        return Err(Refusal::NotLora);
    }
    if current.labels.is_empty() {
        return Err(Refusal::NoLabels);
    }
    Ok(current)
}

/// Queues the run that publishes an adapter which was trained elsewhere. It takes no chunk along, and is judged by what
/// is held out so far.
pub fn start_import(state: &State, id: &PipelineId, import: Import) -> Result<(RunNumber, Vec<Event>), Refusal> {
    let current = importable(state, id)?;
    let run = next_run(current);
    let opened = eval_sets_to_open(current, &[]);
    let manifest = Box::new(Manifest { import: Some(import), ..manifest(current, run, current.tip, &[], &opened) });
    Ok((run, vec![event(id, EventKind::RunQueued { manifest, opened })]))
}

fn waiting(current: &PipelineState) -> Result<Vec<&Chunk>, Refusal> {
    let sealed = |chunk: &&Chunk| chunk.state == ChunkState::Sealed;
    let chosen: Vec<&Chunk> = current.chunks_in_order().filter(sealed).collect();
    if !trains(&chosen) {
        let refused = |chunk: &&Chunk| matches!(chunk.state, ChunkState::Refused { .. });
        let refused = current.chunks.values().filter(refused).count();
        let unchecked = current.chunks.values().filter(|chunk| chunk.state == ChunkState::Received).count();
        return Err(Refusal::NothingToTrain { refused, unchecked });
    }
    Ok(chosen)
}

fn trains(chunks: &[&Chunk]) -> bool {
    chunks.iter().any(|chunk| chunk.train_rows() > 0)
}

fn named<'a>(current: &'a PipelineState, ids: &[ChunkId]) -> Result<Vec<&'a Chunk>, Refusal> {
    let one = |id: &ChunkId| {
        let chunk = current.chunks.get(id).ok_or_else(|| Refusal::UnknownChunk(id.clone()))?;
        match chunk.state {
            ChunkState::Sealed | ChunkState::Refused { .. } => Ok(chunk),
            _ => Err(Refusal::NotTrainable { chunk: id.clone(), state: chunk.state.name() }),
        }
    };
    let mut seen = std::collections::HashSet::new();
    let chosen: Vec<&Chunk> = ids.iter().filter(|id| seen.insert(*id)).map(one).collect::<Result<_, _>>()?;
    match chosen.first() {
        Some(first) if !trains(&chosen) => {
            Err(Refusal::NotTrainable { chunk: first.id.clone(), state: "held out entirely" })
        }
        _ => Ok(chosen),
    }
}

fn manifest(
    current: &PipelineState,
    run: RunNumber,
    parent: Option<Version>,
    chunks: &[&Chunk],
    opened: &[EvalSet],
) -> Manifest {
    let parent = parent.map(|parent| &current.versions[&parent]);
    let mut late = current.late_rows();
    // Of what trains again every row is there.
    late.retain(|late| chunks.iter().all(|chunk| chunk.id != late.data.id));
    let snapshot = parent.map(|version| SnapshotData {
        object: version.snapshot.object.clone(),
        chunks: version.snapshot.chunks.iter().map(|id| ChunkData::of(&current.chunks[id])).collect(),
    });
    Manifest {
        run,
        update: parent.map_or(0, |version| version.update + 1),
        pipeline: current.pipeline.clone(),
        labels: current.labels.clone(),
        parent: parent.map(|version| Parent { version: version.number, files: version.files.clone() }),
        chunks: chunks.iter().map(|chunk| ChunkData::of(chunk)).collect(),
        late,
        snapshot,
        eval_sets: eval_sets_in_force(current, opened),
        import: None,
    }
}

/// A new EvalSet for every task whose held-out rows are not all in the one in force, up to the task's limit.
/// Rows of refused chunks count only where the run is about to train them: their labels may be what was wrong.
pub fn eval_sets_to_open(current: &PipelineState, chosen: &[&Chunk]) -> Vec<EvalSet> {
    let limit = current.pipeline.evaluation.eval_items_per_task.get();
    let mut sets: Vec<EvalSet> = Vec::new();
    let named = |chunk: &Chunk| chosen.iter().any(|chosen| chosen.id == chunk.id);
    for chunk in current.chunks_in_order().filter(|chunk| usable(chunk) || named(chunk)) {
        if chunk.held_out_rows() == 0 {
            continue;
        }
        let known = current.tasks.iter().find(|task| task.name == chunk.task);
        let now = known.and_then(|task| in_force(current, task));
        let same = |part: &Part| part.chunk == chunk.id && part.shards == chunk.held_out;
        if now.is_some_and(|set| set.parts.iter().any(same)) {
            continue;
        }
        let position = sets.iter().position(|set| set.task == chunk.task).unwrap_or_else(|| {
            let newest = known.and_then(|task| task.sets.last());
            sets.push(EvalSet {
                task: chunk.task.clone(),
                number: newest.map_or(1, |set| set.number + 1),
                parts: now.map_or_else(Vec::new, |set| set.parts.clone()),
            });
            sets.len() - 1
        });
        let set = &mut sets[position];
        // Its labels may have changed since.
        set.parts.retain(|part| part.chunk != chunk.id);
        let rows = chunk.held_out_rows().min(limit.saturating_sub(set.items()));
        if rows > 0 {
            let (chunk, shards) = (chunk.id.clone(), chunk.held_out.clone());
            set.parts.push(Part { chunk, rows, shards });
        }
    }
    let grown = |set: &EvalSet| {
        let known = current.tasks.iter().find(|task| task.name == set.task);
        known.and_then(|task| in_force(current, task)).is_none_or(|now| now.digest() != set.digest())
    };
    sets.retain(grown);
    sets
}

/// The task's newest set that holds no row of a chunk that was withdrawn since: after a rollback its held-out rows must not
/// go on judging.
fn in_force<'a>(current: &PipelineState, task: &'a Task) -> Option<&'a EvalSet> {
    let stands = |set: &&EvalSet| set.parts.iter().all(|part| usable(&current.chunks[&part.chunk]));
    task.sets.iter().rev().find(stands)
}

fn usable(chunk: &Chunk) -> bool {
    use ChunkState::{Labelling, Quarantined, Received, Refused};
    !matches!(chunk.state, Received | Labelling { .. } | Quarantined { .. } | Refused { .. })
}

/// The set in force of each task; beyond `max_tasks` the oldest merge into one stratified `archive`.
pub fn eval_sets_in_force(current: &PipelineState, opened: &[EvalSet]) -> Vec<EvalSet> {
    let opened_for = |task: &Task| opened.iter().find(|set| set.task == task.name);
    let of_task = |task| opened_for(task).or_else(|| in_force(current, task));
    let is_new = |set: &&EvalSet| current.tasks.iter().all(|task| task.name != set.task);
    let known = current.tasks.iter().filter_map(of_task);
    let newest: Vec<EvalSet> = known.chain(opened.iter().filter(is_new)).cloned().collect();
    let evaluation = &current.pipeline.evaluation;
    let most = evaluation.max_tasks.get() as usize;
    // A head for each task is chosen by the task, which an archive has none of.
    if newest.len() <= most || current.pipeline.heads == Heads::Tasks {
        return newest;
    }
    let (oldest, recent) = newest.split_at(newest.len() + 1 - most);
    let mut sets = vec![archive(oldest, evaluation.eval_items_per_task.get())];
    sets.extend_from_slice(recent);
    sets
}

/// An equal share of each set's items. Its number is the sum of theirs: it grows when any of them opens the next one.
fn archive(oldest: &[EvalSet], limit: u64) -> EvalSet {
    let share = (limit / oldest.len() as u64).max(1);
    let parts = oldest.iter().flat_map(|set| {
        let mut left = share;
        set.parts.iter().filter_map(move |part| {
            let rows = part.rows.min(left);
            left -= rows;
            (rows > 0).then(|| Part { rows, ..part.clone() })
        })
    });
    let number = oldest.iter().map(|set| set.number).sum();
    EvalSet { task: ARCHIVE.parse().expect("a valid name"), number, parts: parts.collect() }
}

/// Runs that triggers ask for.
pub fn triggered(state: &State) -> Vec<PipelineId> {
    let due = |current: &PipelineState| {
        current.pipeline.trigger == Trigger::Chunk && current.active_run().is_none() && waiting(current).is_ok()
    };
    let ids = state.pipelines.iter().filter(|(_, current)| due(current));
    ids.map(|(id, _)| id.clone()).collect()
}

pub fn cancel(state: &State, id: &PipelineId, run: RunNumber) -> Result<Vec<Event>, Refusal> {
    let current = pipeline(state, id)?;
    let known = current.runs.get(&run).ok_or(Refusal::UnknownRun(run))?;
    match &known.state {
        RunState::Queued | RunState::Training { .. } | RunState::Evaluating { .. } => {
            let change = Box::new(RunEvent::Cancelled);
            Ok(vec![event(id, EventKind::Run { run, change })])
        }
        state => Err(Refusal::TooLate { run, state: state.name() }),
    }
}
