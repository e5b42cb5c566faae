//! Tasks that are shares of the data set, shuffled or sorted.

use serde::Deserialize;

use super::{Refused, count, numbered};
use crate::streams::feature::Feature;
use crate::streams::part::{Order, Part, Share};
use crate::streams::task::Task;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::streams) struct Iid {
    #[serde(alias = "tasks")]
    num_tasks: usize,
    #[serde(default)]
    seed: u64,
}

impl Iid {
    pub(super) fn tasks(&self) -> Result<Vec<Task>, Refused> {
        shared(self.num_tasks, |share| Part::Dealt { seed: self.seed, share })
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::streams) struct FeatureSort {
    #[serde(alias = "tasks")]
    num_tasks: usize,
    #[serde(default)]
    feature: Feature,
    #[serde(default)]
    randomness: f64,
    #[serde(default)]
    seed: u64,
}

impl FeatureSort {
    pub(super) fn tasks(&self) -> Result<Vec<Task>, Refused> {
        sorted(self.num_tasks, Order { feature: self.feature, randomness: self.randomness, seed: self.seed })
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::streams) struct HueSort {
    #[serde(alias = "tasks")]
    num_tasks: usize,
    #[serde(default)]
    randomness: f64,
    #[serde(default)]
    seed: u64,
}

impl HueSort {
    pub(super) fn tasks(&self) -> Result<Vec<Task>, Refused> {
        sorted(self.num_tasks, Order { feature: Feature::Hue, randomness: self.randomness, seed: self.seed })
    }
}

fn sorted(num_tasks: usize, order: Order) -> Result<Vec<Task>, Refused> {
    if !(0.0..=1.0).contains(&order.randomness) {
        return Err(Refused::new("randomness", format!("is {}", order.randomness), "give 0 to 1"));
    }
    shared(num_tasks, |share| Part::Sorted { order, share })
}

fn shared(num_tasks: usize, part: impl Fn(Share) -> Part) -> Result<Vec<Task>, Refused> {
    let task = |share: Share| Task { name: numbered(share.index), part: part(share), ..Task::default() };
    Ok(Share::all(count(num_tasks)?).map(task).collect())
}
