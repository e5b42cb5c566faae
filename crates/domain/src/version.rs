//! Published versions, their lineage and their aliases.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::chunk::ObjectRef;
use crate::id::{ChunkId, RunNumber, Version};
use crate::manifest::{Cost, SnapshotMeta};
use crate::report::EvalReport;

/// Immutable once published, and complete: every file is in the store before anybody can see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdapterVersion {
    pub number: Version,
    pub parent: Option<Version>,
    pub run: RunNumber,
    /// Updates in its lineage before this one.
    pub update: u64,
    /// Chunks this version's run absorbed.
    pub chunks: Vec<ChunkId>,
    pub labels: Vec<String>,
    pub snapshot: SnapshotMeta,
    pub files: Vec<ObjectRef>,
    pub weights_sha256: String,
    pub report: EvalReport,
    pub cost: Cost,
    pub published_at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Alias {
    Champion,
    Challenger,
    Previous,
}

impl Alias {
    pub const ALL: [Self; 3] = [Self::Champion, Self::Challenger, Self::Previous];

    pub fn name(self) -> &'static str {
        match self {
            Self::Champion => "champion",
            Self::Challenger => "challenger",
            Self::Previous => "previous",
        }
    }
}

/// What happens to chunks that the versions rolled back had absorbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disposition {
    /// They train again in the next run.
    Requeue,
    /// They wait for `chunk release`.
    Hold,
    /// They never train again.
    Drop,
}

/// `version` and its ancestors, newest first.
pub fn lineage(versions: &BTreeMap<Version, AdapterVersion>, version: Option<Version>) -> Vec<Version> {
    std::iter::successors(version, |v| versions.get(v).and_then(|v| v.parent)).collect()
}

/// Chunks absorbed along a lineage.
pub fn absorbed(versions: &BTreeMap<Version, AdapterVersion>, line: &[Version]) -> BTreeSet<ChunkId> {
    let chunks = line.iter().filter_map(|v| versions.get(v)).flat_map(|v| &v.chunks);
    chunks.cloned().collect()
}

/// The newest version that both are or continue from.
pub fn common_ancestor(versions: &BTreeMap<Version, AdapterVersion>, one: Version, other: Version) -> Option<Version> {
    let (mut one, mut other) = (Some(one), Some(other));
    let parent = |version: Version| versions.get(&version).and_then(|version| version.parent);
    // A parent's number is the lower one.
    while one != other {
        if one > other {
            one = parent(one?);
        } else {
            other = parent(other?);
        }
    }
    one
}

/// Those that `begins` holds for, and those that continue from one of them, oldest first.
pub fn from_there_on(
    versions: &BTreeMap<Version, AdapterVersion>,
    begins: impl Fn(&AdapterVersion) -> bool,
) -> Vec<&AdapterVersion> {
    let mut found = BTreeSet::new();
    let follows = |version: &&AdapterVersion| {
        let follows = version.parent.is_some_and(|parent| found.contains(&parent)) || begins(version);
        if follows {
            found.insert(version.number);
        }
        follows
    };
    versions.values().filter(follows).collect()
}
