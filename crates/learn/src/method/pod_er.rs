//! Experience replay with pooled output distillation, as Renate has it: `L = CE(f(x), y) + α·POD(h(x′), h°)` with
//! `POD = 1/L Σ_l ‖h_l − h°_l‖`, where `h°` are the pooled features that `x′` had when it entered memory (Douillard et
//! al., 2020, whose teacher is the last model instead).

use domain::pipeline::{FeaturePooling, Pipeline};

use super::terms::{cross_entropy, feature_distance, normalized, times};
use super::{Batch, Keeps, Learner, Step, UpdateMethod};

pub struct PooledReplay {
    alpha: f64,
    pooling: FeaturePooling,
    sum: bool,
}

impl PooledReplay {
    pub fn new(pipeline: &Pipeline) -> Self {
        let (pooling, sum) = (pipeline.loss.feature_pooling, super::normalizes(pipeline));
        Self { alpha: pipeline.parameter("alpha"), pooling, sum }
    }
}

impl UpdateMethod for PooledReplay {
    fn loss(&self, learner: &Learner, fresh: &Batch, memory: &[Batch]) -> Step {
        let batches: Vec<&Batch> = std::iter::once(fresh).chain(memory).collect();
        let mut seen = learner.observe_all(self.pooling, &batches);
        let mut loss = cross_entropy(&seen[0].logits, fresh);
        if let [memory] = memory {
            let distance = feature_distance(&seen[1].levels, memory);
            loss = normalized(loss + times(self.alpha, distance), self.sum, &[self.alpha]);
        }
        let replayed = seen.drain(1..).map(|seen| self.keeps().of(&seen)).collect();
        Step { loss, fresh: self.keeps().of(&seen[0]), replayed }
    }

    fn draws(&self) -> usize {
        usize::from(self.alpha > 0.0)
    }

    fn keeps(&self) -> Keeps {
        Keeps { features: Some(self.pooling), ..Keeps::NOTHING }
    }
}
