//! Wire to domain and back. The only place where the two meet.

use domain::calibration::Calibration;
use domain::chunk::{Chunk, ChunkState, Split};
use domain::flips::Flips;
use domain::id::{ChunkId, Namespace, PipelineId, ProducerName, RunId, Version};
use domain::planning::Expected;
use domain::producer::{Origin, Producer};
use domain::report::{EvalReport, average_accuracy, calibration};
use domain::run::{Run, RunState};
use domain::shift::{Against, Measured, Moved, Shift, Tested};
use domain::state::PipelineState;
use domain::version::{AdapterVersion, Alias, Disposition};

use crate::v1;

/// A request's field that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("`{field}`: {reason}")]
pub struct Invalid {
    pub field: String,
    pub reason: String,
}

impl Invalid {
    pub fn new(field: &str, reason: impl ToString) -> Self {
        Self { field: field.to_owned(), reason: reason.to_string() }
    }
}

/// A big document that travels as JSON.
pub fn from_json<T: serde::de::DeserializeOwned>(field: &str, json: &[u8]) -> Result<T, Invalid> {
    serde_json::from_slice(json).map_err(|e| Invalid::new(field, e))
}

pub fn to_json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("domain types have string keys and no failing impls")
}

pub fn pipeline_id(field: &str, name: &str) -> Result<PipelineId, Invalid> {
    name.parse().map_err(|e| Invalid::new(field, e))
}

/// `namespaces/{ns}`, the parent of pipelines.
pub fn namespace(field: &str, name: &str) -> Result<Namespace, Invalid> {
    let form = || Invalid::new(field, format!("`{name}` is not `namespaces/{{namespace}}`"));
    let last = name.strip_prefix("namespaces/").ok_or_else(form)?;
    last.parse().map_err(|e| Invalid::new(field, e))
}

/// `namespaces/{ns}/pipelines/{p}/{collection}/{last}` in its two halves.
fn child<'a>(field: &str, name: &'a str, collection: &str) -> Result<(PipelineId, &'a str), Invalid> {
    let form = || {
        Invalid::new(field, format!("`{name}` is not `namespaces/{{namespace}}/pipelines/{{pipeline}}/{collection}/…`"))
    };
    let (head, last) = name.rsplit_once('/').ok_or_else(form)?;
    let parent = head.strip_suffix(collection).and_then(|head| head.strip_suffix('/')).ok_or_else(form)?;
    Ok((pipeline_id(field, parent)?, last))
}

pub fn run_id(field: &str, name: &str) -> Result<RunId, Invalid> {
    let (pipeline, number) = child(field, name, "runs")?;
    let number = number.parse().map_err(|_| Invalid::new(field, format!("`{number}` is not a run number")))?;
    Ok(RunId { pipeline, number })
}

pub fn chunk_id(field: &str, name: &str) -> Result<(PipelineId, ChunkId), Invalid> {
    let (pipeline, id) = child(field, name, "chunks")?;
    Ok((pipeline, ChunkId(id.to_owned())))
}

pub fn read_origin(field: &str, wire: v1::Origin) -> Result<Origin, Invalid> {
    let producer = producer_name(&format!("{field}.producer"), wire.producer)?;
    for (name, number) in [("epoch", wire.epoch), ("sequence", wire.sequence)] {
        if number == 0 {
            return Err(Invalid::new(&format!("{field}.{name}"), "missing or 0; they count from 1"));
        }
    }
    Ok(Origin { producer, epoch: wire.epoch, sequence: wire.sequence })
}

pub fn origin(origin: &Origin) -> v1::Origin {
    v1::Origin { producer: origin.producer.to_string(), epoch: origin.epoch, sequence: origin.sequence }
}

pub fn producer_name(field: &str, name: String) -> Result<ProducerName, Invalid> {
    name.try_into().map_err(|e| Invalid::new(field, e))
}

pub fn producer(name: &ProducerName, producer: &Producer) -> v1::Producer {
    v1::Producer { name: name.to_string(), epoch: producer.epoch, next_sequence: producer.next }
}

/// A version by number or by alias: `…/versions/3`, `…/versions/@champion`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionRef {
    Number(Version),
    Alias(Alias),
}

pub fn version_ref(field: &str, name: &str) -> Result<(PipelineId, VersionRef), Invalid> {
    let (pipeline, last) = child(field, name, "versions")?;
    let reference = match last.strip_prefix('@') {
        Some(name) => VersionRef::Alias(alias(field, name)?),
        None => {
            let number = last.trim_start_matches('v').parse();
            VersionRef::Number(Version(
                number
                    .map_err(|_| Invalid::new(field, format!("`{last}` is neither a version number nor an @alias")))?,
            ))
        }
    };
    Ok((pipeline, reference))
}

pub fn alias(field: &str, name: &str) -> Result<Alias, Invalid> {
    let known = || Alias::ALL.map(Alias::name).join(", ");
    let found = Alias::ALL.into_iter().find(|alias| alias.name() == name);
    found.ok_or_else(|| Invalid::new(field, format!("`{name}` is not an alias: use one of {}", known())))
}

