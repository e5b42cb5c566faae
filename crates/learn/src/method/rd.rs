//! Repeated distillation (Renate): an expert learns the chunk from the base's weights; memory takes the chunk with the
//! expert's logits; a model from the base's weights learns memory's logits, and memory then keeps the model's own.
//!
//! `L = ½·mean_c (z_c − (z°_c − mean_c z°))²` over remembered rows: adding a number to all of a row's `z°` changes nothing.

use tch::{Kind, Tensor};

use super::terms::{cross_entropy, mean, row_distance};
use super::{Batch, Keeps, Learner, Step, UpdateMethod};

pub struct RepeatedDistillation;

impl UpdateMethod for RepeatedDistillation {
    fn loss(&self, learner: &Learner, rows: &Batch, _memory: &[Batch]) -> Step {
        let logits = learner.forward(&rows.inputs);
        let loss = match &rows.kept {
            None => cross_entropy(&logits, rows),
            Some(stored) => 0.5 * mean(row_distance(&logits, &centred(stored)), rows),
        };
        Step::new(loss, logits)
    }

    fn keeps(&self) -> Keeps {
        Keeps { refreshed: true, ..Keeps::LOGITS }
    }
}

/// Each row less the mean of its known classes.
fn centred(stored: &Tensor) -> Tensor {
    stored - stored.nanmean(&[1i64][..], true, Kind::Float)
}
