//! Offline experience replay (Renate): `L = a·CE(f(x), y) + (1 − a)·CE(f(x′), y′)` with `a = n_t / Σ_{s≤t} n_s`, so that
//! each term weighs what the rows it stands for would in joint training. Memory takes the chunk after the last step.

use super::terms::cross_entropy;
use super::{Batch, Learner, Start, State, Step, UpdateMethod};

#[derive(Default)]
pub struct OfflineReplay {
    /// a
    share: f64,
}

impl UpdateMethod for OfflineReplay {
    fn loss(&self, learner: &Learner, fresh: &Batch, memory: &[Batch]) -> Step {
        let [memory] = memory else {
            let logits = learner.forward(&fresh.inputs);
            return Step::new(cross_entropy(&logits, fresh), logits);
        };
        let [logits, remembered] = learner.forward_all([fresh, memory]);
        let loss = self.share * cross_entropy(&logits, fresh) + (1.0 - self.share) * cross_entropy(&remembered, memory);
        Step::new(loss, logits)
    }

    fn begin(&mut self, start: &Start, _state: State) {
        let before: u64 = start.seen.iter().sum();
        self.share = start.fresh as f64 / (before as f64 + start.fresh as f64);
    }
}
