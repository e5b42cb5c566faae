//! How far a chunk's rows lie from what its pipeline knew.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{TaskName, Version};

/// How a chunk compared with what its pipeline knew.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The version whose memory and losses they are.
    pub version: Version,
    /// Whether the chunk had its labels by then.
    pub labelled: bool,
    /// Those of a chunk that was followed by many others are forgotten.
    pub shifts: Vec<Shift>,
    /// Of each test, against the chunk's own task, or against memory if the task is new.
    pub p_values: BTreeMap<Detector, f64>,
    /// Why nothing could be compared. None: it could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl Measured {
    /// Of a chunk of `task`.
    pub fn new(version: Version, task: &TaskName, shifts: Vec<Shift>) -> Self {
        let of = |against: &Against| shifts.iter().find(|shift| shift.against == *against);
        let nearest = of(&Against::Task(task.clone())).or_else(|| of(&Against::Buffer));
        let tests = nearest.into_iter().flat_map(|shift| &shift.tests);
        let p_values = tests.map(|tested| (tested.detector, tested.p_value)).collect();
        Self { version, labelled: false, shifts, p_values, failure: None }
    }

    /// Of a chunk that could not be compared.
    pub fn failed(version: Version, reason: String) -> Self {
        Self { version, labelled: false, shifts: Vec::new(), p_values: BTreeMap::new(), failure: Some(reason) }
    }
}

/// What of a chunk was compared with one reference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shift {
    pub against: Against,
    /// In the order of [`Detector`]; one that had too little to go on is not there.
    pub tests: Vec<Tested>,
}

/// What a chunk is compared with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// The rows that the pipeline remembers.
    Buffer,
    /// The held-out items of a task.
    Task(TaskName),
}

impl fmt::Display for Against {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Buffer => f.write_str("buffer"),
            Self::Task(task) => write!(f, "task {task}"),
        }
    }
}

/// A way to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detector {
    /// Rows look different: maximum mean discrepancy of their features.
    Mmd,
    /// Some feature is distributed differently: Kolmogorov and Smirnov's test of each, corrected by Bonferroni.
    Ks,
    /// Labels come in other proportions: χ² on their histograms; where nobody has labelled the rows, on those of the version's answers.
    Labels,
    /// Rows of a label are harder than those of the same label were: the version's loss on fresh ones is higher.
    Concept,
}

impl Detector {
    pub fn name(self) -> &'static str {
        match self {
            Self::Mmd => "mmd",
            Self::Ks => "ks",
            Self::Labels => "labels",
            Self::Concept => "concept",
        }
    }
}

/// One test of the hypothesis that nothing has changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tested {
    pub detector: Detector,
    pub statistic: f64,
    /// How often so much would be found if nothing had changed.
    pub p_value: f64,
    /// That were compared: of the reference, and of the chunk.
    pub rows: [u64; 2],
    /// What moved most, most first.
    pub moved: Vec<Moved>,
}

/// A class, and by how much: for `mmd` its own discrepancy, for `labels` the change of its share (where nobody has labelled the
/// rows, as black-box shift estimation has it), for `concept` that of its mean loss in nats. For `ks` a feature, and the distance of
/// its two distribution functions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    pub name: String,
    pub by: f64,
}
