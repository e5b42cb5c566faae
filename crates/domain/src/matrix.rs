//! The accuracy matrix R[update][task] and the figures read off it.
//!
//! Definitions as in Renate (Zappella et al., 2023) and Díaz-Rodríguez et al. (2018). Indices count from 0.

use serde::Serialize;

/// Accuracy on every task after every update, T updates in all.
///
/// Where update `i` trains task `i` and nothing else, as in a benchmark, the figures are those of the papers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct AccuracyMatrix {
    /// `rows[j][i]` is the accuracy on task `i` after update `j`; `None` where it was not measured.
    pub rows: Vec<Vec<Option<f64>>>,
    /// u(i), the first update that trains task `i`; `None` where none does yet.
    #[serde(skip)]
    learned: Vec<Option<usize>>,
}

impl AccuracyMatrix {
    /// `learned[i]` is the first update that trains task `i`.
    pub fn new(rows: Vec<Vec<Option<f64>>>, learned: Vec<Option<usize>>) -> Self {
        Self { rows, learned }
    }

    /// Update `i` trains task `i`.
    pub fn of_stream(rows: Vec<Vec<Option<f64>>>) -> Self {
        let learned = (0..rows.len()).map(Some).collect();
        Self { rows, learned }
    }

    /// One update more of a stream.
    pub fn push(&mut self, row: Vec<Option<f64>>) {
        self.learned.push(Some(self.rows.len()));
        self.rows.push(row);
    }

    fn at(&self, update: usize, task: usize) -> Option<f64> {
        *self.rows.get(update)?.get(task)?
    }

    fn last(&self) -> Option<usize> {
        self.rows.len().checked_sub(1)
    }

    /// Each trained task with the first update that trains it.
    fn tasks(&self) -> impl Iterator<Item = (usize, usize)> {
        self.learned.iter().enumerate().filter_map(|(task, update)| Some((task, (*update)?)))
    }

    /// Tasks that an update before `end` trains.
    fn trained_before(&self, end: usize) -> impl Iterator<Item = (usize, usize)> {
        self.tasks().filter(move |(_, learned)| *learned < end)
    }

    /// Mean over the tasks trained so far of the accuracy after `update`.
    pub fn average_after(&self, update: usize) -> Option<f64> {
        mean(self.trained_before(update + 1).map(|(task, _)| self.at(update, task)))
    }

    /// `1/T Σ_i R[T][i]`.
    pub fn average_accuracy(&self) -> Option<f64> {
        self.average_after(self.last()?)
    }

    /// `Σ_i n_i R[T][i] / Σ_i n_i`: each item weighs the same, so large tasks weigh more. `items[i]` is n_i.
    pub fn micro_average_accuracy(&self, items: &[u64]) -> Option<f64> {
        let last = self.last()?;
        let sizes =
            self.trained_before(last + 1).map(|(task, _)| Some((*items.get(task)? as f64, self.at(last, task)?)));
        let sizes: Vec<(f64, f64)> = sizes.collect::<Option<_>>()?;
        let all: f64 = sizes.iter().map(|(n, _)| n).sum();
        (all > 0.0).then(|| sizes.iter().map(|(n, accuracy)| n * accuracy).sum::<f64>() / all)
    }

    /// Mean over updates of the average accuracy after each.
    pub fn average_incremental_accuracy(&self) -> Option<f64> {
        mean((0..self.rows.len()).map(|update| self.average_after(update)))
    }

    /// Mean over the tasks trained before the last update of `max_{j<T} R[j][i] − R[T][i]`, the maximum over all earlier
    /// updates; 0 for one update.
    pub fn forgetting(&self) -> Option<f64> {
        let last = self.last()?;
        if last == 0 {
            return Some(0.0);
        }
        let best = |task| (0..last).filter_map(|update| self.at(update, task)).reduce(f64::max);
        mean(self.trained_before(last).map(|(task, _)| Some(best(task)? - self.at(last, task)?)))
    }

    /// Mean over the tasks trained before the last update of `R[T][i] − R[u(i)][i]`; none for one update.
    pub fn backward_transfer(&self) -> Option<f64> {
        let last = self.last()?;
        mean(self.trained_before(last).map(|(task, learned)| Some(self.at(last, task)? - self.at(learned, task)?)))
    }

    /// Mean over the tasks that a later update than the first trains of `R[u(i)−1][i] − b_i`, where `b_i` is the accuracy
    /// at initialisation.
    pub fn forward_transfer(&self, initial: &[Option<f64>]) -> Option<f64> {
        let at_start = |task: usize| initial.get(task).copied().flatten();
        let later = self.tasks().filter(|(_, learned)| *learned > 0);
        mean(later.map(|(task, learned)| Some(self.at(learned - 1, task)? - at_start(task)?)))
    }

    /// Mean over tasks of the accuracy on each right after it was first trained.
    pub fn learning_accuracy(&self) -> Option<f64> {
        mean(self.tasks().map(|(task, learned)| self.at(learned, task)))
    }
}

