//! Tasks that differ in how their images are changed.

use domain::draw::Draw;
use serde::Deserialize;

use super::{Refused, count, numbered};
use crate::streams::part::{Part, Share};
use crate::streams::task::Task;
use crate::streams::transform::Transform;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::streams) struct Rotation {
    degrees: Vec<f64>,
    split_seed: Option<u64>,
}

impl Rotation {
    pub(super) fn tasks(&self) -> Result<Vec<Task>, Refused> {
        let rotated = |&degrees: &f64| (format!("rot{degrees}"), Transform::Rotate { degrees });
        changed("degrees", self.degrees.iter().map(rotated), self.split_seed)
    }
}

/// The first task is as it is.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::streams) struct Permutation {
    /// Of the second task and those after it.
    seeds: Option<Vec<u64>>,
    #[serde(alias = "tasks")]
    num_tasks: Option<usize>,
    /// What seeds are drawn from; 0 without.
    seed: Option<u64>,
    split_seed: Option<u64>,
}

impl Permutation {
    pub(super) fn tasks(&self) -> Result<Vec<Task>, Refused> {
        let seeds = match (&self.seeds, self.num_tasks, self.seed) {
            (Some(seeds), None, None) => seeds.clone(),
            (None, Some(num_tasks), seed) => drawn(seed.unwrap_or(0), count(num_tasks)? - 1),
            (seeds, ..) => return Err(Refused::either("seeds", seeds.is_some(), "num_tasks")),
        };
        let permuted = seeds.into_iter().map(|seed| Transform::PermutePixels { seed });
        let all = std::iter::once(Transform::Identity).chain(permuted).enumerate();
        changed("seeds", all.map(|(k, transform)| (format!("perm{k}"), transform)), self.split_seed)
    }
}

fn drawn(seed: u64, n: usize) -> Vec<u64> {
    let draw = Draw::new(seed).named("permutation");
    (0..n as u64).map(|task| draw.at(task).bits()).collect()
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::streams) struct Transforms {
    transforms: Vec<Transform>,
    split_seed: Option<u64>,
}

impl Transforms {
    pub(super) fn tasks(&self) -> Result<Vec<Task>, Refused> {
        let named = self.transforms.iter().enumerate().map(|(k, transform)| (numbered(k), transform.clone()));
        changed("transforms", named, self.split_seed)
    }
}

/// All rows in every task, or with a `split_seed` each training row in one.
fn changed(
    field: &'static str,
    transforms: impl Iterator<Item = (String, Transform)>,
    split_seed: Option<u64>,
) -> Result<Vec<Task>, Refused> {
    let transforms: Vec<(String, Transform)> = transforms.collect();
    if transforms.is_empty() {
        return Err(Refused::new(field, "is empty", "list one for each task"));
    }
    let part = |share| split_seed.map_or(Part::Whole, |seed| Part::Dealt { seed, share });
    let shares = Share::all(transforms.len());
    let task = |((name, transform), share)| Task { name, transform, part: part(share), ..Task::default() };
    Ok(transforms.into_iter().zip(shares).map(task).collect())
}
