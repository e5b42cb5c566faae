//! A run: one update of a pipeline, in one or more attempts.
//!
//! ```text
//! Queued ── Started ──▶ Training ── Trained ──▶ Evaluating ── Judged ──▶ Publishing ── Published ──▶ Published
//!   ▲                      │                        │  ▲             └──▶ Rejected
//!   └──── AttemptEnded ────┘                        └──┘ AttemptEnded
//!
//! AttemptEnded for good, or too often in a row: Failed. Cancelled: from any state before Publishing.
//! AttemptEnded from Evaluating or Publishing with a spoiled candidate: Queued, and the second time Failed.
//! PublishFailed, from Publishing alone: Failed. An erasure takes a run that has not come to Publishing back to Queued.
//! ```

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::evalset::EvalSet;
use crate::id::{ChunkId, RunNumber, Version};
use crate::manifest::{Candidate, Manifest};
use crate::report::EvalReport;

/// Attempts may fail this often in a row without a new checkpoint.
pub const MAX_FRUITLESS_ATTEMPTS: u32 = 3;

/// Attempts may be lost with their worker or for want of the store this often in a row without a new checkpoint: a run
/// that takes every worker down must end some day.
pub const MAX_LOST_ATTEMPTS: u32 = 50;

/// Candidates of a run that may turn out not to be what was trained. Once is chance, and another attempt goes on from the
/// last checkpoint; the next one would come out the same.
pub const MAX_SPOILED_CANDIDATES: u32 = 2;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub number: RunNumber,
    pub manifest: Manifest,
    pub queued_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// Attempts started so far; the last one's number.
    pub attempts: u32,
    fruitless: u32,
    lost: u32,
    #[serde(default)]
    spoiled: u32,
    /// The next attempt begins no earlier.
    pub not_before: Timestamp,
    /// EvalSets that open if the run is published.
    pub opened: Vec<EvalSet>,
    /// Why the last attempt that ended did.
    pub last_error: Option<String>,
    pub state: RunState,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RunState {
    Queued,
    Training {
        attempt: u32,
    },
    Evaluating {
        candidate: Candidate,
    },
    /// Passed; its files are being laid down under the version's name.
    Publishing {
        candidate: Candidate,
        report: EvalReport,
        version: Version,
    },
    Published {
        version: Version,
    },
    Rejected {
        report: EvalReport,
    },
    Failed {
        reason: String,
    },
    Cancelled,
}

impl RunState {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Training { .. } => "training",
            Self::Evaluating { .. } => "evaluating",
            Self::Publishing { .. } => "publishing",
            Self::Published { .. } => "published",
            Self::Rejected { .. } => "rejected",
            Self::Failed { .. } => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Published { .. } | Self::Rejected { .. } | Self::Failed { .. } | Self::Cancelled)
    }
}

/// What can happen to a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum RunEvent {
    Started,
    AttemptEnded {
        attempt: u32,
        reason: String,
        ending: Ending,
    },
    Trained {
        attempt: u32,
        candidate: Box<Candidate>,
    },
    /// `version` is the number it will be published under, or none if it is refused.
    Judged {
        report: EvalReport,
        version: Option<Version>,
    },
    Published,
    /// The version's files can never be laid down.
    PublishFailed {
        reason: String,
    },
    Cancelled,
}

/// What the end of an attempt says about its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Another attempt may succeed.
    Failed,
    /// As `Failed`, and a checkpoint newer than the attempt's start exists.
    Progressed,
    /// The worker or the control process went away, which says nothing about the run.
    Lost,
    /// A store could not be reached, which says nothing about the run either.
    Unavailable,
    /// The same inputs would fail again.
    Permanent,
    /// What the attempt left in the store is not what it trained.
    Spoiled,
}

/// Milliseconds from the end of an attempt to the earliest start of the next: nothing after a loss, else doubling with
/// each in a row, from one second to a minute.
fn pause(ending: Ending, in_a_row: u32) -> u64 {
    match ending {
        Ending::Progressed | Ending::Lost => 0,
        _ => (500_u64 << in_a_row.min(7)).min(60_000),
    }
}

#[derive(Debug, thiserror::Error, PartialEq)]
#[error("run {run} is {state}: {event} does not apply")]
pub struct IllegalTransition {
    pub run: RunNumber,
    pub state: &'static str,
    pub event: &'static str,
}

