//! Labels that come after their rows, and what became of those that came too late: the control role's half.

mod amend;

use std::collections::BTreeMap;

use domain::chunk::{Chunk, ChunkState};
use domain::id::{ChunkId, PipelineId};
use domain::labelled;
use domain::pipeline::LabelsMode;
use domain::planning::{self, Refusal};
use domain::state::{Event, PipelineState, State};
use perennial_proto::convert::{Invalid, pipeline_id};
use perennial_proto::limits::page;
use perennial_proto::v1;

use self::amend::{Amended, amend};
use crate::error::short;
use crate::seal::nearest;
use crate::{Error, Record};

/// Labels of one call.
const MOST: usize = 10_000;
/// Unknown rows that an answer names.
const MOST_NAMED: usize = 1000;
/// Somebody else may label rows of the same chunks at the same time.
const TRIES: usize = 10;
/// Characters of a name in an error.
const MAX_NAME: usize = 80;

impl Record {
    /// Durable when it returns. Labels that are known already change nothing, so that a call may be repeated.
    pub(crate) async fn push_labels(&self, request: v1::PushLabelsRequest) -> Result<v1::PushLabelsResponse, Error> {
        let pipeline = pipeline_id("pipeline", &request.pipeline)?;
        let wanted = wanted(request.labels)?;
        let one = (!request.chunk.is_empty()).then(|| named(&pipeline, &request.chunk));
        self.journal.rows_checked(&pipeline, one.as_ref()).await.map_err(Error::Unchecked)?;
        for _ in 0..TRIES {
            let chunks = self.journal.read(|state| {
                let current = planning::pipeline(state, &pipeline)?;
                check_names(current, &wanted)?;
                candidates(current, &pipeline, &request.chunk)
            })?;
            let (mut left, mut amended) = (wanted.clone(), Vec::new());
            for id in chunks {
                if left.is_empty() {
                    break;
                }
                let chunk = self.journal.read(|state| state.pipelines.get(&pipeline)?.chunks.get(&id).cloned());
                if let Some(chunk) = chunk {
                    amended.extend(amend(&self.store, &pipeline, chunk, &mut left).await?);
                }
            }
            if self.keep(&pipeline, &amended).await? {
                return self.answer(&pipeline, &amended, left);
            }
        }
        Err(Error::LabelsMoved)
    }

    /// False if one of the chunks has changed since it was read: then nothing has.
    async fn keep(&self, pipeline: &PipelineId, amended: &[Amended]) -> Result<bool, Error> {
        let changes = amended.iter().filter_map(|one| Some((one.before.clone(), one.labelled.clone()?)));
        let (of, changes) = (pipeline.clone(), changes.collect::<Vec<_>>());
        if changes.is_empty() {
            return Ok(true);
        }
        let decide = move |state: &State, _| {
            let current = planning::pipeline(state, &of)?;
            let stands = |before: &Chunk| {
                let now = current.chunks.get(&before.id);
                now.is_some_and(|now| (&now.train, &now.held_out) == (&before.train, &before.held_out))
            };
            if !changes.iter().all(|(before, _)| stands(before)) {
                return Ok::<_, Error>((Vec::new(), false));
            }
            let kinds = changes.into_iter().flat_map(|(_, labelled)| labelled::events(current, labelled));
            Ok((kinds.map(|kind| Event { pipeline: of.clone(), kind }).collect(), true))
        };
        Ok(self.journal.commit(decide).await?)
    }

    fn answer(
        &self,
        pipeline: &PipelineId,
        amended: &[Amended],
        unknown: BTreeMap<String, String>,
    ) -> Result<v1::PushLabelsResponse, Error> {
        let sum = |of: fn(&Amended) -> u64| amended.iter().map(of).sum();
        Ok(v1::PushLabelsResponse {
            labelled_rows: sum(|one| one.filled),
            changed_rows: sum(|one| one.changed),
            unchanged_rows: sum(|one| one.unchanged),
            unknown_count: unknown.len() as u64,
            unknown_rows: unknown.into_keys().take(MOST_NAMED).collect(),
            chunks: amended.iter().map(|one| self.get(pipeline, &one.before.id)).collect::<Result<_, _>>()?,
        })
    }

