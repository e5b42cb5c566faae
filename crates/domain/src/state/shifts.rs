//! Which chunks wait to be compared with what their pipeline knew, and how others did.

use super::PipelineState;
use crate::chunk::Chunk;
use crate::id::ChunkId;
use crate::shift::Measured;

/// Chunks that wait at most: where more come than evaluators can look at, the oldest are not compared.
const WAITING: usize = 64;

impl PipelineState {
    /// Before there is a version there is nothing to compare with.
    pub(super) fn await_measure(&mut self, chunk: &ChunkId) {
        if self.tip.is_none() || !self.pipeline.data.shift {
            return;
        }
        let place = self.arrivals.iter().rposition(|arrived| arrived == chunk);
        self.unmeasured.extend(place.map(|place| place as u64));
        while self.unmeasured.len() > WAITING {
            self.unmeasured.pop_first();
        }
    }

    pub(super) fn measured(&mut self, chunk: &ChunkId, measured: &Measured) {
        self.unmeasured.retain(|&place| self.arrivals.get(place as usize) != Some(chunk));
        self.shifts.insert(chunk.clone(), measured.clone());
    }

    /// The chunk that was recorded at this place, if it waits to be compared.
    pub fn to_measure(&self, place: u64) -> Option<&Chunk> {
        let waits = self.unmeasured.contains(&place);
        self.arrivals.get(place as usize).filter(|_| waits).and_then(|id| self.chunks.get(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{ObjectRef, Shard, Split};
    use crate::id::Version;
    use crate::pipeline::Pipeline;

    fn with_chunks(number: usize, shift: bool) -> PipelineState {
        let data = serde_json::json!({"shift": shift});
        let spec = serde_json::json!({"name": "p", "model": "mlp:8", "labels": ["a"], "method": "ft", "data": data});
        let spec: Pipeline = serde_json::from_value(spec).unwrap();
        let mut current = PipelineState::new(spec);
        for number in 0..number {
            let object = ObjectRef { path: "x".into(), sha256: "0".into(), bytes: 1 };
            let id = ChunkId(number.to_string());
            let chunk = Chunk::received(id, "t".parse().unwrap(), Split::Train, object.clone(), 0);
            current.receive(&Chunk { train: vec![Shard::new(object, 1)], ..chunk });
        }
        current
    }

    #[test]
    fn the_newest_chunks_wait_once_there_is_a_version_and_until_they_are_measured() {
        let mut current = with_chunks(WAITING + 2, true);
        let id = |number: usize| ChunkId(number.to_string());
        current.await_measure(&id(0));
        assert!(current.unmeasured.is_empty());
        current.tip = Some(Version(1));
        (0..WAITING + 2).for_each(|number| current.await_measure(&id(number)));
        assert_eq!(
            (current.unmeasured.len(), current.to_measure(1), current.unmeasured.first()),
            (WAITING, None, Some(&2))
        );
        assert_eq!(current.to_measure(2).unwrap().id, id(2));
        current.measured(&id(2), &Measured { version: Version(1), shifts: Vec::new(), failure: None });
        assert!(current.to_measure(2).is_none() && current.shifts.contains_key(&id(2)));
    }

    #[test]
    fn nothing_waits_where_it_is_switched_off() {
        let mut current = with_chunks(1, false);
        current.tip = Some(Version(1));
        current.await_measure(&ChunkId("0".to_owned()));
        assert!(current.unmeasured.is_empty());
    }
}