impl Run {
    pub fn queued(manifest: Manifest, opened: Vec<EvalSet>, at: Timestamp) -> Self {
        Self {
            number: manifest.run,
            manifest,
            queued_at: at,
            ended_at: None,
            attempts: 0,
            fruitless: 0,
            lost: 0,
            spoiled: 0,
            not_before: at,
            opened,
            last_error: None,
            state: RunState::Queued,
        }
    }

    pub fn chunk_ids(&self) -> impl Iterator<Item = &ChunkId> {
        self.manifest.chunks.iter().map(|chunk| &chunk.id)
    }

    /// Whether nothing has been decided that its inputs could still change.
    pub fn can_be_reissued(&self) -> bool {
        matches!(self.state, RunState::Queued | RunState::Training { .. } | RunState::Evaluating { .. })
    }

    /// A new attempt at once, since its inputs are others: nothing of the last one counts, nor that it was one.
    pub(crate) fn begin_anew(&mut self, at: Timestamp) {
        if self.can_be_reissued() {
            self.state = RunState::Queued;
            self.not_before = at;
        }
    }

    /// The only way a run changes but for [`Self::begin_anew`].
    pub fn apply(&mut self, event: RunEvent, at: Timestamp) -> Result<(), IllegalTransition> {
        use RunEvent as E;
        use RunState as S;
        let state = match (&self.state, event) {
            (S::Queued, E::Started) => {
                self.attempts += 1;
                S::Training { attempt: self.attempts }
            }
            (S::Training { attempt }, E::AttemptEnded { attempt: ended, reason, ending }) if *attempt == ended => {
                self.retry(reason, ending, at, S::Queued)
            }
            (S::Evaluating { .. } | S::Publishing { .. }, E::AttemptEnded { reason, ending: Ending::Spoiled, .. }) => {
                self.spoil(reason, at)
            }
            (S::Evaluating { candidate }, E::AttemptEnded { reason, ending, .. }) => {
                let again = S::Evaluating { candidate: candidate.clone() };
                self.retry(reason, ending, at, again)
            }
            (S::Training { attempt }, E::Trained { attempt: ended, candidate }) if *attempt == ended => {
                self.fruitless = 0;
                S::Evaluating { candidate: *candidate }
            }
            (S::Evaluating { candidate }, E::Judged { report, version: Some(version) }) => {
                S::Publishing { candidate: candidate.clone(), report, version }
            }
            (S::Evaluating { .. }, E::Judged { report, version: None }) => S::Rejected { report },
            (S::Publishing { version, .. }, E::Published) => S::Published { version: *version },
            (S::Publishing { .. }, E::PublishFailed { reason }) => S::Failed { reason },
            (S::Queued | S::Training { .. } | S::Evaluating { .. }, E::Cancelled) => S::Cancelled,
            (state, event) => {
                return Err(IllegalTransition { run: self.number, state: state.name(), event: event.name() });
            }
        };
        self.ended_at = state.is_terminal().then_some(at);
        self.state = state;
        Ok(())
    }

    fn retry(&mut self, reason: String, ending: Ending, at: Timestamp, again: RunState) -> RunState {
        match ending {
            Ending::Failed | Ending::Spoiled => self.fruitless += 1,
            Ending::Progressed => (self.fruitless, self.lost) = (0, 0),
            Ending::Lost | Ending::Unavailable => self.lost += 1,
            Ending::Permanent => self.fruitless = MAX_FRUITLESS_ATTEMPTS,
        }
        self.not_before = at + pause(ending, self.fruitless.max(self.lost));
        self.last_error = Some(reason.clone());
        if self.fruitless >= MAX_FRUITLESS_ATTEMPTS || self.lost >= MAX_LOST_ATTEMPTS {
            RunState::Failed { reason }
        } else {
            again
        }
    }

    /// There is nothing to evaluate or publish: it trains again, from its last checkpoint.
    fn spoil(&mut self, reason: String, at: Timestamp) -> RunState {
        self.spoiled += 1;
        self.not_before = at + pause(Ending::Spoiled, self.spoiled);
        self.last_error = Some(reason.clone());
        if self.spoiled < MAX_SPOILED_CANDIDATES { RunState::Queued } else { RunState::Failed { reason } }
    }
}

impl RunEvent {
    fn name(&self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::AttemptEnded { .. } => "attempt ended",
            Self::Trained { .. } => "trained",
            Self::Judged { .. } => "judged",
            Self::Published => "published",
            Self::PublishFailed { .. } => "publishing failed",
            Self::Cancelled => "cancelled",
        }
    }
}
