//! How low accuracy fell within updates. Field names are the JSON's keys.

use std::num::NonZeroU64;

use domain::stability::{Point, Trace};
use serde::Serialize;
use trainer::job::Trained;

/// Accuracies along a seed's updates, task by task.
pub struct Curve {
    tasks: usize,
    points: Vec<Point>,
    /// Of all updates so far.
    steps: u64,
}

impl Curve {
    pub fn new(tasks: usize) -> Self {
        Self { tasks, points: Vec::new(), steps: 0 }
    }

    /// What an update found on its way, and `last`, what its version is worth. Of the tasks `seen` so far.
    pub fn push(&mut self, update: usize, seen: usize, trained: &Trained, last: &[Option<f64>]) {
        let within = trained.probed.points.iter().map(|point| {
            let accuracies = point.accuracies.iter().copied().map(Some).collect();
            (point.step, accuracies)
        });
        let end = (trained.cost.steps, last[..seen.min(last.len())].to_vec());
        for (step, mut accuracies) in within.chain([end]) {
            accuracies.resize(self.tasks, None);
            self.points.push(Point { step: self.steps + step, update, accuracies });
        }
        self.steps += trained.cost.steps;
    }

    /// `learned[i]` is the first update that trains task `i`.
    pub fn stability(self, every: NonZeroU64, learned: Vec<Option<usize>>) -> Stability {
        let trace = Trace::new(self.points, learned);
        Stability {
            eval_every: every,
            min_accuracies: trace.min_accuracies(),
            average_min_accuracy: trace.min_accuracy(),
            worst_case_accuracy: trace.worst_case_accuracy(),
            curve: trace.points().iter().map(Measured::from).collect(),
            trace,
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Stability {
    eval_every: NonZeroU64,
    /// Per task, over the updates after the one that learned it.
    min_accuracies: Vec<Option<f64>>,
    average_min_accuracy: Option<f64>,
    worst_case_accuracy: Option<f64>,
    curve: Vec<Measured>,
    #[serde(skip)]
    pub trace: Trace,
}

impl Stability {
    /// min-ACC and WC-ACC.
    pub fn figures(&self) -> [Option<f64>; 2] {
        [self.average_min_accuracy, self.worst_case_accuracy]
    }
}

#[derive(Clone, Debug, Serialize)]
struct Measured {
    /// From 1.
    update: usize,
    /// Steps of all updates so far.
    step: u64,
    /// Per task; none for one that did not train yet.
    accuracies: Vec<Option<f64>>,
}

impl From<&Point> for Measured {
    fn from(point: &Point) -> Self {
        Self { update: point.update + 1, step: point.step, accuracies: point.accuracies.clone() }
    }
}
