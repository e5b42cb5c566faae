//! Producers that number what they push: each number is taken once, in order, whatever is retried or killed.
//!
//! As an idempotent producer of Kafka does (KIP-98): opening a producer gives it a new epoch, which shuts out whatever still
//! pushes under an older one; its pushes count up from 1. Unlike there, the count goes on over epochs, so that a producer that
//! comes back is told where to go on.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::id::{ChunkId, PipelineId, ProducerName};
use crate::planning;
use crate::state::{Event, EventKind, PipelineState, State};

/// How many of a producer's last pushes are known by their number.
pub const WINDOW: usize = 64;

/// Producers of a pipeline at most: what is kept of each is small, and is kept for ever.
pub const LIMIT: usize = 1000;

/// Who pushes, and which of its pushes this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub producer: ProducerName,
    pub epoch: u64,
    /// From 1.
    pub sequence: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Producer {
    pub epoch: u64,
    /// The number that its next push has.
    pub next: u64,
    /// The chunks of its last pushes, the newest last; [`WINDOW`] of them at most.
    pub recent: VecDeque<ChunkId>,
}

#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Refusal {
    #[error("producer `{0}` was never opened; open it, and push under the epoch that it is given")]
    Unknown(ProducerName),
    #[error(
        "producer `{producer}` was opened again: its epoch is {current}, and this push is of epoch {given}. Another process pushes \
         under its name; stop, or open it to take over"
    )]
    StaleEpoch { producer: ProducerName, given: u64, current: u64 },
    #[error(
        "the pipeline has {LIMIT} producers, and `{0}` would be one more; a producer is what pushes in one sequence, not each of its \
         processes: push under a name that is known"
    )]
    TooMany(ProducerName),
    #[error("producer `{producer}` has epoch {current}, and epoch {given} was never given out; open it anew")]
    UnknownEpoch { producer: ProducerName, given: u64, current: u64 },
    #[error("push {given} of producer `{producer}` comes too early: {next} is the next; push what is missing first")]
    Gap { producer: ProducerName, given: u64, next: u64 },
    #[error("push {given} of producer `{producer}` was chunk {chunk}; other rows need the number {next}")]
    Reused { producer: ProducerName, given: u64, chunk: ChunkId, next: u64 },
    #[error(
        "push {given} of producer `{producer}` is too long ago to be told apart: only the last {WINDOW} are known. {next} is the next"
    )]
    Forgotten { producer: ProducerName, given: u64, next: u64 },
}

impl Producer {
    pub fn new() -> Self {
        Self { epoch: 0, next: 1, recent: VecDeque::new() }
    }

    /// The next push was this chunk.
    pub fn advance(&mut self, chunk: ChunkId) {
        self.next += 1;
        self.recent.push_back(chunk);
        if self.recent.len() > WINDOW {
            self.recent.pop_front();
        }
    }

    /// The chunk of push `sequence`, which was taken; None if it is forgotten.
    fn taken(&self, sequence: u64) -> Option<&ChunkId> {
        let first = self.next - self.recent.len() as u64;
        sequence.checked_sub(first).and_then(|at| self.recent.get(at as usize))
    }
}