/// Zero, on the wire, is "none".
pub fn version(number: u64) -> Option<Version> {
    (number > 0).then_some(Version(number))
}

/// Absent is "anywhere", zero is "nowhere yet".
pub fn expected(wire: Option<u64>) -> Expected {
    match wire {
        None => Expected::Anywhere,
        Some(0) => Expected::Nowhere,
        Some(number) => Expected::At(Version(number)),
    }
}

pub fn disposition(wire: v1::ChunkDisposition) -> Disposition {
    match wire {
        v1::ChunkDisposition::Requeue => Disposition::Requeue,
        v1::ChunkDisposition::Hold | v1::ChunkDisposition::Unspecified => Disposition::Hold,
        v1::ChunkDisposition::Drop => Disposition::Drop,
    }
}

impl From<v1::Split> for Split {
    fn from(split: v1::Split) -> Split {
        match split {
            v1::Split::Train => Split::Train,
            v1::Split::HeldOut => Split::HeldOut,
            v1::Split::Auto | v1::Split::Unspecified => Split::Auto,
        }
    }
}

impl From<Split> for v1::Split {
    fn from(split: Split) -> v1::Split {
        match split {
            Split::Train => v1::Split::Train,
            Split::HeldOut => v1::Split::HeldOut,
            Split::Auto => v1::Split::Auto,
        }
    }
}

/// `measured`: how it compared, if it was compared.
pub fn chunk(pipeline: &PipelineId, chunk: &Chunk, measured: Option<&Measured>) -> v1::Chunk {
    let (run, version) = match chunk.state {
        ChunkState::InRun { run } => (run, 0),
        ChunkState::Absorbed { version } => (0, version.0),
        _ => (0, 0),
    };
    v1::Chunk {
        name: format!("{pipeline}/chunks/{}", chunk.id),
        task: chunk.task.to_string(),
        split: v1::Split::from(chunk.split).into(),
        state: chunk.state.name().to_owned(),
        reason: chunk.state.reason().unwrap_or_default().to_owned(),
        train_rows: chunk.train_rows(),
        held_out_rows: chunk.held_out_rows(),
        bytes: chunk.raw.bytes,
        labels: chunk.labels.clone().into_iter().collect(),
        run,
        version,
        received_at_ms: chunk.received_at,
        duplicate_rows: chunk.duplicates,
        bad_rows: chunk.bad.as_ref().map_or(0, |bad| bad.rows),
        checked_again: chunk.can_be_sealed(),
        source_uri: chunk.source.as_ref().map_or_else(String::new, |source| source.uri.clone()),
        source_tag: chunk.source.as_ref().map_or_else(String::new, |source| source.tag.clone()),
        unlabelled_rows: chunk.unlabelled_rows(),
        labelling_until_ms: match chunk.state {
            ChunkState::Labelling { until } => until,
            _ => 0,
        },
        erased_rows: chunk.erased_rows(),
        received_json: if chunk.state == ChunkState::Received { to_json(chunk) } else { Vec::new() },
        shift_p_values: measured
            .iter()
            .flat_map(|measured| &measured.p_values)
            .map(|(of, p)| (of.name().to_owned(), *p))
            .collect(),
    }
}

pub fn shift(shift: &Shift) -> v1::Shift {
    let moved = |moved: &Moved| v1::ShiftedPart { name: moved.name.clone(), by: moved.by };
    let test = |tested: &Tested| v1::ShiftTest {
        detector: tested.detector.name().to_owned(),
        statistic: tested.statistic,
        p_value: tested.p_value,
        reference_rows: tested.rows[0],
        rows: tested.rows[1],
        moved: tested.moved.iter().map(moved).collect(),
    };
    let task = match &shift.against {
        Against::Buffer => String::new(),
        Against::Task(task) => task.to_string(),
    };
    v1::Shift { task, tests: shift.tests.iter().map(test).collect() }
}

pub fn pipeline(state: &PipelineState) -> v1::Pipeline {
    let task = |task: &domain::state::Task| v1::Task {
        name: task.name.to_string(),
        eval_set: task.sets.last().map_or(0, |set| set.number),
        items: task.sets.last().map_or(0, |set| set.items()),
    };
    let aliases = state.aliases.iter().map(|(alias, v)| (alias.name().to_owned(), v.0));
    v1::Pipeline {
        name: state.pipeline.id().to_string(),
        spec_json: to_json(&state.pipeline),
        revision: state.revision,
        labels: state.labels.clone(),
        tasks: state.tasks.iter().map(task).collect(),
        aliases: aliases.collect(),
        chunks: state.chunks.len() as u64,
        versions: state.versions.len() as u64,
    }
}

/// The report a run has, once it was judged.
pub fn report<'a>(state: &'a PipelineState, run: &'a Run) -> Option<&'a EvalReport> {
    match &run.state {
        RunState::Publishing { report, .. } | RunState::Rejected { report } => Some(report),
        RunState::Published { version } => state.versions.get(version).map(|v| &v.report),
        _ => None,
    }
}

