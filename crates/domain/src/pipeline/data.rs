//! What rows may lack, and how long they may stay.

use std::num::{NonZeroU32, NonZeroU64};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::number::Ratio;
use crate::Timestamp;
use crate::chunk::Chunk;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    /// Rows may come without a label. Default: one without goes to quarantine.
    pub late_labels: Option<LateLabels>,
    /// Days after which the rows of a chunk are erased, from the latest `event_time` of them, or from when they came where none
    /// has one. Default: they stay.
    pub ttl_days: Option<NonZeroU32>,
    /// Compare each chunk with what is remembered and held out, on an evaluator that has nothing else to do.
    #[serde(skip_serializing_if = "is_true")]
    pub shift: bool,
}

/// As older workers, which do not know the field, take it.
fn is_true(value: &bool) -> bool {
    *value
}

impl Default for Data {
    fn default() -> Self {
        Self { late_labels: None, ttl_days: None, shift: true }
    }
}

/// When a chunk trains some of whose rows have no label. Labels that come later still count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LateLabels {
    /// Share of its rows that have one.
    pub coverage: Ratio,
    /// It trains after so many seconds with those that it has.
    pub deadline_seconds: NonZeroU64,
}

impl Default for LateLabels {
    fn default() -> Self {
        Self { coverage: Ratio(0.9), deadline_seconds: NonZeroU64::new(7 * 24 * 60 * 60).expect("not zero") }
    }
}

impl Data {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Until when the chunk waits for labels. None: it has enough of them.
    pub fn labelling_until(&self, chunk: &Chunk) -> Option<Timestamp> {
        let late = self.late_labels.as_ref().filter(|late| chunk.coverage() < late.coverage.get())?;
        Some(chunk.received_at.saturating_add(late.deadline_seconds.get().saturating_mul(1000)))
    }

    /// Whether the chunk's rows have been kept for long enough.
    pub fn has_expired(&self, chunk: &Chunk, now: Timestamp) -> bool {
        let newest = chunk.newest.unwrap_or(chunk.received_at);
        self.ttl_days.is_some_and(|days| newest.saturating_add(u64::from(days.get()) * DAY_MS) < now)
    }
}
