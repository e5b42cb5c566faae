//! Selective backprop: which rows of a micro-batch are back-propagated (Jiang et al., 2019; Balles et al., 2023).
//!
//! A row's part in a choice is drawn for the row, not for its place, so that the order within a micro-batch changes
//! nothing. A row whose loss is no number is always chosen: the step then notices it.

use buffer::omp::{self, Options, Problem};
use buffer::products::Columns;
use domain::draw::Draw;
use domain::pipeline::{Rule, Selection, SelectionWeights};
use tch::{Kind, Tensor};

use crate::kept::numbers;

/// Losses that `sb-history` compares with.
const HISTORY: usize = 1024;

/// Rows of a micro-batch as the net sees them before any is chosen, without dropout, on the CPU.
pub struct Sight {
    /// (rows, width)
    pub features: Tensor,
    /// (rows, classes)
    pub logits: Tensor,
    /// (rows)
    pub labels: Tensor,
}

impl Sight {
    /// (rows): `−log p(y|x)`, nats.
    pub fn losses(&self) -> Tensor {
        self.logits.cross_entropy_loss(&self.labels, None::<&Tensor>, tch::Reduction::None, -100, 0.0)
    }

    /// The products of the rows' last-layer gradients, `(δδᵀ) ∘ (φφᵀ + 1)` with `δ = softmax(z) − e_y`: (rows, rows).
    pub fn gram(&self) -> Tensor {
        let delta = self.logits.softmax(-1, Kind::Double) - self.labels.one_hot(self.logits.size()[1]);
        let phi = self.features.to_kind(Kind::Double);
        delta.matmul(&delta.transpose(0, 1)) * (phi.matmul(&phi.transpose(0, 1)) + 1.0)
    }
}

/// Which rows, and how the loss takes them.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// In the order of the micro-batch.
    pub rows: Vec<usize>,
    /// One for each, adding up to about the micro-batch's rows. None where all count the same.
    pub weights: Option<Vec<f32>>,
    /// Rows that the chosen ones' mean is taken over, as a share of the micro-batch's.
    pub share: f64,
}

impl Chosen {
    fn all(rows: usize) -> Self {
        Self { rows: (0..rows).collect(), weights: None, share: 1.0 }
    }

    fn equal(mut rows: Vec<usize>, of: usize) -> Self {
        rows.sort_unstable();
        let share = rows.len() as f64 / of as f64;
        Self { rows, weights: None, share }
    }
}

pub struct Selector {
    selection: Selection,
    draw: Draw,
    /// The last losses, for `sb-history`; the newest last.
    history: Vec<f32>,
}

impl Selector {
    pub fn new(selection: Selection, draw: Draw, history: Vec<f32>) -> Self {
        Self { selection, draw, history }
    }

    pub fn is_all(&self) -> bool {
        self.selection.is_all()
    }

    /// Whether losses are to be remembered.
    pub fn remembers(&self) -> bool {
        !self.is_all() && self.selection.rule == Rule::SbHistory
    }

    pub fn looks(&self) -> bool {
        self.selection.looks()
    }

    pub fn history(&self) -> &[f32] {
        &self.history
    }

    /// Of all rows of a step.
    pub fn remember(&mut self, losses: &[f32]) {
        self.history.extend(losses.iter().filter(|loss| loss.is_finite()));
        let old = self.history.len().saturating_sub(HISTORY);
        self.history.drain(..old);
    }

    /// Out of the rows that stand at `positions`; `sight` where the rule [`looks`](Self::looks).
    pub fn choose(&self, step: u64, positions: &[i64], sight: Option<&Sight>) -> Chosen {
        let (rows, count) = (positions.len(), self.selection.count(positions.len()));
        if count == rows && self.selection.rule != Rule::SbHistory {
            return Chosen::all(rows);
        }
        let drawn = |stream: Draw| -> Vec<f64> {
            positions.iter().map(|&position| stream.at(position as u64).unit()).collect()
        };
        let stream = self.draw.at(step);
        let keys = drawn(stream);
        let Some(sight) = sight else { return Chosen::equal(lowest(&keys, count), rows) };
        let losses = numbers(&sight.losses());
        let broken: Vec<usize> = (0..rows).filter(|&row| !losses[row].is_finite()).collect();
        if !broken.is_empty() {
            return Chosen::equal(broken, rows);
        }
        match self.selection.rule {
            Rule::SbHistory => self.above_history(&losses, &keys),
            Rule::GradientMatching => self.matched(sight, &keys, count),
            Rule::SbFixed => {
                let odds = 1.0 / self.selection.keep.get() - 1.0;
                self.weighed(
                    sight,
                    by_percentile(&ascending(&losses, &keys), &drawn(stream.named("race")), odds, count),
                )
            }
            Rule::TopLoss => self.weighed(sight, ascending(&losses, &keys).split_off(rows - count)),
            Rule::All | Rule::Random => self.weighed(sight, lowest(&keys, count)),
        }
    }

