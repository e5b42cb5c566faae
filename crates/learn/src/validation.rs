//! Rows set aside: which epoch did best on them, and whether to go on.

use collective::Collective;
use domain::pipeline::{Metric, Validation as Settings};
use tch::{Kind, Tensor};

use crate::descent::Descent;
use crate::{Carried, Error, Flat};

const SCORE: &str = "validation.score";
const EPOCH: &str = "validation.epoch";
const EPOCHS: &str = "validation.epochs";
const VALUES: &str = "validation.values";

pub struct Validation {
    settings: Settings,
    /// Where the rows stand in the pool.
    rows: Vec<i64>,
    /// Epochs looked at.
    epochs: u64,
    best: Option<Best>,
}

/// The epoch that did best.
pub struct Best {
    pub epoch: u64,
    /// Higher is better: the accuracy, or the loss's negative.
    pub score: f64,
    values: Tensor,
}

impl Validation {
    /// None if no row is set aside. `found` is what a checkpoint holds.
    pub fn new(settings: Settings, rows: Vec<i64>, found: Option<&Carried>) -> Option<Self> {
        let number = |name| found?.number(name);
        let best = || {
            let values = found?.0.get(VALUES)?.shallow_clone();
            Some(Best { epoch: number(EPOCH)? as u64, score: number(SCORE)?, values })
        };
        let epochs = number(EPOCHS).unwrap_or(0.0) as u64;
        (!rows.is_empty()).then(|| Self { settings, rows, epochs, best: best() })
    }

    /// After an epoch. All ranks go by what rank 0 finds.
    pub fn look(&mut self, descent: &Descent, weights: &Flat, collective: &dyn Collective) -> Result<(), Error> {
        let logits = descent.told_apart(&self.rows)?;
        // What ranks send each other is f32.
        let mut score = Tensor::from_slice(&[self.score(&logits, &descent.labels(&self.rows)) as f32]);
        if collective.world() > 1 {
            score = score.to_device(weights.values.device());
            collective.broadcast(&mut score, 0)?;
        }
        let score = score.double_value(&[0]);
        self.epochs += 1;
        if score.is_finite() && self.best.as_ref().is_none_or(|best| score > best.score) {
            self.best = Some(Best { epoch: self.epochs, score, values: weights.values.copy() });
        }
        Ok(())
    }

    fn score(&self, logits: &Tensor, labels: &Tensor) -> f64 {
        let score = match self.settings.metric {
            Metric::Loss => -logits.cross_entropy_for_logits(labels),
            Metric::Accuracy => logits.argmax(-1, false).eq_tensor(labels).to_kind(Kind::Double).mean(Kind::Double),
        };
        score.double_value(&[])
    }

    /// Whether as many epochs as are to be waited for have gone by without a better one.
    pub fn is_over(&self) -> bool {
        let since = self.epochs - self.best.as_ref().map_or(0, |best| best.epoch);
        self.settings.patience.is_some_and(|patience| since >= u64::from(patience.get()))
    }

    pub fn best(&self) -> Option<&Best> {
        self.best.as_ref()
    }

    /// Gives the weights back what they were after the best epoch.
    pub fn restore(&self, weights: &Flat) {
        if let Some(best) = &self.best {
            let _guard = tch::no_grad_guard();
            weights.values.shallow_clone().copy_(&best.values);
        }
    }

    /// What a checkpoint holds.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let number = |name: &str, value: f64| (name.to_owned(), Tensor::from_slice(&[value]).squeeze());
        let mut state = vec![number(EPOCHS, self.epochs as f64)];
        if let Some(best) = &self.best {
            state.extend([number(EPOCH, best.epoch as f64), number(SCORE, best.score)]);
            state.push((VALUES.to_owned(), best.values.shallow_clone()));
        }
        state
    }
}
