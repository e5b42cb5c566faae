//! Super-ER (Renate): every term that replays, each on a batch of its own but for the copies', which shares the labels':
//! `L = CE(f(x), y) + α·MSE(f(x₁), z₁) + β·CE(f(x₂), y₂) + c·MSE(f(x₂), z*) + p·POD(h(x₃), h₃)`.
//!
//! An update begins with a shrink and a perturbation of the weights. What a term is, its own method says.

use domain::pipeline::{FeaturePooling, Pipeline};
use tch::Tensor;

use super::copies::Copies;
use super::terms::{cross_entropy, feature_distance, logit_distance, mean, normalized, row_distance};
use super::{Batch, End, Keeps, Learner, Start, State, Step, UpdateMethod};
use crate::{Error, Flat};

pub struct SuperReplay {
    alpha: f64,
    beta: f64,
    cls: f64,
    pod: f64,
    pooling: FeaturePooling,
    sum: bool,
    copies: Copies,
}

impl SuperReplay {
    pub fn new(pipeline: &Pipeline) -> Self {
        let number = |name| pipeline.parameter(name);
        Self {
            alpha: number("alpha"),
            beta: number("beta"),
            cls: number("cls"),
            pod: number("pod"),
            pooling: pipeline.loss.feature_pooling,
            sum: super::normalizes(pipeline),
            copies: Copies::new(pipeline),
        }
    }

    /// Whether logits, labels and features are replayed: a term without weight draws nothing.
    fn replays(&self) -> [bool; 3] {
        [self.alpha > 0.0, self.beta > 0.0 || self.cls > 0.0, self.pod > 0.0]
    }
}

impl UpdateMethod for SuperReplay {
    fn loss(&self, learner: &Learner, fresh: &Batch, memory: &[Batch]) -> Step {
        // Before the pass that is differentiated: the copies answer from the weights' own place.
        let labels = memory.get(usize::from(self.alpha > 0.0)).filter(|_| self.cls > 0.0);
        let taught = labels.filter(|batch| !batch.is_empty()).map(|batch| self.copies.taught(learner, batch));
        let batches: Vec<&Batch> = std::iter::once(fresh).chain(memory).collect();
        let seen = learner.observe_all(self.pooling, &batches);
        let mut replayed = memory.iter().zip(&seen[1..]);
        let [logits, labels, features] = self.replays().map(|draws| if draws { replayed.next() } else { None });

        let mut loss = cross_entropy(&seen[0].logits, fresh);
        if let Some((batch, seen)) = logits {
            loss += self.alpha * logit_distance(&seen.logits, batch);
        }
        if let Some((batch, seen)) = labels {
            loss += self.beta * cross_entropy(&seen.logits, batch);
            if let Some(taught) = taught {
                loss += self.cls * mean(row_distance(&seen.logits, &taught), batch);
            }
        }
        if let Some((batch, seen)) = features {
            loss += self.pod * feature_distance(&seen.levels, batch);
        }
        if !memory.is_empty() {
            loss = normalized(loss, self.sum, &[self.alpha, self.beta, self.cls, self.pod]);
        }
        let mut kept = seen.iter().map(|seen| self.keeps().of(seen));
        Step { loss, fresh: kept.next().expect("the new rows'"), replayed: kept.collect() }
    }

    fn draws(&self) -> usize {
        self.replays().into_iter().filter(|draws| *draws).count()
    }

    fn keeps(&self) -> Keeps {
        Keeps { features: Some(self.pooling), ..Keeps::LOGITS }
    }

    fn begin(&mut self, start: &Start, state: State) {
        self.copies.begin(start, state);
    }

    fn after_step(&mut self, values: &Tensor, step: u64) {
        self.copies.after_step(values, step);
    }

    fn deployed(&self) -> Option<&Tensor> {
        self.copies.deployed()
    }

    fn end(&mut self, weights: &Flat, _end: End) -> Result<(), Error> {
        self.copies.end(weights);
        Ok(())
    }

    fn state(&self) -> State {
        self.copies.state()
    }
}
