//! Tasks that differ in the classes or domains they hold.

use std::collections::{BTreeMap, BTreeSet};

use domain::draw::Draw;
use serde::Deserialize;

use super::{Facts, Refused, count, numbered};
use crate::streams::part::{Part, Share};
use crate::streams::task::Task;
use crate::streams::value::Value;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::streams) struct Classes {
    groups: Option<Vec<Vec<Value>>>,
    #[serde(alias = "tasks")]
    num_tasks: Option<usize>,
    /// The order of the labels without.
    order_seed: Option<u64>,
}

impl Classes {
    pub(super) fn tasks(&self, facts: &Facts) -> Result<Vec<Task>, Refused> {
        let groups = match (&self.groups, self.num_tasks, self.order_seed) {
            (Some(groups), None, None) => known(groups, facts.label_column, facts)?,
            (None, Some(num_tasks), seed) => cut(ordered(facts, seed), count(num_tasks)?)?,
            (groups, ..) => return Err(Refused::either("groups", groups.is_some(), "num_tasks")),
        };
        let tasks = groups.into_iter().enumerate();
        Ok(tasks.map(|(k, group)| holding(facts.label_column, group, numbered(k))).collect())
    }
}

/// A column's values, each a task of its own, in groups, or sorted and cut.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::streams) struct Domains {
    pub(super) column: String,
    groups: Option<Vec<Vec<Value>>>,
    #[serde(alias = "tasks")]
    num_tasks: Option<usize>,
}

impl Domains {
    pub(super) fn tasks(&self, facts: &Facts) -> Result<Vec<Task>, Refused> {
        let groups = match (&self.groups, self.num_tasks) {
            (Some(groups), None) => known(groups, &self.column, facts)?,
            (None, None) => each(facts.values),
            (None, Some(num_tasks)) => return self.slices(count(num_tasks)?, facts.values),
            (Some(_), Some(_)) => return Err(Refused::either("groups", true, "num_tasks")),
        };
        let tasks = groups.into_iter().enumerate();
        Ok(tasks.map(|(k, group)| holding(&self.column, group.clone(), self.name(k, &group, facts))).collect())
    }

    fn name(&self, k: usize, group: &[Value], facts: &Facts) -> String {
        match group {
            [Value::Text(text)] => text.clone(),
            [Value::Integer(number)] => {
                let name = usize::try_from(*number).ok().and_then(|at| facts.names.get(&self.column)?.get(at));
                name.cloned().unwrap_or_else(|| format!("{}-{number}", self.column))
            }
            _ => numbered(k),
        }
    }

    /// Equal shares of the training rows, but that rows of one value stay together.
    fn slices(&self, num_tasks: usize, values: &[Value]) -> Result<Vec<Task>, Refused> {
        let starts = Share::all(num_tasks).map(|share| values.get(share.range(values.len()).start));
        let starts: Vec<&Value> = starts.flatten().collect();
        if starts.len() < num_tasks || !starts.is_sorted_by(|a, b| a < b) {
            let problem = format!("is {num_tasks}, and the values of `{}` do not part in as many places", self.column);
            return Err(Refused::new("num_tasks", problem, "lower it, or give `groups` of values"));
        }
        let slice = |k: usize| Part::Slice {
            column: self.column.clone(),
            from: (k > 0).then(|| starts[k].clone()),
            below: starts.get(k + 1).map(|value| (*value).clone()),
        };
        let task = |k| Task { name: numbered(k), part: slice(k), ..Task::default() };
        Ok((0..num_tasks).map(task).collect())
    }
}

fn holding(column: &str, values: Vec<Value>, name: String) -> Task {
    Task { name, filter: BTreeMap::from([(column.to_owned(), values)]), ..Task::default() }
}

fn each(values: &[Value]) -> Vec<Vec<Value>> {
    let distinct: BTreeSet<&Value> = values.iter().collect();
    distinct.into_iter().map(|value| vec![value.clone()]).collect()
}

/// All classes.
fn ordered(facts: &Facts, order_seed: Option<u64>) -> Vec<Value> {
    let n = facts.names.get(facts.label_column).map_or(0, Vec::len);
    let order = order_seed.map(|seed| Draw::new(seed).named("classes").permutation(n));
    order.unwrap_or_else(|| (0..n).collect()).into_iter().map(|class| Value::Integer(class as i64)).collect()
}

fn cut(classes: Vec<Value>, num_tasks: usize) -> Result<Vec<Vec<Value>>, Refused> {
    if num_tasks > classes.len() {
        let problem = format!("is {num_tasks} and there are {} classes", classes.len());
        return Err(Refused::new("num_tasks", problem, "lower it, a task needs a class"));
    }
    Ok(Share::all(num_tasks).map(|share| classes[share.range(classes.len())].to_vec()).collect())
}

/// The groups with names turned to indices, if every value is there and in one group only.
fn known(groups: &[Vec<Value>], column: &str, facts: &Facts) -> Result<Vec<Vec<Value>>, Refused> {
    if groups.is_empty() || groups.iter().any(Vec::is_empty) {
        return Err(Refused::new("groups", "holds nothing for some task", "list at least one value for each task"));
    }
    let mut seen = BTreeSet::new();
    let mut once = |value: &Value| {
        let index = indexed(value, column, facts)?;
        let repeated = || Refused::new("groups", format!("has {value} twice"), "leave it in one group");
        if seen.insert(index.clone()) { Ok(index) } else { Err(repeated()) }
    };
    groups.iter().map(|group| group.iter().map(&mut once).collect()).collect()
}

fn indexed(value: &Value, column: &str, facts: &Facts) -> Result<Value, Refused> {
    let names = facts.names.get(column).map(Vec::as_slice).unwrap_or_default();
    let index = match value {
        Value::Text(name) => names.iter().position(|known| known == name).map(|at| Value::Integer(at as i64)),
        Value::Integer(_) => None,
    };
    let index = index.unwrap_or_else(|| value.clone());
    let is_class = |index: &Value| (0..names.len()).any(|class| *index == Value::Integer(class as i64));
    let found = if column == facts.label_column { is_class(&index) } else { facts.values.contains(&index) };
    if found {
        return Ok(index);
    }
    let problem = format!("has {value}, which no training row has as `{column}`");
    Err(Refused::new("groups", problem, "correct it, or leave it out"))
}
