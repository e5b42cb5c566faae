//! Streams that are made of one data set: a few words in, tasks out.

mod changes;
mod groups;
mod orders;

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::task::Task;
use super::value::Value;
use changes::{Permutation, Rotation, Transforms};
use groups::{Classes, Domains};
use orders::{FeatureSort, HueSort, Iid};

/// [`super`] shows each by example.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(super) enum Scenario {
    ClassIncremental(Classes),
    DataIncremental(Domains),
    Iid(Iid),
    Rotation(Rotation),
    Permutation(Permutation),
    Transform(Transforms),
    FeatureSort(FeatureSort),
    HueSort(HueSort),
}

/// What a scenario must know of its data set.
pub(super) struct Facts<'a> {
    pub label_column: &'a str,
    /// What the integers of a column are called.
    pub names: &'a BTreeMap<String, Vec<String>>,
    /// Of the training rows in the scenario's own column, sorted; nothing if it has none.
    pub values: &'a [Value],
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`scenario.{field}` {problem}; {remedy}")]
pub(super) struct Refused {
    field: &'static str,
    problem: String,
    remedy: String,
}

impl Refused {
    fn new(field: &'static str, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { field, problem: problem.into(), remedy: remedy.into() }
    }

    /// Of two ways to say the same, both or neither were given.
    fn either(field: &'static str, given: bool, other: &str) -> Self {
        let problem = if given { "does not stand alone" } else { "is absent" };
        Self::new(field, problem, format!("give either it or `{other}`, with what belongs to that one"))
    }
}

impl Scenario {
    /// The column by which it chooses rows, if it needs one that has no labels.
    pub(super) fn column(&self) -> Option<&str> {
        match self {
            Self::DataIncremental(domains) => Some(&domains.column),
            _ => None,
        }
    }

    pub(super) fn tasks(&self, facts: &Facts) -> Result<Vec<Task>, Refused> {
        let mut tasks = match self {
            Self::ClassIncremental(classes) => classes.tasks(facts),
            Self::DataIncremental(domains) => domains.tasks(facts),
            Self::Iid(iid) => iid.tasks(),
            Self::Rotation(rotation) => rotation.tasks(),
            Self::Permutation(permutation) => permutation.tasks(),
            Self::Transform(transforms) => transforms.tasks(),
            Self::FeatureSort(sort) => sort.tasks(),
            Self::HueSort(sort) => sort.tasks(),
        }?;
        if !are_distinct(&tasks) {
            tasks.iter_mut().enumerate().for_each(|(k, task)| task.name = numbered(k));
        }
        Ok(tasks)
    }
}

fn numbered(k: usize) -> String {
    format!("task{k}")
}

/// Whether the platform can spell the tasks' names and tell them apart.
fn are_distinct(tasks: &[Task]) -> bool {
    let names: BTreeSet<_> = tasks.iter().filter_map(Task::task_name).collect();
    names.len() == tasks.len()
}

fn count(num_tasks: usize) -> Result<usize, Refused> {
    match num_tasks {
        0 => Err(Refused::new("num_tasks", "is 0", "give 1 or more")),
        n => Ok(n),
    }
}
