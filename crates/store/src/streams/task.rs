//! One step of a stream.

use std::collections::BTreeMap;

use domain::id::TaskName;
use serde::Deserialize;

use super::part::Part;
use super::transform::Transform;
use super::value::Value;

/// Which rows it holds, and how their images are changed.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Task {
    pub name: String,
    /// Column -> values to keep; all must hold.
    #[serde(default)]
    pub(super) filter: BTreeMap<String, Vec<Value>>,
    #[serde(default)]
    pub(super) transform: Transform,
    pub(super) train: Option<Vec<String>>,
    pub(super) test: Option<Vec<String>>,
    /// Of the rows that pass the filter.
    #[serde(skip)]
    pub(super) part: Part,
}

impl Task {
    /// The name as the platform spells names: `art_painting` is `art-painting`.
    ///
    /// None if nothing of it is left.
    pub fn task_name(&self) -> Option<TaskName> {
        let legal = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let name: String = self.name.chars().map(legal).collect();
        name.trim_matches('-').parse().ok()
    }
}
