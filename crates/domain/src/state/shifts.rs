//! Which chunks wait to be compared with what their pipeline knew, and how others did.

use super::PipelineState;
use crate::chunk::{Chunk, ChunkState};
use crate::id::ChunkId;
use crate::shift::Measured;

/// Of the newest chunks, so many wait to be compared: where more come than evaluators can look at, the oldest are not.
const WAITING: u64 = 64;
/// The newest chunks of which every test is kept; of others only p-values are.
const WHOLE: usize = 256;

impl PipelineState {
    /// A failure leaves what was found before.
    pub(super) fn measured(&mut self, place: u64, measured: &Measured) {
        match (self.shifts.get_mut(&place), &measured.failure) {
            (Some(known), Some(_)) => {
                (known.failure, known.labelled) = (measured.failure.clone(), measured.labelled);
            }
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

    /// Places in `arrivals` of chunks that may wait to be compared.
    pub fn newest(&self) -> std::ops::Range<u64> {
        let all = self.arrivals.len() as u64;
        all.saturating_sub(WAITING)..all
    }

    /// The chunk that was recorded at this place, if it has rows and is not compared yet as it is by now.
    pub fn to_measure(&self, place: u64) -> Option<&Chunk> {
        if !self.pipeline.data.shift || !self.newest().contains(&place) {
            return None;
        }
        let chunk = self.chunks.get(self.arrivals.get(place as usize)?)?;
        let is_away = matches!(chunk.state, ChunkState::Quarantined { .. } | ChunkState::Received);
        let has_rows = !chunk.train.is_empty() || !chunk.held_out.is_empty();
        let known = self.shifts.get(&place).is_some_and(|known| known.labelled || !chunk.has_labels());
        (!is_away && has_rows && !known).then_some(chunk)
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
    fn the_newest_chunks_wait_until_they_are_measured_and_again_once_they_have_labels() {
        let mut current = with_chunks(WAITING as usize + 2, true);
        assert!(current.to_measure(1).is_none() && current.to_measure(WAITING + 2).is_none());
        assert_eq!(current.to_measure(2).unwrap().id, id(2));
        current.chunk(&id(2)).unwrap().state = ChunkState::Labelling { until: 9 };
        current.measured(2, &found());
        assert!(current.to_measure(2).is_none() && current.shift(&id(2)).is_some());
        current.chunk(&id(2)).unwrap().state = ChunkState::Sealed;
        assert!(current.to_measure(2).is_some());
        current.measured(2, &Measured { labelled: true, ..found() });
        assert!(current.to_measure(2).is_none());
        current.chunk(&id(3)).unwrap().state = ChunkState::Quarantined { reason: String::new() };
        assert!(current.to_measure(3).is_none());
    }

    #[test]
    fn nothing_waits_where_it_is_switched_off() {
        assert!(with_chunks(1, true).to_measure(0).is_some() && with_chunks(1, false).to_measure(0).is_none());
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
