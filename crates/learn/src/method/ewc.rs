//! Elastic weight consolidation: `L = CE(f(x), y) + λ/2 Σ_t Σ_i F_{t,i} (θ_i − θ*_{t,i})²`, where `F_t` is the diagonal
//! of the empirical Fisher information after update t and `θ*_t` the weights then (Kirkpatrick et al., 2017).
//!
//! Online (Schwarz et al., 2018): one penalty, around the last weights, with `F ← γ·F + F_t`. `F_t` is the mean of
//! squared gradients of `log p(y|x)` over [`ROWS`] rows of the chunk at most. Avalanche's λ, which Renate takes over, is
//! half of this one.

use domain::draw::Draw;
use tch::Tensor;

use super::terms::cross_entropy;
use super::{Batch, End, Learner, Start, State, Step, UpdateMethod};
use crate::{Error, Flat};

/// Rows whose gradients are squared, one backward pass each.
const ROWS: usize = 1024;
const FISHER: &str = "fisher";
const ANCHOR: &str = "anchor";

pub struct Consolidation {
    lambda: f64,
    /// γ; None keeps a penalty for each update.
    decay: Option<f64>,
    penalties: Vec<Penalty>,
    draw: Draw,
}

/// All flat, like the weights.
struct Penalty {
    fisher: Tensor,
    anchor: Tensor,
}

impl Consolidation {
    pub fn new(lambda: f64, decay: Option<f64>) -> Self {
        Self { lambda, decay, penalties: Vec::new(), draw: Draw::new(0) }
    }

    fn fisher(&self, End { gradient, fresh }: End) -> Result<Tensor, Error> {
        let rows = self.draw.permutation(fresh);
        let rows = &rows[..fresh.min(ROWS)];
        let mut sum: Option<Tensor> = None;
        for &row in rows {
            let square = gradient(row)?.square();
            sum = Some(sum.map_or_else(|| square.copy(), |sum| sum + &square));
        }
        Ok(sum.ok_or(Error::NoRows { purpose: "take the Fisher information of" })? / rows.len() as f64)
    }
}

fn name(kind: &str, update: usize) -> String {
    format!("{kind}.{update}")
}

impl UpdateMethod for Consolidation {
    fn loss(&self, learner: &Learner, fresh: &Batch, _memory: &[Batch]) -> Step {
        let logits = learner.forward(&fresh.inputs);
        Step::new(cross_entropy(&logits, fresh), logits)
    }

    fn begin(&mut self, start: &Start, state: State) {
        self.draw = start.draw;
        // A class that came since pulls at nothing.
        let read = |kind: &str, number: usize| Some(state.get(&name(kind, number))?.nan_to_num(0.0, 0.0, 0.0));
        self.penalties = (0..)
            .map_while(|number| Some(Penalty { fisher: read(FISHER, number)?, anchor: read(ANCHOR, number)? }))
            .collect();
    }

    /// `λ Σ F·(θ − θ*)`
    fn pull(&self, values: &Tensor) -> Option<(Tensor, f64)> {
        let mut pulls = self.penalties.iter().map(|penalty| {
            let away = values - &penalty.anchor;
            let gradient = &penalty.fisher * &away * self.lambda;
            let value = 0.5 * (&gradient * &away).sum(tch::Kind::Double).double_value(&[]);
            (gradient, value)
        });
        let first = pulls.next()?;
        Some(pulls.fold(first, |(sum, total), (gradient, value)| (sum + gradient, total + value)))
    }

    fn end(&mut self, weights: &Flat, end: End) -> Result<(), Error> {
        let (mut fisher, anchor) = (self.fisher(end)?, weights.values.copy());
        if let Some(gamma) = self.decay {
            // More than one, if `ewc` left them.
            self.penalties.drain(..).for_each(|before| fisher += before.fisher * gamma);
        }
        self.penalties.push(Penalty { fisher, anchor });
        Ok(())
    }

    fn state(&self) -> State {
        let tensors = self.penalties.iter().enumerate().flat_map(|(number, penalty)| {
            [(name(FISHER, number), &penalty.fisher), (name(ANCHOR, number), &penalty.anchor)]
        });
        tensors.map(|(name, tensor)| (name, tensor.shallow_clone())).collect()
    }
}
