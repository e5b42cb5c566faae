//! Chunks: the unit in which data arrives, is stored, trained on and accounted for.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Timestamp;
use crate::id::{ChunkId, RunNumber, TaskName, Version};

/// What one row holds besides its label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Payload {
    /// A whole encoded image file (PNG or JPEG).
    Image(Vec<u8>),
    Text(String),
}

impl Payload {
    /// SHA-256 of the row without its label; of a text in lower case, with one space between words.
    pub fn fingerprint(&self) -> [u8; 32] {
        match self {
            Self::Image(bytes) => Sha256::digest(bytes).into(),
            Self::Text(text) => {
                let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
                Sha256::digest(words.join(" ")).into()
            }
        }
    }
}

/// One example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The producer's name for it, or `<chunk>:<position>`.
    pub id: String,
    pub payload: Payload,
    /// Empty: nobody has said yet.
    pub label: String,
    /// Whom it is about: what an erasure goes by.
    pub subject: Option<String>,
    /// When what it tells of happened.
    pub event_time: Option<Timestamp>,
}

impl Row {
    pub fn new(id: impl Into<String>, payload: Payload, label: impl Into<String>) -> Self {
        Self { id: id.into(), payload, label: label.into(), subject: None, event_time: None }
    }

    /// That it takes in memory.
    pub fn bytes(&self) -> u64 {
        let payload = match &self.payload {
            Payload::Image(bytes) => bytes.len(),
            Payload::Text(text) => text.len(),
        };
        let names = self.id.len() + self.label.len() + self.subject.as_ref().map_or(0, String::len);
        (size_of::<Self>() + payload + names) as u64
    }
}

/// What our own clients write into the `split` column of a shard they push, since the header decides which
/// rows are held out. Nobody reads it, but the payload's digest, and so the chunk's name, depends on it.
pub const PUSHED: &str = "pushed";

/// Which rows of a chunk train and which are held out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    Train,
    HeldOut,
    /// Row by row, by a hash of (pipeline seed, normalised row).
    #[default]
    Auto,
}

/// An immutable object in the store, relative to the store's root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    pub path: String,
    /// SHA-256, lower-case hex.
    pub sha256: String,
    pub bytes: u64,
}

/// A shard of rows in the canonical Parquet schema. Where a row stands in it never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    pub object: ObjectRef,
    /// All of them, usable or not.
    pub rows: u64,
    /// Labels that came after the rows, by position: a JSON object. They go before those of the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<ObjectRef>,
    /// Rows without a label.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unlabelled: u64,
    /// Rows of which nothing is left but their place.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub erased: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Shard {
    /// Rows that are all there, each with its label.
    pub fn new(object: ObjectRef, rows: u64) -> Self {
        Self { object, rows, labels: None, unlabelled: 0, erased: 0 }
    }

    /// Rows that can be trained on or scored.
    pub fn usable(&self) -> u64 {
        self.rows - self.unlabelled - self.erased
    }

    /// Every object it takes to read it.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectRef> {
        std::iter::once(&self.object).chain(&self.labels)
    }
}

impl ChunkId {
    /// SHA-256 over everything that decides what the rows are; the first 16 bytes name the chunk.
    ///
    /// `input` and `label` are the columns that the header names.
    pub fn of(payload_sha256: &str, task: &TaskName, split: Split, input: Option<&str>, label: &str) -> Self {
        let key = serde_json::json!([payload_sha256, task, split, input, label]);
        let digest = Sha256::digest(key.to_string());
        Self(hex::encode(&digest[..16]))
    }
}

/// `Received → Sealed → InRun → Absorbed | Refused`, or `Received → Quarantined`, or `Received → Labelling → Sealed`.
///
/// `Refused → Sealed` and `Quarantined → Sealed` by release; `InRun → Sealed` never: a run that ends without a version refuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ChunkState {
    /// Durable and recorded; rows not yet checked.
    Received,
    /// Checked; waits for labels, until then at most.
    Labelling {
        until: Timestamp,
    },
    /// Checked; waits for a run.
    Sealed,
    InRun {
        run: RunNumber,
    },
    /// Took part in the version's training data.
    Absorbed {
        version: Version,
    },
    /// Trains again only when released or named.
    Refused {
        reason: String,
    },
    Quarantined {
        reason: String,
    },
}

