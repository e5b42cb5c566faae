//! Which copies of erased rows workers have been told to remove.

use std::collections::BTreeMap;

use domain::id::PipelineId;
use domain::state::State;

/// Erasures told of, by pipeline.
#[derive(Default)]
pub struct Told(BTreeMap<PipelineId, usize>);

impl Told {
    /// SHA-256 of what was erased since it was asked last.
    pub fn next(&mut self, state: &State) -> Vec<String> {
        let mut copies = Vec::new();
        for (id, current) in state.pipelines.iter().filter(|(_, current)| !current.erasures.is_empty()) {
            let told = self.0.entry(id.clone()).or_default();
            copies.extend(current.erasures.iter().skip(*told).flat_map(|erasure| erasure.copies.clone()));
            *told = current.erasures.len();
        }
        copies
    }
}
