//! Which chunks wait to be compared with what their pipeline knew, and how others did.

use super::PipelineState;
use crate::chunk::{Chunk, ChunkState};
use crate::id::ChunkId;
use crate::shift::Measured;

/// Chunks that wait at most: where more come than evaluators can look at, the oldest are not compared.
const WAITING: usize = 64;
/// The newest chunks of which every test is kept; of others only p-values are.
const WHOLE: usize = 256;

impl PipelineState {
    /// Before there is a version there is nothing to compare with.
    pub(super) fn await_measure(&mut self, chunk: &ChunkId) {
        if self.tip.is_none() || !self.pipeline.data.shift {
            return;
        }
        self.unmeasured.extend(self.place(chunk));
        while self.unmeasured.len() > WAITING {
            self.unmeasured.pop_first();
        }
    }

    /// A failure leaves what was found before.
    pub(super) fn measured(&mut self, place: u64, measured: &Measured) {
        self.unmeasured.remove(&place);
        match (self.shifts.get_mut(&place), &measured.failure) {
            (Some(known), Some(_)) => known.failure = measured.failure.clone(),
            _ => drop(self.shifts.insert(place, measured.clone())),
        }
        if let Some((_, oldest)) = self.shifts.iter_mut().rev().nth(WHOLE) {
            oldest.shifts.clear();
        }
    }

    /// Where the chunk stands in `arrivals`.
    pub fn place(&self, chunk: &ChunkId) -> Option<u64> {
        self.arrivals.iter().rposition(|arrived| arrived == chunk).map(|place| place as u64)
    }

    /// How a chunk compared, if it did.
    pub fn shift(&self, chunk: &ChunkId) -> Option<&Measured> {
        if self.shifts.is_empty() {
            return None;
        }
        self.shifts.get(&self.place(chunk)?)
    }

    /// The chunk that was recorded at this place, if it waits to be compared and has rows.
    pub fn to_measure(&self, place: u64) -> Option<&Chunk> {
        let waits = self.pipeline.data.shift && self.unmeasured.contains(&place);
        let chunk = self.arrivals.get(place as usize).filter(|_| waits).and_then(|id| self.chunks.get(id))?;
        let is_away = matches!(chunk.state, ChunkState::Quarantined { .. } | ChunkState::Received);
        let has_rows = !chunk.train.is_empty() || !chunk.held_out.is_empty();
        (!is_away && has_rows).then_some(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{ObjectRef, Shard, Split};
    use crate::id::Version;
    use crate::pipeline::Pipeline;
    use crate::shift::{Against, Shift};

    fn with_chunks(number: usize, shift: bool) -> PipelineState {
        let data = serde_json::json!({"shift": shift});
        let spec = serde_json::json!({"name": "p", "model": "mlp:8", "labels": ["a"], "method": "ft", "data": data});
        let spec: Pipeline = serde_json::from_value(spec).unwrap();
        let mut current = PipelineState::new(spec);
        for number in 0..number {
            let object = ObjectRef { path: "x".into(), sha256: "0".into(), bytes: 1 };
            let chunk = Chunk::received(id(number), "t".parse().unwrap(), Split::Train, object.clone(), 0);
            let (train, state) = (vec![Shard::new(object, 1)], ChunkState::Sealed);
            current.receive(&Chunk { train, state, ..chunk });
        }
        current
    }

    fn id(number: usize) -> ChunkId {
        ChunkId(number.to_string())
    }

    fn found() -> Measured {
        let shifts = vec![Shift { against: Against::Buffer, tests: Vec::new() }];
        Measured::new(Version(1), &"t".parse().unwrap(), shifts)
    }

    #[test]
    fn the_newest_chunks_wait_once_there_is_a_version_and_until_they_are_measured() {
        let mut current = with_chunks(WAITING + 2, true);
        current.await_measure(&id(0));
        assert!(current.unmeasured.is_empty());
        current.tip = Some(Version(1));
        (0..WAITING + 2).for_each(|number| current.await_measure(&id(number)));
        let first = current.unmeasured.first().copied();
        assert_eq!((current.unmeasured.len(), current.to_measure(1), first), (WAITING, None, Some(2)));
        assert_eq!(current.to_measure(2).unwrap().id, id(2));
        current.measured(2, &found());
        assert!(current.to_measure(2).is_none() && current.shift(&id(2)).is_some());
        current.chunk(&id(3)).unwrap().state = ChunkState::Quarantined { reason: String::new() };
        assert!(current.to_measure(3).is_none());
    }

    #[test]
    fn nothing_waits_where_it_is_switched_off() {
        let mut current = with_chunks(1, false);
        current.tip = Some(Version(1));
        current.await_measure(&id(0));
        assert!(current.unmeasured.is_empty());
        current.unmeasured.insert(0);
        assert!(current.to_measure(0).is_none());
    }

    #[test]
    fn of_old_chunks_only_p_values_are_kept_and_a_failure_takes_nothing() {
        let mut current = with_chunks(WHOLE + 1, true);
        (0..=WHOLE).for_each(|place| current.measured(place as u64, &found()));
        assert!(current.shifts[&0].shifts.is_empty() && current.shifts[&1] == found());
        current.measured(1, &Measured::failed(Version(2), "why".to_owned()));
        assert_eq!(current.shifts[&1], Measured { failure: Some("why".to_owned()), ..found() });
    }
}