    /// Each with probability `CDF(loss)^β`, β = 1/ρ − 1, so that a share ρ is chosen of losses like those before.
    ///
    /// Jiang et al. queue what is chosen until it fills a batch; here it trains at once, and counts as if ρ had been met.
    fn above_history(&self, losses: &[f32], keys: &[f64]) -> Chosen {
        let keep = self.selection.keep.get();
        let past = if self.history.is_empty() { losses } else { &self.history };
        let accepts = |row: &usize| {
            let below = past.iter().filter(|past| **past <= losses[*row]).count();
            keys[*row] < (below as f64 / past.len() as f64).powf(1.0 / keep - 1.0)
        };
        Chosen { rows: (0..losses.len()).filter(accepts).collect(), weights: None, share: keep }
    }

    /// By non-negative orthogonal matching pursuit. Any, where no gradient points anywhere.
    fn matched(&self, sight: &Sight, keys: &[f64], count: usize) -> Chosen {
        let rows = keys.len();
        // In the order of the keys, so that ties do not go by place.
        let order = lowest(keys, rows);
        let (gram, problem) = matching(sight, &order);
        let column = |at: usize| gram[at * rows..][..rows].to_vec();
        let options = Options { tolerance: 0.0, ..Options::new(count) };
        let coreset = omp::solve(&problem, &mut Columns::new(rows, &column), &options);
        let chosen: Vec<(usize, f64)> = coreset
            .support
            .iter()
            .map(|&at| order[at])
            .zip(coreset.weights)
            .filter(|(_, weight)| *weight > 0.0)
            .collect();
        match chosen.is_empty() {
            true => Chosen::equal(lowest(keys, count), rows),
            false => self.with_weights(chosen, rows),
        }
    }

    /// Rows that were chosen otherwise, with weights as asked for.
    fn weighed(&self, sight: &Sight, chosen: Vec<usize>) -> Chosen {
        let rows = sight.labels.numel();
        if self.selection.weights() == SelectionWeights::Equal {
            return Chosen::equal(chosen, rows);
        }
        let order: Vec<usize> = (0..rows).collect();
        let (gram, problem) = matching(sight, &order);
        let column = |at: usize| gram[at * rows..][..rows].to_vec();
        let (weights, _) = omp::weigh(&chosen, &problem, &Columns::new(rows, &column), 0.0);
        match weights.iter().any(|weight| *weight > 0.0) {
            true => self.with_weights(chosen.into_iter().zip(weights).collect(), rows),
            false => Chosen::equal(chosen, rows),
        }
    }

    /// Weights that add up to about 1 as the selection wants them.
    fn with_weights(&self, mut chosen: Vec<(usize, f64)>, rows: usize) -> Chosen {
        chosen.sort_unstable_by_key(|(row, _)| *row);
        let (picked, weights): (Vec<usize>, Vec<f64>) = chosen.into_iter().unzip();
        let scale = match self.selection.weights() {
            SelectionWeights::Equal => return Chosen::equal(picked, rows),
            SelectionWeights::Matched => rows as f64,
            SelectionWeights::Normalised => rows as f64 / weights.iter().sum::<f64>(),
        };
        let weights = weights.into_iter().map(|weight| (weight * scale) as f32).collect();
        Chosen { rows: picked, weights: Some(weights), share: 1.0 }
    }
}

/// The Gram matrix of rows in this order, and their mean as the target.
fn matching(sight: &Sight, order: &[usize]) -> (Vec<f64>, Problem) {
    let index = Tensor::from_slice(&order.iter().map(|&row| row as i64).collect::<Vec<_>>());
    let gram = sight.gram().index_select(0, &index).index_select(1, &index);
    let gram: Vec<f64> = Vec::try_from(gram.reshape([-1])).expect("a matrix of f64");
    let rows = order.len();
    let correlations: Vec<f64> = gram.chunks_exact(rows).map(|row| row.iter().sum::<f64>() / rows as f64).collect();
    let target_norm2 = correlations.iter().sum::<f64>() / rows as f64;
    (gram, Problem { correlations, target_norm2 })
}

/// By their losses; equal ones in the order of their keys.
fn ascending(losses: &[f32], keys: &[f64]) -> Vec<usize> {
    let mut order = lowest(keys, keys.len());
    order.sort_by(|&a, &b| losses[a].total_cmp(&losses[b]));
    order
}

/// A draw without replacement, a row's odds being its percentile's power. The lowest of `−ln(u)/p` are one with
/// probabilities ∝ p (Efraimidis and Spirakis, 2006).
fn by_percentile(ascending: &[usize], uniform: &[f64], power: f64, count: usize) -> Vec<usize> {
    let mut races = vec![0.0; ascending.len()];
    for (rank, &row) in ascending.iter().enumerate() {
        let percentile = (rank as f64 + 0.5) / ascending.len() as f64;
        races[row] = -(1.0 - uniform[row]).ln() / percentile.powf(power);
    }
    lowest(&races, count)
}

/// Where the `count` lowest stand, from the lowest.
fn lowest(values: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    order.truncate(count);
    order
}

#[cfg(test)]
mod tests;
