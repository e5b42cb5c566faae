//! The control role's half: chunks become events of the journal.

use std::sync::Arc;

use bytes::Bytes;
use domain::chunk::{BadRow, Chunk, ChunkState};
use domain::id::{ChunkId, PipelineId};
use domain::pipeline::LabelsMode;
use domain::planning::{self, Refusal};
use domain::producer::{self, Origin};
use domain::state::{Event, EventKind, PipelineState, State};
use object_store::ObjectStore;
use perennial_proto::convert::{self, Invalid, chunk_id, from_json, pipeline_id, producer_name, read_origin};
use perennial_proto::limits::page;
use perennial_proto::v1;
use store::journal::Journal;
use store::objects;

use crate::Error;

const STATES: [&str; 7] = ["received", "labelling", "sealed", "in_run", "absorbed", "refused", "quarantined"];

/// The chunks of the control role.
pub struct Record {
    pub(crate) journal: Arc<Journal>,
    pub(crate) store: Arc<dyn ObjectStore>,
}

/// What became of a push, as the record has it.
pub struct Recorded {
    pub wire: v1::Chunk,
    /// None: a control role from before it told.
    pub chunk: Option<Chunk>,
    pub already_exists: bool,
}

/// How sealing ended.
enum Outcome {
    /// It has not begun.
    Received,
    Sealed {
        new_labels: Vec<String>,
    },
    Quarantined {
        reason: String,
    },
}

impl Record {
    pub fn new(journal: Arc<Journal>, store: Arc<dyn ObjectStore>) -> Self {
        Self { journal, store }
    }

    pub(crate) async fn record(&self, request: v1::RecordChunkRequest) -> Result<Recorded, Error> {
        let pipeline = pipeline_id("pipeline", &request.pipeline)?;
        let origin = request.origin.map(|origin| read_origin("origin", origin)).transpose()?;
        if !request.known.is_empty() {
            let (of, id) = (pipeline.clone(), ChunkId(request.known));
            let name = id.clone();
            self.journal.commit(move |state, _| again(state, &of, &name, origin.as_ref())).await?;
            return self.recorded(&pipeline, &id, true);
        }
        let (field, json, outcome) = match request.quarantine_reason {
            _ if !request.received_json.is_empty() => ("received_json", &request.received_json, Outcome::Received),
            reason if reason.is_empty() => {
                ("chunk_json", &request.chunk_json, Outcome::Sealed { new_labels: request.new_labels })
            }
            reason => ("chunk_json", &request.chunk_json, Outcome::Quarantined { reason }),
        };
        let chunk: Chunk = from_json(field, json)?;
        let (of, id) = (pipeline.clone(), chunk.id.clone());
        let decide = move |state: &State, _| decide(state, &of, chunk, outcome, origin.as_ref());
        let already_exists = self.journal.commit(decide).await?;
        self.recorded(&pipeline, &id, already_exists)
    }

    fn recorded(&self, pipeline: &PipelineId, id: &ChunkId, already_exists: bool) -> Result<Recorded, Error> {
        self.journal.read(|state| {
            let current = planning::pipeline(state, pipeline)?;
            let chunk = current.chunks.get(id).ok_or_else(|| Refusal::UnknownChunk(id.clone()))?;
            let wire = convert::chunk(pipeline, chunk, current.shift(id));
            Ok(Recorded { wire, chunk: Some(chunk.clone()), already_exists })
        })
    }

    pub(crate) fn get(&self, pipeline: &PipelineId, id: &ChunkId) -> Result<v1::Chunk, Error> {
        self.journal.read(|state| {
            let current = planning::pipeline(state, pipeline)?;
            let chunk = current.chunks.get(id).ok_or_else(|| Refusal::UnknownChunk(id.clone()))?;
            Ok(convert::chunk(pipeline, chunk, current.shift(id)))
        })
    }

    pub(crate) fn list(&self, request: &v1::ListChunksRequest) -> Result<v1::ListChunksResponse, Error> {
        let pipeline = pipeline_id("parent", &request.parent)?;
        let wanted = request.state.as_str();
        if !wanted.is_empty() && !STATES.contains(&wanted) {
            let reason = format!("`{wanted}` is not a state of chunks: use one of {}", STATES.join(", "));
            return Err(Invalid::new("state", reason).into());
        }
        self.journal.read(|state| {
            let current = planning::pipeline(state, &pipeline)?;
            let chosen = current.chunks_in_order().filter(|chunk| wanted.is_empty() || chunk.state.name() == wanted);
            let (chosen, next_page_token) = page(chosen.collect(), request.page_size, &request.page_token)?;
            let chunks = chosen.into_iter().map(|chunk| convert::chunk(&pipeline, chunk, current.shift(&chunk.id)));
            Ok(v1::ListChunksResponse { chunks: chunks.collect(), next_page_token })
        })
    }

