//! How errors look on the wire: one code, one sentence, and details a program can read.

use std::collections::HashMap;
use std::time::Duration;

use domain::planning::Refusal;
use domain::producer;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::convert::Invalid;

/// The domain of [`ErrorDetails`]' error info.
pub const ERROR_DOMAIN: &str = "perennial.ai";

/// A status with a machine-readable reason, such as `PIPELINE_BUSY`.
pub fn status(code: Code, reason: &str, message: impl Into<String>) -> Status {
    let details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, HashMap::new());
    Status::with_error_details(code, message, details)
}

/// `UNAVAILABLE`, with how long to wait.
pub fn unavailable(message: impl Into<String>, retry_after: Duration) -> Status {
    retry(Code::Unavailable, "UNAVAILABLE", message, retry_after)
}

/// A status that says how long to wait.
pub fn retry(code: Code, reason: &str, message: impl Into<String>, after: Duration) -> Status {
    let mut details = ErrorDetails::with_retry_info(Some(after));
    details.set_error_info(reason, ERROR_DOMAIN, HashMap::new());
    Status::with_error_details(code, message, details)
}

/// When to come back to a part of ours that did not answer.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A status whose code the error at hand decides; `UNAVAILABLE` says when to come back.
pub fn coded(code: Code, reason: &str, message: impl Into<String>) -> Status {
    match code {
        Code::Unavailable => unavailable(message, RETRY_AFTER),
        code => status(code, reason, message),
    }
}

/// A cause chain on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

impl From<Invalid> for Status {
    fn from(invalid: Invalid) -> Status {
        let message = invalid.to_string();
        let mut details = ErrorDetails::with_bad_request_violation(invalid.field, invalid.reason);
        details.set_error_info("INVALID_ARGUMENT", ERROR_DOMAIN, HashMap::new());
        Status::with_error_details(Code::InvalidArgument, message, details)
    }
}

/// The code of each reason why something may not happen now.
pub fn refused(refusal: &Refusal) -> Status {
    let (code, reason) = match refusal {
        Refusal::UnknownPipeline(_) => (Code::NotFound, "UNKNOWN_PIPELINE"),
        Refusal::UnknownRun(_) => (Code::NotFound, "UNKNOWN_RUN"),
        Refusal::UnknownVersion(_) => (Code::NotFound, "UNKNOWN_VERSION"),
        Refusal::Retired(_) => (Code::FailedPrecondition, "VERSION_RETIRED"),
        Refusal::UnknownChunk(_) => (Code::NotFound, "UNKNOWN_CHUNK"),
        Refusal::Busy(_) => (Code::FailedPrecondition, "PIPELINE_BUSY"),
        Refusal::NothingToTrain { .. } => (Code::FailedPrecondition, "NOTHING_TO_TRAIN"),
        Refusal::NotTrainable { .. } => (Code::FailedPrecondition, "CHUNK_NOT_TRAINABLE"),
        Refusal::NotReleasable { .. } => (Code::FailedPrecondition, "CHUNK_NOT_RELEASABLE"),
        Refusal::NotDroppable { .. } => (Code::FailedPrecondition, "CHUNK_NOT_DROPPABLE"),
        Refusal::Dropped(_) => (Code::FailedPrecondition, "CHUNK_DROPPED"),
        Refusal::Unsealed(_) => (Code::FailedPrecondition, "CHUNK_UNSEALED"),
        Refusal::NoLabels => (Code::FailedPrecondition, "NO_LABELS"),
        Refusal::HasVersions { .. } => (Code::FailedPrecondition, "VERSION_EXISTS"),
        Refusal::NotLora => (Code::FailedPrecondition, "NOT_LORA"),
        Refusal::TooLate { .. } => (Code::FailedPrecondition, "RUN_ENDED"),
        Refusal::LabelsChanged { .. } => (Code::FailedPrecondition, "LABELS_CHANGED"),
        Refusal::Frozen { .. } => (Code::FailedPrecondition, "FIELD_FROZEN"),
        Refusal::NotErased => (Code::FailedPrecondition, "NOT_ERASED"),
        Refusal::NothingLearnt => (Code::FailedPrecondition, "NOTHING_LEARNT"),
        Refusal::AliasMoved { .. } => (Code::Aborted, "ALIAS_MOVED"),
        Refusal::Producer(refusal) => producer(refusal),
        Refusal::NoPrevious => (Code::FailedPrecondition, "NO_PREVIOUS_VERSION"),
    };
    status(code, reason, refusal.to_string())
}

fn producer(refusal: &producer::Refusal) -> (Code, &'static str) {
    match refusal {
        producer::Refusal::Unknown(_) => (Code::FailedPrecondition, "PRODUCER_UNKNOWN"),
        producer::Refusal::StaleEpoch { .. } => (Code::Aborted, "PRODUCER_FENCED"),
        producer::Refusal::UnknownEpoch { .. } => (Code::FailedPrecondition, "EPOCH_UNKNOWN"),
        producer::Refusal::TooMany(_) => (Code::ResourceExhausted, "TOO_MANY_PRODUCERS"),
        producer::Refusal::Gap { .. } => (Code::FailedPrecondition, "SEQUENCE_GAP"),
        producer::Refusal::Reused { .. } => (Code::AlreadyExists, "SEQUENCE_TAKEN"),
        producer::Refusal::Forgotten { .. } => (Code::FailedPrecondition, "SEQUENCE_FORGOTTEN"),
    }
}
