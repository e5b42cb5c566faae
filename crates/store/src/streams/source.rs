//! How a stream's tasks come to be.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::scenario::{Facts, Scenario};
use super::task::Task;
use super::value::Value;
use super::{Split, Stream};
use crate::Error;

/// What may stand beside a scenario that makes tasks, and says nothing to us.
const NOTES: [&str; 3] = ["dataset", "description", "domain_column"];

/// Where the tasks come from.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "serde_json::Value")]
pub(super) enum Source {
    /// They are listed; the word says of what kind they are.
    Listed(String),
    Made(Scenario),
}

impl TryFrom<serde_json::Value> for Source {
    type Error = String;
    fn try_from(value: serde_json::Value) -> Result<Self, String> {
        match value {
            serde_json::Value::String(word) => Ok(Self::Listed(word)),
            value => serde_json::from_value(value).map(Self::Made).map_err(|e| format!("`scenario`: {e}")),
        }
    }
}

impl Source {
    /// The column that the scenario itself chooses rows by.
    pub(super) fn column(&self) -> Option<&str> {
        match self {
            Self::Made(scenario) => scenario.column(),
            Self::Listed(_) => None,
        }
    }
}

impl Stream {
    pub(super) fn expand(
        &self,
        listed: Option<Vec<Task>>,
        names: &BTreeMap<String, Vec<String>>,
    ) -> Result<Vec<Task>, Error> {
        let Source::Made(scenario) = &self.spec.scenario else {
            return listed
                .ok_or_else(|| self.bad("`tasks` is absent; list them, or make `scenario` an object".to_owned()));
        };
        if listed.is_some() {
            return Err(self.bad("`tasks` stands beside a `scenario` that makes them; leave one out".to_owned()));
        }
        if let Some(key) = self.spec.others.keys().find(|key| !NOTES.contains(&key.as_str())) {
            return Err(self.bad(format!("`{key}` is unknown; leave it out, or move it into `scenario`")));
        }
        let values = scenario.column().map_or(Ok(Vec::new()), |column| self.training_values(column))?;
        let facts = Facts { label_column: &self.spec.label_column, names, values: &values };
        scenario.tasks(&facts).map_err(|refused| self.bad(refused.to_string()))
    }

    /// Sorted, each as often as there are rows with it.
    fn training_values(&self, column: &str) -> Result<Vec<Value>, Error> {
        let everything = Task::default();
        let rows = self.places(&everything, Split::Train)?;
        let mut values: Vec<Value> = rows.iter().map(|place| place.file.value(column, place.row).clone()).collect();
        values.sort_unstable();
        Ok(values)
    }

    pub(super) fn brings_classes(&self) -> Result<bool, Error> {
        match &self.spec.scenario {
            Source::Listed(word) => Ok(word == "class-incremental"),
            Source::Made(Scenario::ClassIncremental(_)) => Ok(true),
            Source::Made(Scenario::DataIncremental(_)) => self.shares_no_class(),
            Source::Made(_) => Ok(false),
        }
    }

    /// Whether each class is in one task only, of several.
    fn shares_no_class(&self) -> Result<bool, Error> {
        let (mut seen, mut sum) = (BTreeSet::new(), 0);
        for task in &self.tasks {
            let rows = self.places(task, Split::Train)?;
            let classes: BTreeSet<i64> = rows.iter().map(|place| place.file.labels[place.row]).collect();
            sum += classes.len();
            seen.extend(classes);
        }
        Ok(self.tasks.len() > 1 && sum == seen.len())
    }
}

#[cfg(test)]
mod tests {
    use crate::streams::Spec;
    use crate::streams::scenario::Scenario;

    #[test]
    fn every_example_in_the_documentation_is_one() {
        let documentation = include_str!("../streams.rs").lines().filter_map(|line| line.strip_prefix("//!"));
        let text: Vec<&str> = documentation.map(str::trim).collect();
        let blocks = text.split(|line| line.starts_with("```"));
        let (files, rest): (Vec<&[&str]>, Vec<&[&str]>) = blocks.partition(|block| block.first() == Some(&"{"));
        for file in &files {
            serde_json::from_str::<Spec>(&file.concat()).unwrap();
        }
        let scenarios: Vec<&str> = rest.concat().into_iter().filter(|line| line.starts_with(r#"{ "type""#)).collect();
        for scenario in &scenarios {
            serde_json::from_str::<Scenario>(scenario).unwrap_or_else(|e| panic!("{scenario}: {e}"));
        }
        assert_eq!((files.len(), scenarios.len()), (1, 12));
    }
}