    pub(crate) async fn open(&self, request: v1::OpenProducerRequest) -> Result<v1::Producer, Error> {
        let pipeline = pipeline_id("pipeline", &request.pipeline)?;
        let name = producer_name("producer", request.producer)?;
        let of = name.clone();
        let decide = move |state: &State, _| {
            let (producer, events) = producer::open(state, &pipeline, &of)?;
            Ok::<_, Error>((events, producer))
        };
        Ok(convert::producer(&name, &self.journal.commit(decide).await?))
    }

    pub(crate) fn producers(&self, request: &v1::ListProducersRequest) -> Result<v1::ListProducersResponse, Error> {
        let pipeline = pipeline_id("parent", &request.parent)?;
        self.journal.read(|state| {
            let producers = planning::pipeline(state, &pipeline)?.producers.iter();
            let (chosen, next_page_token) = page(producers.collect(), request.page_size, &request.page_token)?;
            let producers = chosen.into_iter().map(|(name, producer)| convert::producer(name, producer));
            Ok(v1::ListProducersResponse { producers: producers.collect(), next_page_token })
        })
    }

    pub(crate) async fn release(&self, request: v1::ReleaseChunksRequest) -> Result<Vec<v1::Chunk>, Error> {
        self.change(&request.pipeline, &request.chunks, |state, pipeline, chunks| {
            let current = planning::pipeline(state, pipeline)?;
            // One that waits in quarantine binds nobody until now.
            for chunk in chunks.iter().filter_map(|id| current.chunks.get(id)) {
                check_payload(current, chunk)?;
                check_labels(current, pipeline, chunk.bad.as_ref().map_or(&[], |bad| &bad.new_labels))?;
            }
            Ok(planning::release(state, pipeline, chunks)?)
        })
        .await
    }

    pub(crate) async fn drop(&self, request: v1::DropChunksRequest) -> Result<Vec<v1::Chunk>, Error> {
        let decide = |state: &State, pipeline: &PipelineId, chunks: &[ChunkId]| {
            Ok(planning::drop_chunks(state, pipeline, chunks)?)
        };
        self.change(&request.pipeline, &request.chunks, decide).await
    }

    async fn change(
        &self,
        pipeline: &str,
        chunks: &[String],
        decide: impl Fn(&State, &PipelineId, &[ChunkId]) -> Result<Vec<Event>, Error> + Send + 'static,
    ) -> Result<Vec<v1::Chunk>, Error> {
        let pipeline = pipeline_id("pipeline", pipeline)?;
        if chunks.is_empty() {
            return Err(Invalid::new("chunks", "empty; name at least one chunk").into());
        }
        // An id, or the whole resource name as lists show it.
        let folder = format!("{pipeline}/chunks/");
        let id = |name: &String| ChunkId(name.strip_prefix(&folder).unwrap_or(name).to_owned());
        let ids: Vec<ChunkId> = chunks.iter().map(id).collect();
        let (of, chosen) = (pipeline.clone(), ids.clone());
        self.journal.commit(move |state, _| Ok::<_, Error>((decide(state, &of, &chosen)?, ()))).await?;
        ids.iter().map(|id| self.get(&pipeline, id)).collect()
    }

    /// A page of the rows that put a chunk into quarantine.
    pub(crate) async fn bad_rows(&self, request: &v1::ListBadRowsRequest) -> Result<v1::ListBadRowsResponse, Error> {
        let (pipeline, id) = chunk_id("chunk", &request.chunk)?;
        let bad = self.journal.read(|state| {
            let found = planning::pipeline(state, &pipeline)?.chunks.get(&id);
            let chunk = found.ok_or_else(|| Refusal::UnknownChunk(id.clone()))?;
            Ok::<_, Refusal>(chunk.bad.clone().filter(|_| !chunk.erased))
        })?;
        let lines = match &bad {
            Some(bad) => objects::get(&*self.store, &bad.object).await?,
            None => Bytes::new(),
        };
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
        let (lines, next_page_token) = page(lines, request.page_size, &request.page_token)?;
        let row = |line: &[u8]| {
            let BadRow { row, reason } = serde_json::from_slice(line).map_err(|e| Invalid::new("bad rows", e))?;
            Ok::<_, Invalid>(v1::BadRow { row, reason })
        };
        Ok(v1::ListBadRowsResponse { rows: lines.into_iter().map(row).collect::<Result<_, _>>()?, next_page_token })
    }
}