    pub(crate) fn corrections(
        &self,
        request: &v1::ListCorrectionsRequest,
    ) -> Result<v1::ListCorrectionsResponse, Error> {
        let pipeline = pipeline_id("parent", &request.parent)?;
        self.journal.read(|state| {
            let current = planning::pipeline(state, &pipeline)?;
            let all = current
                .chunks_in_order()
                .flat_map(|chunk| chunk.corrections.iter().map(move |correction| (&chunk.id, correction)));
            let (chosen, next_page_token) = page(all.collect(), request.page_size, &request.page_token)?;
            let correction = |(chunk, correction): (&ChunkId, &domain::chunk::Correction)| v1::Correction {
                chunk: format!("{pipeline}/chunks/{chunk}"),
                at_ms: correction.at,
                rows: correction.rows,
                versions: current.saw(chunk, correction.run, None).into_iter().map(|version| version.0).collect(),
            };
            Ok(v1::ListCorrectionsResponse {
                corrections: chosen.into_iter().map(correction).collect(),
                next_page_token,
            })
        })
    }
}

/// By row, none of them twice in two ways.
fn wanted(labels: Vec<v1::RowLabel>) -> Result<BTreeMap<String, String>, Invalid> {
    if labels.is_empty() || labels.len() > MOST {
        let reason = format!("{} labels; send 1 to {MOST} in a call", labels.len());
        return Err(Invalid::new("labels", reason));
    }
    let mut wanted = BTreeMap::new();
    for v1::RowLabel { row_id, label } in labels {
        if row_id.is_empty() || label.is_empty() {
            let reason = format!("`{}` for row `{}`: neither may be empty", shown(&label), shown(&row_id));
            return Err(Invalid::new("labels", reason));
        }
        if let Some(other) = wanted.insert(row_id.clone(), label.clone()).filter(|other| *other != label) {
            let (row, one, two) = (shown(&row_id), shown(&other), shown(&label));
            return Err(Invalid::new("labels", format!("row `{row}` is both `{one}` and `{two}`; send the right one")));
        }
    }
    Ok(wanted)
}

fn shown(name: &str) -> String {
    short(name, MAX_NAME)
}

/// Either every label is one the pipeline takes, or none is applied.
fn check_names(current: &PipelineState, wanted: &BTreeMap<String, String>) -> Result<(), Invalid> {
    let strange = |(_, label): &(&String, &String)| !current.labels.contains(label);
    let closed = current.pipeline.labels_mode == LabelsMode::Closed;
    match wanted.iter().find(strange).filter(|_| closed) {
        None => Ok(()),
        Some((row, label)) => {
            let hint = nearest(&shown(label), &current.labels).map(|name| format!("; did you mean `{name}`?"));
            let (row, label, count) = (shown(row), shown(label), current.labels.len());
            let hint = hint.unwrap_or_default();
            let reason = format!(
                "row `{row}` would be `{label}`, which is not among the pipeline's {count} labels{hint}; nothing was changed"
            );
            Err(Invalid::new("labels", reason))
        }
    }
}

/// Where the rows may be: the newest chunk first. `named` is one chunk's name, or nothing.
fn candidates(current: &PipelineState, pipeline: &PipelineId, named: &str) -> Result<Vec<ChunkId>, Error> {
    let sealed = |chunk: &&Chunk| chunk.state != ChunkState::Received && !chunk.dropped;
    if named.is_empty() {
        let chunks = current.arrivals.iter().rev().filter_map(|id| current.chunks.get(id));
        return Ok(chunks.filter(sealed).map(|chunk| chunk.id.clone()).collect());
    }
    let id = self::named(pipeline, named);
    match current.chunks.contains_key(&id) {
        true => Ok(vec![id]),
        false => Err(Refusal::UnknownChunk(id).into()),
    }
}

/// By its id, or by its whole name.
fn named(pipeline: &PipelineId, chunk: &str) -> ChunkId {
    ChunkId(chunk.strip_prefix(&format!("{pipeline}/chunks/")).unwrap_or(chunk).to_owned())
}