impl Default for Producer {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether a push is new; false where it is one that was taken already, with the same content.
pub fn admit(current: &PipelineState, origin: &Origin, chunk: &ChunkId) -> Result<bool, Refusal> {
    let Origin { producer: name, epoch, sequence } = origin;
    let (producer, given) = (name.clone(), *sequence);
    let known = current.producers.get(name).ok_or_else(|| Refusal::Unknown(name.clone()))?;
    if *epoch < known.epoch {
        return Err(Refusal::StaleEpoch { producer, given: *epoch, current: known.epoch });
    }
    if *epoch > known.epoch {
        return Err(Refusal::UnknownEpoch { producer, given: *epoch, current: known.epoch });
    }
    let next = known.next;
    if given > next {
        return Err(Refusal::Gap { producer, given, next });
    }
    if given == next {
        return Ok(true);
    }
    match known.taken(given) {
        Some(taken) if taken == chunk => Ok(false),
        Some(taken) => Err(Refusal::Reused { producer, given, chunk: taken.clone(), next }),
        None => Err(Refusal::Forgotten { producer, given, next }),
    }
}

/// Gives a producer its next epoch, which it and the number of its next push are then known by.
pub fn open(state: &State, id: &PipelineId, name: &ProducerName) -> Result<(Producer, Vec<Event>), planning::Refusal> {
    let producers = &planning::pipeline(state, id)?.producers;
    let mut producer = match producers.get(name) {
        Some(known) => known.clone(),
        None if producers.len() >= LIMIT => return Err(Refusal::TooMany(name.clone()).into()),
        None => Producer::new(),
    };
    producer.epoch += 1;
    let kind = EventKind::ProducerOpened { producer: name.clone(), epoch: producer.epoch };
    Ok((producer, vec![Event { pipeline: id.clone(), kind }]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn chunk(number: u64) -> ChunkId {
        ChunkId(format!("{number:032x}"))
    }

    fn origin(epoch: u64, sequence: u64) -> Origin {
        Origin { producer: "kiosk".parse().unwrap(), epoch, sequence }
    }

    fn pipeline() -> (State, PipelineId) {
        let spec =
            serde_json::from_value(json!({"name": "tickets", "model": "mlp:10", "method": "er", "labels": ["a"]}))
                .unwrap();
        let mut state = State::default();
        let events = planning::apply_spec(&state, &spec).unwrap();
        events.iter().for_each(|event| state.apply(event, 0).unwrap());
        (state, spec.id())
    }

    fn opened(state: &mut State, id: &PipelineId) -> Producer {
        let (producer, events) = open(state, id, &"kiosk".parse().unwrap()).unwrap();
        events.iter().for_each(|event| state.apply(event, 0).unwrap());
        producer
    }

    fn pushed(state: &mut State, id: &PipelineId, sequence: u64) {
        let origin = origin(state.pipelines[id].producers.values().next().unwrap().epoch, sequence);
        let new = admit(&state.pipelines[id], &origin, &chunk(sequence)).unwrap();
        assert!(new, "{sequence}");
        let kind = EventKind::ProducerAdvanced { producer: origin.producer, chunk: chunk(sequence) };
        state.apply(&Event { pipeline: id.clone(), kind }, 0).unwrap();
    }

    #[test]
    fn a_push_is_taken_once_and_its_retry_is_known() {
        let (mut state, id) = pipeline();
        assert_eq!(opened(&mut state, &id), Producer { epoch: 1, next: 1, recent: VecDeque::new() });
        (1..=3).for_each(|sequence| pushed(&mut state, &id, sequence));
        let admit = |epoch, sequence, number| admit(&state.pipelines[&id], &origin(epoch, sequence), &chunk(number));
        assert_eq!(admit(1, 4, 4), Ok(true));
        for sequence in 1..=3 {
            assert_eq!(admit(1, sequence, sequence), Ok(false));
        }
        let name = || "kiosk".parse().unwrap();
        assert_eq!(admit(1, 5, 5), Err(Refusal::Gap { producer: name(), given: 5, next: 4 }));
        assert_eq!(admit(1, 2, 9), Err(Refusal::Reused { producer: name(), given: 2, chunk: chunk(2), next: 4 }));
        assert_eq!(admit(1, 0, 0), Err(Refusal::Forgotten { producer: name(), given: 0, next: 4 }));
        assert_eq!(admit(2, 4, 4), Err(Refusal::UnknownEpoch { producer: name(), given: 2, current: 1 }));
    }

    #[test]
    fn a_new_epoch_shuts_the_old_one_out_and_goes_on_counting() {
        let (mut state, id) = pipeline();
        opened(&mut state, &id);
        (1..=2).for_each(|sequence| pushed(&mut state, &id, sequence));
        let again = opened(&mut state, &id);
        assert_eq!((again.epoch, again.next), (2, 3));
        let admit = |epoch, sequence, number| admit(&state.pipelines[&id], &origin(epoch, sequence), &chunk(number));
        for sequence in 1..=4 {
            let stale = Refusal::StaleEpoch { producer: "kiosk".parse().unwrap(), given: 1, current: 2 };
            assert_eq!(admit(1, sequence, sequence), Err(stale));
        }
        assert_eq!((admit(2, 2, 2), admit(2, 3, 3)), (Ok(false), Ok(true)), "what the old one pushed last is known");
    }

    #[test]
    fn what_is_kept_of_a_producer_does_not_grow() {
        let (mut state, id) = pipeline();
        opened(&mut state, &id);
        let count = 3 * WINDOW as u64;
        (1..=count).for_each(|sequence| pushed(&mut state, &id, sequence));
        let known = &state.pipelines[&id].producers.values().next().unwrap();
        assert_eq!((known.recent.len(), known.next), (WINDOW, count + 1));
        let admit = |sequence| admit(&state.pipelines[&id], &origin(1, sequence), &chunk(sequence));
        let oldest = count - WINDOW as u64 + 1;
        assert_eq!(admit(oldest), Ok(false));
        assert!(matches!(admit(oldest - 1), Err(Refusal::Forgotten { .. })));
    }

    #[test]
    fn a_pipeline_has_so_many_producers_and_those_it_has_may_open_again() {
        let (mut state, id) = pipeline();
        let mut opened = |number: usize| {
            let (_, events) = open(&state, &id, &format!("kiosk-{number}").parse().unwrap())?;
            events.iter().for_each(|event| state.apply(event, 0).unwrap());
            Ok::<_, planning::Refusal>(())
        };
        (0..LIMIT).for_each(|number| opened(number).unwrap());
        assert!(matches!(opened(LIMIT), Err(planning::Refusal::Producer(Refusal::TooMany(_)))));
        opened(0).unwrap();
    }

    #[test]
    fn a_producer_that_nobody_opened_is_unknown() {
        let (state, id) = pipeline();
        let refused = admit(&state.pipelines[&id], &origin(1, 1), &chunk(1)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "producer `kiosk` was never opened; open it, and push under the epoch that it is given"
        );
    }
}
