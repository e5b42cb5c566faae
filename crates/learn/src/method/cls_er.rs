//! CLS-ER (Arani et al., 2022): `L = CE(f(x), y) + α·CE(f(x′), y′) + β·MSE(f(x′), z*)`. Two averages of the weights, a
//! plastic and a slower stable one, teach: `z*` is a row's logits by the stable one where that is surer of `y′`, else by
//! the plastic one.
//!
//! After step i each average takes the weights with its own frequency: `θ_ema ← d·θ_ema + (1 − d)·θ` with
//! `d = min(1 − 1/(i + 1), decay)`, i counting all updates. The paper deploys the stable average.

use domain::draw::Draw;
use domain::pipeline::{Deploys, Pipeline};
use tch::{Kind, Tensor};

use super::terms::{cross_entropy, mean, normalized, row_distance};
use super::{Batch, End, Learner, Start, State, Step, UpdateMethod};
use crate::{Error, Flat};

const STEPS: &str = "steps";
/// The weights that trained, where others are deployed.
const WORKING: &str = "working";

pub struct ComplementarySystems {
    alpha: f64,
    beta: f64,
    sum: bool,
    deploys: Deploys,
    plastic: Average,
    stable: Average,
    /// Of all updates.
    steps: f64,
    working: Option<Tensor>,
    draw: Draw,
}

struct Average {
    name: &'static str,
    decay: f64,
    frequency: f64,
    /// Flat, like the weights.
    values: Tensor,
}

impl Average {
    fn new(name: &'static str, pipeline: &Pipeline) -> Self {
        let number = |of: &str| pipeline.parameter(&format!("{name}_{of}"));
        Self { name, decay: number("decay"), frequency: number("frequency"), values: Tensor::new() }
    }

    fn begin(&mut self, start: &Start, state: &mut State) {
        let now = &start.weights.values;
        self.values = match state.remove(self.name) {
            Some(kept) => kept.where_self(&kept.isfinite(), now),
            None => now.copy(),
        };
    }

    fn after_step(&mut self, values: &Tensor, steps: f64, draw: Draw) {
        if draw.named(self.name).unit() < self.frequency {
            let decay = self.decay.min(1.0 - 1.0 / (steps + 1.0));
            let _ = self.values.lerp_(values, 1.0 - decay);
        }
    }
}

impl ComplementarySystems {
    pub fn new(pipeline: &Pipeline) -> Self {
        Self {
            alpha: pipeline.parameter("alpha"),
            beta: pipeline.parameter("beta"),
            sum: super::normalizes(pipeline),
            deploys: pipeline.loss.deploys,
            plastic: Average::new("plastic", pipeline),
            stable: Average::new("stable", pipeline),
            steps: 0.0,
            working: None,
            draw: Draw::new(0),
        }
    }

    /// `z*`
    fn taught(&self, learner: &Learner, memory: &Batch) -> Tensor {
        let [plastic, stable] = [&self.plastic, &self.stable].map(|own| learner.asked(&own.values, &memory.inputs));
        let sure = |z: &Tensor| z.softmax(-1, Kind::Float).gather(1, &memory.labels.unsqueeze(1), false);
        stable.where_self(&sure(&stable).gt_tensor(&sure(&plastic)), &plastic)
    }
}

impl UpdateMethod for ComplementarySystems {
    fn loss(&self, learner: &Learner, fresh: &Batch, memory: &[Batch]) -> Step {
        let [memory] = memory else {
            let logits = learner.forward(&fresh.inputs);
            return Step { loss: cross_entropy(&logits, fresh), logits };
        };
        let taught = (self.beta > 0.0 && !memory.is_empty()).then(|| self.taught(learner, memory));
        let [logits, remembered] = learner.forward_all([fresh, memory]);
        let mut loss = cross_entropy(&logits, fresh) + self.alpha * cross_entropy(&remembered, memory);
        if let Some(taught) = taught {
            loss += self.beta * mean(row_distance(&remembered, &taught), memory);
        }
        Step { loss: normalized(loss, self.sum, &[self.alpha, self.beta]), logits }
    }

    fn draws(&self) -> usize {
        usize::from(self.alpha > 0.0 || self.beta > 0.0)
    }

    fn begin(&mut self, start: &Start, mut state: State) {
        let _guard = tch::no_grad_guard();
        self.draw = start.draw;
        self.steps = state.get(STEPS).map_or(0.0, |steps| steps.double_value(&[]));
        if let Some(working) = state.remove(WORKING) {
            let now = &start.weights.values;
            now.shallow_clone().copy_(&working.where_self(&working.isfinite(), now));
        }
        self.plastic.begin(start, &mut state);
        self.stable.begin(start, &mut state);
    }

    fn after_step(&mut self, values: &Tensor, step: u64) {
        let _guard = tch::no_grad_guard();
        self.steps += 1.0;
        let draw = self.draw.at(step);
        self.plastic.after_step(values, self.steps, draw);
        self.stable.after_step(values, self.steps, draw);
    }

    fn end(&mut self, weights: &Flat, _end: End) -> Result<(), Error> {
        if self.deploys == Deploys::Stable {
            let _guard = tch::no_grad_guard();
            self.working = Some(weights.values.copy());
            weights.values.shallow_clone().copy_(&self.stable.values);
        }
        Ok(())
    }

    fn state(&self) -> State {
        let averages = [&self.plastic, &self.stable].map(|own| (own.name.to_owned(), own.values.shallow_clone()));
        let working = self.working.as_ref().map(|values| (WORKING.to_owned(), values.shallow_clone()));
        let steps = (STEPS.to_owned(), Tensor::from(self.steps).to_kind(Kind::Float));
        averages.into_iter().chain(working).chain([steps]).collect()
    }
}
