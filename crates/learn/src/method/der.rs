//! Dark experience replay (Buzzega et al., 2020): `L = CE(f(x), y) + α·MSE(f(x′), z′)`, where `z′` are the logits that
//! `x′` had when it entered memory. DER++ adds `β·CE(f(x″), y″)`, with `(x″, y″)` drawn on its own.
//!
//! Renate (Zappella et al., 2023) draws once for both terms, and divides by `1 + α + β`.

use domain::pipeline::{Method, Pipeline, ReplayDraws};

use super::terms::{cross_entropy, logit_distance, normalized};
use super::{Batch, Keeps, Learner, Step, UpdateMethod};

pub struct DarkReplay {
    alpha: f64,
    /// 0 in DER.
    beta: f64,
    /// One draw for both terms.
    shared: bool,
    sum: bool,
}

impl DarkReplay {
    pub fn new(pipeline: &Pipeline) -> Self {
        let labels = pipeline.method == Method::DerPlusPlus;
        Self {
            alpha: pipeline.parameter("alpha"),
            beta: if labels { pipeline.parameter("beta") } else { 0.0 },
            shared: pipeline.loss.replay_draws == ReplayDraws::Shared,
            sum: super::normalizes(pipeline),
        }
    }
}

impl UpdateMethod for DarkReplay {
    fn loss(&self, learner: &Learner, fresh: &Batch, memory: &[Batch]) -> Step {
        let (logits, loss, replayed) = match memory {
            [] => {
                let logits = learner.forward(&fresh.inputs);
                return Step::new(cross_entropy(&logits, fresh), logits);
            }
            [one] => {
                let [logits, all] = learner.forward_all([fresh, one]);
                let loss = self.alpha * logit_distance(&all, one) + self.beta * cross_entropy(&all, one);
                (logits, loss, vec![all])
            }
            [first, second, ..] => {
                let [logits, one, two] = learner.forward_all([fresh, first, second]);
                let loss = self.alpha * logit_distance(&one, first) + self.beta * cross_entropy(&two, second);
                (logits, loss, vec![one, two])
            }
        };
        let loss = normalized(cross_entropy(&logits, fresh) + loss, self.sum, &[self.alpha, self.beta]);
        Step { loss, fresh: logits, replayed }
    }

    /// A term without weight draws nothing.
    fn draws(&self) -> usize {
        let terms = usize::from(self.alpha > 0.0) + usize::from(self.beta > 0.0);
        if self.shared { terms.min(1) } else { terms }
    }

    fn keeps(&self) -> Keeps {
        Keeps::LOGITS
    }
}
