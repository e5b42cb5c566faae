//! CLS-ER (Arani et al., 2022): `L = CE(f(x), y) + α·CE(f(x′), y′) + β·MSE(f(x′), z*)`, where `z*` is what the surer of
//! two slow copies of the weights answers. The paper deploys the stable one.

use domain::pipeline::Pipeline;
use tch::Tensor;

use super::copies::Copies;
use super::terms::{cross_entropy, mean, normalized, row_distance};
use super::{Batch, End, Learner, Start, State, Step, UpdateMethod};
use crate::{Error, Flat};

pub struct ComplementarySystems {
    alpha: f64,
    beta: f64,
    sum: bool,
    copies: Copies,
}

impl ComplementarySystems {
    pub fn new(pipeline: &Pipeline) -> Self {
        let number = |name| pipeline.parameter(name);
        let (sum, copies) = (super::normalizes(pipeline), Copies::new(pipeline));
        Self { alpha: number("alpha"), beta: number("beta"), sum, copies }
    }
}

impl UpdateMethod for ComplementarySystems {
    fn loss(&self, learner: &Learner, fresh: &Batch, memory: &[Batch]) -> Step {
        let [memory] = memory else {
            let logits = learner.forward(&fresh.inputs);
            return Step::new(cross_entropy(&logits, fresh), logits);
        };
        let taught = (self.beta > 0.0 && !memory.is_empty()).then(|| self.copies.taught(learner, memory));
        let [logits, remembered] = learner.forward_all([fresh, memory]);
        let mut loss = cross_entropy(&logits, fresh) + self.alpha * cross_entropy(&remembered, memory);
        if let Some(taught) = taught {
            loss += self.beta * mean(row_distance(&remembered, &taught), memory);
        }
        Step::new(normalized(loss, self.sum, &[self.alpha, self.beta]), logits)
    }

    fn draws(&self) -> usize {
        usize::from(self.alpha > 0.0 || self.beta > 0.0)
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