/// None if there is nothing, or if anything is missing: a mean over fewer would be another figure.
pub(crate) fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.collect::<Option<_>>()?;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::Draw;

    fn matrix(rows: &[&[f64]]) -> AccuracyMatrix {
        AccuracyMatrix::of_stream(rows.iter().map(|row| row.iter().copied().map(Some).collect()).collect())
    }

    #[test]
    fn the_figures_of_a_matrix_worked_by_hand() {
        let r = matrix(&[&[0.9, 0.2, 0.1], &[0.7, 0.8, 0.3], &[0.5, 0.6, 1.0]]);
        near(r.average_accuracy(), 0.7);
        near(r.average_incremental_accuracy(), (0.9 + 0.75 + 0.7) / 3.0);
        near(r.forgetting(), (0.4 + 0.2) / 2.0);
        near(r.backward_transfer(), (-0.4 - 0.2) / 2.0);
        near(r.forward_transfer(&[Some(0.1); 3]), (0.1 + 0.2) / 2.0);
        near(r.learning_accuracy(), 0.9);
    }

    fn near(given: Option<f64>, wanted: f64) {
        assert!((given.unwrap() - wanted).abs() < 1e-12, "{given:?} {wanted}");
    }

    /// Any accuracies at all.
    fn drawn(seed: u64, tasks: u64) -> Vec<Vec<Option<f64>>> {
        let row = |update| (0..tasks).map(|task| Some(Draw::new(seed).at(update).at(task).unit())).collect();
        (0..tasks).map(row).collect()
    }

    #[test]
    fn forgetting_is_at_least_minus_backward_transfer() {
        for seed in 0..50 {
            let r = AccuracyMatrix::of_stream(drawn(seed, 5));
            assert!(r.forgetting() >= r.backward_transfer().map(|b| -b));
        }
    }

    #[test]
    fn it_is_minus_backward_transfer_where_every_task_peaks_when_it_is_learned() {
        for seed in 0..50 {
            let mut rows = drawn(seed, 5);
            (0..5).for_each(|task| rows[task][task] = Some(1.0));
            let r = AccuracyMatrix::of_stream(rows);
            near(r.forgetting(), -r.backward_transfer().unwrap());
        }
    }

    #[test]
    fn forgetting_counts_a_peak_before_the_task_was_learned() {
        let r = matrix(&[&[0.5, 0.8, 0.0], &[0.5, 0.6, 0.0], &[0.5, 0.6, 0.9]]);
        near(r.forgetting(), 0.2 / 2.0);
        near(r.backward_transfer(), 0.0);
    }

    #[test]
    fn a_gain_since_is_negative_forgetting() {
        near(matrix(&[&[0.5, 0.0], &[0.7, 0.9]]).forgetting(), -0.2);
    }

    #[test]
    fn average_and_micro_average_agree_on_tasks_of_one_size() {
        for seed in 0..20 {
            let r = AccuracyMatrix::of_stream(drawn(seed, 4));
            near(r.micro_average_accuracy(&[37; 4]), r.average_accuracy().unwrap());
        }
    }

    #[test]
    fn a_large_task_weighs_more_in_the_micro_average() {
        let r = matrix(&[&[0.9, 0.0], &[0.5, 1.0]]);
        near(r.micro_average_accuracy(&[300, 100]), (150.0 + 100.0) / 400.0);
        near(matrix(&[&[0.9, 0.0]]).micro_average_accuracy(&[300, 100]), 0.9);
    }

    #[test]
    fn without_items_or_with_a_size_missing_there_is_no_micro_average() {
        let r = matrix(&[&[0.9, 0.0], &[0.5, 1.0]]);
        assert_eq!((r.micro_average_accuracy(&[0, 0]), r.micro_average_accuracy(&[5])), (None, None));
        assert_eq!(AccuracyMatrix::default().micro_average_accuracy(&[]), None);
    }

    #[test]
    fn forward_transfer_is_nothing_where_a_task_is_met_as_it_was_at_initialisation() {
        let initial = [0.1, 0.2, 0.3];
        let r = matrix(&[&[0.9, 0.2, 0.0], &[0.9, 0.9, 0.3], &[0.9, 0.9, 0.9]]);
        near(r.forward_transfer(&initial.map(Some)), 0.0);
    }

    #[test]
    fn one_update_forgets_nothing_and_transfers_nothing() {
        let r = matrix(&[&[0.5]]);
        assert_eq!((r.forgetting(), r.backward_transfer()), (Some(0.0), None));
        assert_eq!(r.forward_transfer(&[Some(0.1)]), None);
        assert_eq!((r.average_accuracy(), r.learning_accuracy()), (Some(0.5), Some(0.5)));
    }

    #[test]
    fn before_any_update_there_are_no_figures() {
        let r = AccuracyMatrix::default();
        let figures = [r.average_accuracy(), r.average_incremental_accuracy(), r.learning_accuracy(), r.forgetting()];
        assert_eq!(figures, [None; 4]);
        assert_eq!((r.backward_transfer(), r.forward_transfer(&[])), (None, None));
    }

    #[test]
    fn a_figure_that_needs_what_was_not_measured_is_missing() {
        let r = AccuracyMatrix::of_stream(vec![vec![Some(0.9), None], vec![None, Some(0.8)]]);
        assert_eq!((r.average_accuracy(), r.forgetting(), r.backward_transfer()), (None, None, None));
        assert_eq!(r.learning_accuracy(), Some((0.9 + 0.8) / 2.0));
    }

    #[test]
    fn updates_may_train_two_tasks_or_one_again() {
        // Tasks 0 and 1 come first, task 0 comes again, task 2 last; a fourth task was only ever measured.
        let rows = [[0.9, 0.8, 0.1, 0.3], [1.0, 0.6, 0.2, 0.3], [0.7, 0.5, 0.9, 0.3]];
        let rows = rows.iter().map(|row| row.iter().copied().map(Some).collect()).collect();
        let r = AccuracyMatrix::new(rows, vec![Some(0), Some(0), Some(2), None]);
        near(r.average_accuracy(), (0.7 + 0.5 + 0.9) / 3.0);
        near(r.average_after(1), 0.8);
        near(r.forgetting(), (0.3 + 0.3) / 2.0);
        near(r.backward_transfer(), (-0.2 - 0.3) / 2.0);
        near(r.forward_transfer(&[Some(0.1); 4]), 0.1);
        near(r.learning_accuracy(), (0.9 + 0.8 + 0.9) / 3.0);
    }
}