pub fn run(state: &PipelineState, run: &Run, progress: Option<v1::Progress>) -> v1::Run {
    let pipeline = state.pipeline.id();
    let report = report(state, run);
    let reasons = match &run.state {
        RunState::Failed { reason } => vec![reason.clone()],
        _ => report.map_or_else(Vec::new, |report| report.verdict.reasons().to_vec()),
    };
    let version = match run.state {
        RunState::Published { version } => version.0,
        _ => 0,
    };
    v1::Run {
        name: format!("{pipeline}/runs/{}", run.number),
        number: run.number,
        state: run.state.name().to_owned(),
        reasons,
        attempts: run.attempts,
        chunks: run.chunk_ids().map(ToString::to_string).collect(),
        parent_version: run.manifest.parent.as_ref().map_or(0, |parent| parent.version.0),
        version,
        verdict: report.map_or_else(String::new, |report| report.verdict.name().to_owned()),
        queued_at_ms: run.queued_at,
        ended_at_ms: run.ended_at.unwrap_or_default(),
        progress,
        last_error: run.last_error.clone().unwrap_or_default(),
    }
}

pub fn adapter_version(state: &PipelineState, version: &AdapterVersion) -> v1::Version {
    let id = state.pipeline.id();
    let aliases = state.aliases.iter().filter(|(_, at)| **at == version.number);
    let file = |object: &domain::chunk::ObjectRef| v1::File {
        path: object.path.clone(),
        sha256: object.sha256.clone(),
        bytes: object.bytes,
    };
    let calibration = calibration(&version.report.candidate_scores);
    let imported = state.runs.get(&version.run).is_some_and(|run| run.manifest.import.is_some());
    v1::Version {
        name: format!("{id}/versions/{}", version.number.0),
        number: version.number.0,
        parent: version.parent.map_or(0, |parent| parent.0),
        run: version.run,
        aliases: aliases.map(|(alias, _)| alias.name().to_owned()).collect(),
        chunks: version.chunks.iter().map(ToString::to_string).collect(),
        folder: format!("adapters/{}/{}", id.namespace, version.number.folder(&id.name)),
        files: version.files.iter().map(file).collect(),
        weights_sha256: version.weights_sha256.clone(),
        snapshot_sha256: version.snapshot.object.sha256.clone(),
        verdict: version.report.verdict.name().to_owned(),
        average_accuracy: average_accuracy(&version.report.candidate_scores),
        published_at_ms: version.published_at,
        expected_calibration_error: calibration.as_ref().and_then(Calibration::expected_error),
        brier_score: calibration.as_ref().and_then(Calibration::brier_score),
        flips: version.report.compared_with().zip(version.report.flips()).map(|(since, counts)| flips(since, counts)),
        imported,
        contaminated_rows: version.cost.contaminated_rows,
        dropped_rows: version.cost.dropped_rows,
        hold_reason: state.holds.get(&version.number).cloned().unwrap_or_default(),
        retired_at_ms: state.retired.get(&version.number).copied().unwrap_or_default(),
    }
}

/// Counted from `since`.
pub fn flips(since: Version, counts: Flips) -> v1::Flips {
    let Flips { items, negative, positive, right } = counts;
    v1::Flips { baseline: since.0, items, negative, positive, right }
}

impl From<v1::Flips> for Flips {
    fn from(wire: v1::Flips) -> Flips {
        Flips { items: wire.items, negative: wire.negative, positive: wire.positive, right: wire.right }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_names_read_back() {
        let id = run_id("name", "namespaces/default/pipelines/tickets/runs/7").unwrap();
        assert_eq!(id.to_string(), "namespaces/default/pipelines/tickets/runs/7");
        let (_, by_alias) = version_ref("name", "namespaces/default/pipelines/tickets/versions/@champion").unwrap();
        assert_eq!(by_alias, VersionRef::Alias(Alias::Champion));
    }

    #[test]
    fn errors_name_the_field_and_the_value() {
        let error = run_id("name", "namespaces/default/pipelines/tickets/runs/x").unwrap_err();
        assert_eq!(error.to_string(), "`name`: `x` is not a run number");
        let error = alias("alias", "best").unwrap_err();
        assert!(error.reason.contains("champion, challenger, previous"));
        for malformed in ["", "default", "namespaces/", "namespaces/a/pipelines/b", "namespaces/A"] {
            let error = namespace("parent", malformed).unwrap_err().to_string();
            assert!(error.starts_with("`parent`: "), "{error}");
        }
        assert_eq!(namespace("parent", "namespaces/default"), Ok(Namespace::default()));
    }

    #[test]
    fn flips_read_back() {
        let counts = Flips { items: 500, negative: 7, positive: 11, right: 300 };
        let wire = flips(Version(3), counts);
        assert_eq!((wire.baseline, Flips::from(wire)), (3, counts));
    }

    #[test]
    fn an_expectation_of_zero_is_not_the_lack_of_one() {
        assert_eq!(expected(None), Expected::Anywhere);
        assert_eq!(expected(Some(0)), Expected::Nowhere);
        assert_eq!(expected(Some(3)), Expected::At(Version(3)));
    }
}
