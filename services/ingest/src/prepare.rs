//! From a payload on disk to everything that will be written. Blocks; touches no store and no peer.

use std::collections::BTreeMap;

use bytes::Bytes;
use domain::chunk::{Row, Split};
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
}

pub struct Ready {
    pub raw: Bytes,
    pub outcome: Outcome,
}

pub enum Outcome {
    Sealed {
        shards: Shards,
        /// Training rows per label.
        labels: BTreeMap<String, u64>,
        new_labels: Vec<String>,
    },
    Quarantined {
        reason: String,
    },
}

impl Work {
    pub fn run(self, payload: Payload) -> Result<Ready, Error> {
        let raw = payload.read()?;
        let rows = self.rows(&raw)?;
        let outcome = match seal(rows, self.split, &self.facts) {
            Err(unknown) => Outcome::Quarantined { reason: unknown.to_string() },
            Ok(sealed) => Outcome::Sealed {
                shards: Shards::encode(&sealed, &self.task)?,
                labels: sealed.labels,
                new_labels: sealed.new_labels,
            },
        };
        Ok(Ready { raw, outcome })
    }

    fn rows(&self, raw: &Bytes) -> Result<Vec<Row>, BadData> {
        let format = self.format.map_or_else(|| examples::detect(&self.name, raw), Ok)?;
        examples::read(format, raw.clone(), &self.columns)
    }
}