impl ChunkState {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Labelling { .. } => "labelling",
            Self::Sealed => "sealed",
            Self::InRun { .. } => "in_run",
            Self::Absorbed { .. } => "absorbed",
            Self::Refused { .. } => "refused",
            Self::Quarantined { .. } => "quarantined",
        }
    }

    /// Why it is where it is, where there is something to say.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Refused { reason } | Self::Quarantined { reason } => Some(reason),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    pub id: ChunkId,
    pub task: TaskName,
    pub split: Split,
    /// Training rows, in data order.
    pub train: Vec<Shard>,
    /// Held-out rows in the order of their hash, so that any prefix is a uniform sample.
    pub held_out: Vec<Shard>,
    /// Rows per label name, training rows only.
    pub labels: BTreeMap<String, u64>,
    /// What was received, as received.
    pub raw: ObjectRef,
    pub received_at: Timestamp,
    pub state: ChunkState,
    /// Rows that are not among those above because they equal an earlier one of the chunk, label and all.
    #[serde(default)]
    pub duplicates: u64,
    /// Rows that are not among those above because they cannot be used. None: there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bad: Option<BadRows>,
    /// The object below a watched prefix that it was taken from. None: it was pushed or registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceObject>,
    /// Given up while it was in quarantine.
    #[serde(default)]
    pub dropped: bool,
    /// Whether rows say whom they are about.
    #[serde(default)]
    pub names_subjects: bool,
    /// The latest time that a row tells of. None: none tells of any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<Timestamp>,
    /// Late labels, shard by shard, under which a published run trained it last. None: there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained_under: Option<Vec<Option<ObjectRef>>>,
    /// Labels that changed after it had trained.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub corrections: Vec<Correction>,
    /// What was received is gone, with rows of it.
    #[serde(default)]
    pub erased: bool,
    /// How what was received is to be read. None: it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reading: Option<Reading>,
}

/// What its producer said of a payload whose rows are not checked yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Such as `parquet`.
    pub format: String,
    /// None: whichever there is.
    pub input: Option<String>,
    pub label: String,
}

/// Labels of a chunk that were changed at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Correction {
    pub at: Timestamp,
    pub rows: u64,
    /// The last run that had begun.
    pub run: RunNumber,
}

/// An object as it was when it was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceObject {
    pub uri: String,
    /// The store's word for this content of it.
    pub tag: String,
}

/// What put a chunk into quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRows {
    pub rows: u64,
    /// A [`BadRow`] a line, as JSON: the first 10,000.
    pub object: ObjectRef,
    /// Labels of the other rows that the pipeline did not know (`labels_mode: open`): appended if the chunk is released.
    pub new_labels: Vec<String>,
    /// The other rows were released: pushing the chunk again changes nothing any more.
    pub settled: bool,
}

/// A row that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRow {
    /// Position in the file, from 0.
    pub row: u64,
    pub reason: String,
}

impl Chunk {
    /// Whether pushing it again may change it: if its rows were never sealed.
    pub fn can_be_sealed(&self) -> bool {
        match (&self.state, &self.bad) {
            _ if self.dropped || self.erased => false,
            (ChunkState::Received, _) => true,
            (ChunkState::Quarantined { .. }, Some(bad)) => !bad.settled,
            (ChunkState::Quarantined { .. }, None) => self.train.is_empty() && self.held_out.is_empty(),
            _ => false,
        }
    }

    /// A chunk that nobody has said anything of yet.
    pub fn received(id: ChunkId, task: TaskName, split: Split, raw: ObjectRef, received_at: Timestamp) -> Self {
        Self {
            id,
            task,
            split,
            train: Vec::new(),
            held_out: Vec::new(),
            labels: BTreeMap::new(),
            raw,
            received_at,
            state: ChunkState::Received,
            duplicates: 0,
            bad: None,
            source: None,
            dropped: false,
            names_subjects: false,
            newest: None,
            trained_under: None,
            corrections: Vec::new(),
            erased: false,
            reading: None,
        }
    }

    /// The late labels of its training rows, shard by shard.
    pub fn late_labels(&self) -> Vec<Option<ObjectRef>> {
        self.train.iter().map(|shard| shard.labels.clone()).collect()
    }

    /// Whether it waits for no more labels.
    pub fn has_labels(&self) -> bool {
        !matches!(self.state, ChunkState::Labelling { .. })
    }

    /// How many of its rows have a label, as a share; 1 where there are no rows.
    pub fn coverage(&self) -> f64 {
        let (labelled, unlabelled) = (self.train_rows() + self.held_out_rows(), self.unlabelled_rows());
        if unlabelled == 0 { 1.0 } else { labelled as f64 / (labelled + unlabelled) as f64 }
    }

    /// Those that can be trained on.
    pub fn train_rows(&self) -> u64 {
        self.train.iter().map(Shard::usable).sum()
    }

    /// Those that can be scored.
    pub fn held_out_rows(&self) -> u64 {
        self.held_out.iter().map(Shard::usable).sum()
    }

    pub fn unlabelled_rows(&self) -> u64 {
        self.train.iter().chain(&self.held_out).map(|shard| shard.unlabelled).sum()
    }

    pub fn erased_rows(&self) -> u64 {
        self.train.iter().chain(&self.held_out).map(|shard| shard.erased).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_decides_the_rows_decides_the_name() {
        let task = |name: &str| -> TaskName { name.parse().unwrap() };
        let name = |sha, t, split, input, label| ChunkId::of(sha, &task(t), split, input, label);
        let id = name("aa", "main", Split::Auto, None, "label");
        assert_eq!(id.0.len(), 32);
        assert_eq!(id, name("aa", "main", Split::Auto, None, "label"));
        for other in [
            name("ab", "main", Split::Auto, None, "label"),
            name("aa", "other", Split::Auto, None, "label"),
            name("aa", "main", Split::Train, None, "label"),
            name("aa", "main", Split::Auto, Some("text"), "label"),
            name("aa", "main", Split::Auto, None, "intent"),
        ] {
            assert_ne!(id, other);
        }
    }
}
