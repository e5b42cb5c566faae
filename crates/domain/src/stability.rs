//! How low accuracy falls while an update trains, even if it recovers before the update ends.
//!
//! The stability gap and its figures are those of De Lange et al. (2023). They see only the steps at which someone
//! evaluated: the true worst case is this low or lower.

use crate::matrix::mean;

/// Accuracies at one step of one update.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    pub step: u64,
    pub update: usize,
    /// Per task; `None` where it was not measured.
    pub accuracies: Vec<Option<f64>>,
}

impl Point {
    fn at(&self, task: usize) -> Option<f64> {
        *self.accuracies.get(task)?
    }
}

/// Accuracies all along a sequence of updates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// By update, then step.
    points: Vec<Point>,
    /// The first update that trains each task; `None` where none does yet.
    learned: Vec<Option<usize>>,
}

impl Trace {
    /// `learned[i]` is the first update that trains task `i`.
    pub fn new(mut points: Vec<Point>, learned: Vec<Option<usize>>) -> Self {
        points.sort_by_key(|point| (point.update, point.step));
        Self { points, learned }
    }

    /// Update `i` trains task `i`.
    pub fn of_stream(points: Vec<Point>) -> Self {
        let updates = points.iter().map(|point| point.update + 1).max().unwrap_or(0);
        Self::new(points, (0..updates).map(Some).collect())
    }

    /// Tasks whose first update holds to `when`, with that update.
    fn learned(&self, when: impl Fn(usize) -> bool) -> impl Iterator<Item = (usize, usize)> {
        let tasks = self.learned.iter().enumerate();
        tasks.filter_map(move |(task, update)| update.filter(|update| when(*update)).map(|update| (task, update)))
    }

    /// The lowest accuracy on `task` in the updates after the one that learned it.
    fn worst(&self, task: usize, learned: usize) -> Option<f64> {
        let later = self.points.iter().filter(|point| point.update > learned);
        later.filter_map(|point| point.at(task)).reduce(f64::min)
    }

    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Per task, the lowest accuracy since the update that learned it; none where there was no later one.
    pub fn min_accuracies(&self) -> Vec<Option<f64>> {
        let worst = |(task, learned): (usize, &Option<usize>)| self.worst(task, (*learned)?);
        self.learned.iter().enumerate().map(worst).collect()
    }

    /// min-ACC: mean over the tasks learned before the last update of the lowest accuracy since; none without such tasks.
    pub fn min_accuracy(&self) -> Option<f64> {
        let last = self.points.last()?.update;
        mean(self.learned(|update| update < last).map(|(task, learned)| self.worst(task, learned)))
    }

    /// WC-ACC: `1/k · A(E_k, t_k) + (1 − 1/k) · min-ACC` after the k-th of k tasks; plasticity and the worst of stability.
    ///
    /// Where the last update learns several tasks, or none, each task still weighs 1/k.
    pub fn worst_case_accuracy(&self) -> Option<f64> {
        let last = self.points.last()?;
        mean(
            self.learned(|update| update <= last.update)
                .map(|(task, learned)| if learned < last.update { self.worst(task, learned) } else { last.at(task) }),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::Draw;
    use crate::matrix::AccuracyMatrix;

    fn point(update: usize, step: u64, accuracies: &[f64]) -> Point {
        Point { step, update, accuracies: accuracies.iter().copied().map(Some).collect() }
    }

    fn near(given: Option<f64>, wanted: f64) {
        assert!((given.unwrap() - wanted).abs() < 1e-12, "{given:?} {wanted}");
    }

    /// Task 0 falls to 0.3 and recovers; task 1 falls to 0.6 and recovers less.
    fn gap() -> Vec<Point> {
        vec![
            point(0, 1, &[0.2, 0.0, 0.0]),
            point(0, 2, &[0.9, 0.0, 0.0]),
            point(1, 3, &[0.3, 0.5, 0.0]),
            point(1, 4, &[0.8, 0.9, 0.0]),
            point(2, 5, &[0.5, 0.6, 0.4]),
            point(2, 6, &[0.7, 0.7, 1.0]),
        ]
    }

    #[test]
    fn the_figures_of_a_gap_worked_by_hand() {
        let trace = Trace::of_stream(gap());
        assert_eq!(trace.min_accuracies(), [Some(0.3), Some(0.6), None]);
        near(trace.min_accuracy(), (0.3 + 0.6) / 2.0);
        near(trace.worst_case_accuracy(), 1.0 / 3.0 + 2.0 / 3.0 * 0.45);
    }

    #[test]
    fn what_was_low_before_a_task_was_learned_does_not_count() {
        let mut points = gap();
        points[0].accuracies[0] = Some(0.0);
        points[2].accuracies[1] = Some(0.0);
        assert_eq!(Trace::of_stream(points).min_accuracy(), Trace::of_stream(gap()).min_accuracy());
    }

    #[test]
    fn one_task_has_no_worst_case_but_its_own_accuracy() {
        let trace = Trace::of_stream(vec![point(0, 1, &[0.2]), point(0, 2, &[0.9])]);
        assert_eq!((trace.min_accuracy(), trace.worst_case_accuracy()), (None, Some(0.9)));
    }

    #[test]
    fn without_points_there_are_no_figures() {
        let trace = Trace::of_stream(vec![]);
        assert_eq!((trace.min_accuracy(), trace.worst_case_accuracy()), (None, None));
    }

    #[test]
    fn points_may_come_in_any_order() {
        let mut points = gap();
        points.reverse();
        assert_eq!(Trace::of_stream(points), Trace::of_stream(gap()));
    }

    #[test]
    fn steps_at_which_a_task_was_not_measured_are_passed_over() {
        let mut points = gap();
        points[2].accuracies[0] = None;
        near(Trace::of_stream(points.clone()).min_accuracy(), (0.5 + 0.6) / 2.0);
        points.iter_mut().for_each(|point| point.accuracies[1] = None);
        assert_eq!(Trace::of_stream(points).min_accuracy(), None, "a mean over fewer would be another figure");
    }

    #[test]
    fn measured_between_updates_alone_the_worst_case_is_the_matrix_s_lowest() {
        let ends: Vec<Point> = gap().into_iter().filter(|point| point.step % 2 == 0).collect();
        near(Trace::of_stream(ends).min_accuracy(), (0.7 + 0.7) / 2.0);
    }

    #[test]
    fn an_update_may_learn_two_tasks_or_none() {
        let twice = Trace::new(gap(), vec![Some(0), Some(2), Some(2)]);
        near(twice.min_accuracy(), 0.3);
        near(twice.worst_case_accuracy(), (0.3 + 0.7 + 1.0) / 3.0);
        let none = Trace::new(gap(), vec![Some(0), Some(1), None]);
        assert_eq!(none.worst_case_accuracy(), none.min_accuracy());
    }

    #[test]
    fn the_worst_case_is_at_most_the_average_accuracy() {
        for seed in 0..50 {
            let accuracy = |update: u64, step, task| Some(Draw::new(seed).at(update).at(step).at(task).unit());
            let accuracies = |update, step| (0..4).map(|task| accuracy(update, step, task)).collect::<Vec<_>>();
            let points = (0..4).flat_map(|update| (0..5).map(move |step| (update, step)));
            let points = points.map(|(update, step)| Point {
                step,
                update: update as usize,
                accuracies: accuracies(update, step),
            });
            let trace = Trace::of_stream(points.collect());
            let matrix = AccuracyMatrix::of_stream((0..4).map(|update| accuracies(update, 4)).collect());
            assert!(trace.worst_case_accuracy() <= matrix.average_accuracy());
        }
    }
}