/// The events of a push, and whether it changes nothing about a chunk that is known.
fn decide(
    state: &State,
    id: &PipelineId,
    mut chunk: Chunk,
    outcome: Outcome,
    origin: Option<&Origin>,
) -> Result<(Vec<Event>, bool), Error> {
    let current = planning::pipeline(state, id)?;
    let event = |kind| Event { pipeline: id.clone(), kind };
    let name = chunk.id.clone();
    let known = current.chunks.get(&name);
    if known.is_some_and(|known| !known.can_be_sealed()) {
        return Ok((again(state, id, &name, origin)?.0, true));
    }
    let mut events = counted(current, id, &name, origin)?;
    let waits = known.filter(|known| known.state == ChunkState::Received);
    chunk.received_at = waits.map_or(chunk.received_at, |known| known.received_at);
    let seal = match outcome {
        // What is known of its rows already is not to be lost.
        Outcome::Received if known.is_some() => return Ok((events, true)),
        Outcome::Received => {
            check_payload(current, &chunk)?;
            let chunk = Box::new(Chunk { state: ChunkState::Received, ..chunk });
            events.push(event(EventKind::ChunkReceived { chunk }));
            return Ok((events, false));
        }
        Outcome::Sealed { new_labels } => {
            check_payload(current, &chunk)?;
            check_labels(current, id, &new_labels)?;
            match current.pipeline.data.labelling_until(&chunk) {
                Some(until) => EventKind::ChunkLabelling { chunk: name, new_labels, until },
                None => EventKind::ChunkSealed { chunk: name, new_labels },
            }
        }
        Outcome::Quarantined { reason } => {
            let state = ChunkState::Quarantined { reason: reason.clone() };
            if known.is_some_and(|known| (&known.state, &known.bad) == (&state, &chunk.bad)) {
                return Ok((events, true));
            }
            EventKind::ChunkQuarantined { chunk: name, reason }
        }
    };
    let chunk = Box::new(Chunk { state: ChunkState::Received, ..chunk });
    events.extend([event(EventKind::ChunkReceived { chunk }), event(seal)]);
    Ok((events, waits.is_some()))
}

/// The events of a chunk that is known and was pushed again.
fn again(state: &State, id: &PipelineId, chunk: &ChunkId, origin: Option<&Origin>) -> Result<(Vec<Event>, ()), Error> {
    let current = planning::pipeline(state, id)?;
    if !current.chunks.contains_key(chunk) {
        return Err(Refusal::UnknownChunk(chunk.clone()).into());
    }
    Ok((counted(current, id, chunk, origin)?, ()))
}

/// The producer's count goes on, unless this push was counted.
fn counted(
    current: &PipelineState,
    id: &PipelineId,
    chunk: &ChunkId,
    origin: Option<&Origin>,
) -> Result<Vec<Event>, Refusal> {
    let Some(origin) = origin else { return Ok(Vec::new()) };
    let is_new = producer::admit(current, origin, chunk)?;
    let kind = EventKind::ProducerAdvanced { producer: origin.producer.clone(), chunk: chunk.clone() };
    Ok(is_new.then(|| Event { pipeline: id.clone(), kind }).into_iter().collect())
}

/// Under another split or task the rows that one chunk holds out the other would train.
fn check_payload(current: &PipelineState, chunk: &Chunk) -> Result<(), Error> {
    let sealed = |other: &&Chunk| !other.can_be_sealed() && (!other.train.is_empty() || !other.held_out.is_empty());
    let counts = |other: &&Chunk| sealed(other) || other.state == ChunkState::Received;
    let same = current.chunks.values().filter(|other| other.raw.sha256 == chunk.raw.sha256);
    let elsewhere = |other: &&Chunk| (&other.task, other.split) != (&chunk.task, chunk.split);
    match same.filter(counts).find(elsewhere) {
        None => Ok(()),
        Some(other) => {
            Err(Error::KnownPayload { chunk: other.id.clone(), task: other.task.clone(), split: other.split })
        }
    }
}

/// Labels were compared with those of a moment ago; the pipeline may have been applied anew since.
fn check_labels(current: &PipelineState, id: &PipelineId, new: &[String]) -> Result<(), Error> {
    let closed = current.pipeline.labels_mode == LabelsMode::Closed;
    if closed && new.iter().any(|label| !current.labels.contains(label)) {
        return Err(Error::LabelsClosed(id.clone()));
    }
    Ok(())
}
