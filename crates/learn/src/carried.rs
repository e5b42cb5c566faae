//! What an update hands to the next besides its weights: the method's tensors, and what memory keeps of its rows.

use std::collections::BTreeMap;
use std::path::Path;

use domain::buffer::Snapshot;
use tch::Tensor;

use crate::kept;
use crate::memory::Memory;
use crate::method::State;
use crate::{Error, Flat, files};

/// Among a version's files, where there is something to hand over.
pub const LEARNER: &str = "learner.safetensors";
const LOGITS: &str = "memory.logits";
const FEATURES: &str = "memory.features";
const TARGET: &str = "memory.target";
const METHOD: &str = "method.";

/// By name, as files hold them.
#[derive(Debug, Default)]
pub struct Carried(pub BTreeMap<String, Tensor>);

impl Carried {
    /// A tensor as long as the weights is written leaf by leaf, so that a head may grow.
    pub fn new(state: State, memory: &Memory, weights: &Flat) -> Self {
        let target = memory.target.as_ref().map(Tensor::shallow_clone);
        let (features, logits) = memory.kept.as_ref().map_or((None, None), |kept| (kept.features(), kept.logits()));
        let named = [(FEATURES, features), (LOGITS, logits), (TARGET, target)];
        let mut tensors: BTreeMap<String, Tensor> =
            named.into_iter().filter_map(|(name, tensor)| Some((name.to_owned(), tensor?))).collect();
        for (key, tensor) in state {
            match tensor.numel() == weights.values.numel() && tensor.dim() == 1 {
                true => tensors.extend(
                    weights.split(&tensor).into_iter().map(|(leaf, part)| (format!("{METHOD}{key}/{leaf}"), part)),
                ),
                false => drop(tensors.insert(format!("{METHOD}{key}"), tensor)),
            }
        }
        Self(tensors)
    }

    /// What the version in `folder` left; nothing if it left nothing.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let file = folder.join(LEARNER);
        if !file.exists() {
            return Ok(Self::default());
        }
        Ok(Self(files::read_tensors(&file)?))
    }

    /// Of each slot: pooled features (slots, columns) and logits (slots, classes).
    pub fn kept(&self) -> (Option<&Tensor>, Option<&Tensor>) {
        (self.0.get(FEATURES), self.0.get(LOGITS))
    }

    /// A single number.
    pub fn number(&self, name: &str) -> Option<f64> {
        Some(self.0.get(name)?.reshape([-1]).double_value(&[0]))
    }

    /// The gradient that a matching coreset stands for: (draws, classes, width + 1)
    pub fn target(&self) -> Option<Tensor> {
        self.0.get(TARGET).map(Tensor::shallow_clone)
    }

    /// The same for a snapshot that keeps some of the slots of `before`.
    pub fn follow(&mut self, before: &Snapshot, after: &Snapshot) {
        if before.slots == after.slots {
            return;
        }
        for name in [FEATURES, LOGITS] {
            if let Some(stored) = self.0.get_mut(name) {
                *stored = kept::follow(stored, before, after);
            }
        }
    }

    /// The method's tensors, laid out as `weights` are. One that does not fit them was another adapter's.
    pub fn state(&self, weights: &Flat) -> State {
        let names = self.0.keys().filter_map(|name| name.strip_prefix(METHOD));
        let keys: std::collections::BTreeSet<&str> = names.map(|name| name.split('/').next().unwrap_or(name)).collect();
        let tensor = |key: &str| match self.0.get(&format!("{METHOD}{key}")) {
            Some(whole) => Some(whole.to_device(weights.values.device())),
            None => weights.join(|leaf| Some(self.0.get(&format!("{METHOD}{key}/{leaf}"))?.shallow_clone())),
        };
        keys.into_iter().filter_map(|key| Some((key.to_owned(), tensor(key)?))).collect()
    }
}
