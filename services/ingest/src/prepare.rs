//! From a payload on disk to everything that will be written. Blocks; touches no store and no peer.

use std::collections::BTreeMap;

use bytes::Bytes;
use domain::Timestamp;
use domain::chunk::{BadRow, Row, Split};
use domain::id::TaskName;
use store::examples::{self, BadData, Columns, Format};

use crate::Error;
use crate::seal::{Facts, seal};
use crate::shards::Shards;
use crate::spool::Payload;

pub struct Work {
    /// What the payload is called where its content does not tell its format.
    pub name: String,
    pub format: Option<Format>,
    pub columns: Columns,
    pub split: Split,
    pub task: TaskName,
    pub facts: Facts,
    /// Nobody waits for an answer: what cannot be read is kept in quarantine, where it is found.
    pub keeps_unreadable: bool,
}

pub struct Ready {
    pub raw: Bytes,
    pub shards: Shards,
    /// Training rows per label.
    pub labels: BTreeMap<String, u64>,
    pub new_labels: Vec<String>,
    pub duplicates: u64,
    /// Whether rows say whom they are about.
    pub names_subjects: bool,
    /// The latest time that a row tells of.
    pub newest: Option<Timestamp>,
    pub quarantine: Option<Quarantine>,
}

/// Why a chunk is not sealed.
pub struct Quarantine {
    pub reason: String,
    /// The first of them; none where nothing can be read.
    pub bad: Vec<BadRow>,
    /// All of them.
    pub bad_rows: u64,
}

impl Work {
    pub fn run(self, payload: Payload) -> Result<Ready, Error> {
        let raw = payload.read()?;
        let (rows, unreadable) = match self.rows(&raw) {
            Err(error) if self.keeps_unreadable => (Vec::new(), Some(error.to_string())),
            rows => (rows?, None),
        };
        let sealed = seal(rows, self.split, &self.facts);
        let (shards, reason) = (Shards::encode(&sealed, &self.task)?, unreadable.or(sealed.reason()));
        let names_subjects = sealed.rows().any(|row| row.subject.is_some());
        let newest = sealed.rows().filter_map(|row| row.event_time).max();
        Ok(Ready {
            raw,
            shards,
            labels: sealed.labels,
            new_labels: sealed.new_labels,
            duplicates: sealed.duplicates,
            names_subjects,
            newest,
            quarantine: reason.map(|reason| Quarantine { reason, bad: sealed.bad, bad_rows: sealed.bad_rows }),
        })
    }

    fn rows(&self, raw: &Bytes) -> Result<Vec<Result<Row, BadData>>, BadData> {
        let format = self.format.map_or_else(|| examples::detect(&self.name, raw), Ok)?;
        examples::read(format, raw.clone(), &self.columns)
    }
}
