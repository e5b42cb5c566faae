//! The accuracy matrix R[update][task] and the figures read off it.
//!
//! Definitions as in Renate (Zappella et al., 2023) and Díaz-Rodríguez et al. (2018). Indices count from 0.

use serde::{Deserialize, Serialize};

/// Accuracy on every task after every update.
///
/// `rows[j][i]` is the accuracy on task `i` after update `j`; `None` where it was not measured.
/// Task `i` is the one that update `i` trains.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccuracyMatrix {
    pub rows: Vec<Vec<Option<f64>>>,
}

impl AccuracyMatrix {
    fn at(&self, update: usize, task: usize) -> Option<f64> {
        *self.rows.get(update)?.get(task)?
    }

    fn last(&self) -> Option<usize> {
        self.rows.len().checked_sub(1)
    }

    /// Mean over the tasks trained so far of the accuracy after `update`.
    pub fn average_after(&self, update: usize) -> Option<f64> {
        mean((0..=update).map(|task| self.at(update, task)))
    }

    /// `1/T Σ_i R[T][i]`.
    pub fn average_accuracy(&self) -> Option<f64> {
        self.average_after(self.last()?)
    }

    /// Mean over updates of the average accuracy after each.
    pub fn average_incremental_accuracy(&self) -> Option<f64> {
        mean((0..self.rows.len()).map(|update| self.average_after(update)))
    }

    /// `1/(T−1) Σ_{i<T} (max_{j<T} R[j][i] − R[T][i])`, the maximum over all earlier updates; 0 for one update.
    pub fn forgetting(&self) -> Option<f64> {
        let last = self.last()?;
        if last == 0 {
            return Some(0.0);
        }
        let best = |task| (0..last).filter_map(|update| self.at(update, task)).reduce(f64::max);
        mean((0..last).map(|task| Some(best(task)? - self.at(last, task)?)))
    }

    /// `1/(T−1) Σ_{i<T} (R[T][i] − R[i][i])`; none for one update.
    pub fn backward_transfer(&self) -> Option<f64> {
        let last = self.last()?;
        mean((0..last).map(|task| Some(self.at(last, task)? - self.at(task, task)?)))
    }

    /// `1/(T−1) Σ_{i≥1} (R[i−1][i] − b_i)`, where `b_i` is the accuracy at initialisation.
    pub fn forward_transfer(&self, initial: &[Option<f64>]) -> Option<f64> {
        let at_start = |task: usize| initial.get(task).copied().flatten();
        mean((1..self.rows.len()).map(|task| Some(self.at(task - 1, task)? - at_start(task)?)))
    }

    /// Mean of the diagonal: the accuracy on each task right after training on it.
    pub fn learning_accuracy(&self) -> Option<f64> {
        mean((0..self.rows.len()).map(|task| self.at(task, task)))
    }
}

/// None if there is nothing, or if anything is missing: a mean over fewer would be another figure.
fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.collect::<Option<_>>()?;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: &[&[f64]]) -> AccuracyMatrix {
        AccuracyMatrix { rows: rows.iter().map(|row| row.iter().copied().map(Some).collect()).collect() }
    }

    #[test]
    fn the_figures_of_a_matrix_worked_by_hand() {
        let r = matrix(&[&[0.9, 0.2, 0.1], &[0.7, 0.8, 0.3], &[0.5, 0.6, 1.0]]);
        let near =
            |given: Option<f64>, wanted: f64| assert!((given.unwrap() - wanted).abs() < 1e-12, "{given:?} {wanted}");
        near(r.average_accuracy(), 0.7);
        near(r.average_incremental_accuracy(), (0.9 + 0.75 + 0.7) / 3.0);
        near(r.forgetting(), (0.4 + 0.2) / 2.0);
        near(r.backward_transfer(), (-0.4 - 0.2) / 2.0);
        near(r.forward_transfer(&[Some(0.1); 3]), (0.1 + 0.2) / 2.0);
        near(r.learning_accuracy(), 0.9);
    }

    #[test]
    fn forgetting_is_at_least_minus_backward_transfer() {
        let r = matrix(&[&[0.5, 0.9], &[0.6, 0.4]]);
        assert!(r.forgetting() >= r.backward_transfer().map(|b| -b));
    }

    #[test]
    fn one_update_forgets_nothing_and_transfers_nothing() {
        let r = matrix(&[&[0.5]]);
        assert_eq!((r.forgetting(), r.backward_transfer()), (Some(0.0), None));
        assert_eq!(AccuracyMatrix::default().average_accuracy(), None);
    }
}
