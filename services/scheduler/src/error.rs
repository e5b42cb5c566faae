use domain::planning::Refusal;
use domain::state::Inapplicable;
use perennial_proto::convert::Invalid;
use perennial_proto::status::{RETRY_AFTER, chain, refused, status, unavailable};
use store::journal::CommitError;
use tonic::{Code, Status};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error("worker `{0}` holds no lease")]
    UnknownWorker(String),
    /// Nobody knows whether it was recorded.
    #[error("the change may not have been recorded")]
    Log(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the change does not apply")]
    Inapplicable(#[source] Inapplicable),
}

impl From<CommitError<Refusal>> for Error {
    fn from(error: CommitError<Refusal>) -> Self {
        match error {
            CommitError::Refused(refusal) => Self::Refused(refusal),
            CommitError::Inapplicable(reason) => Self::Inapplicable(reason),
            other => Self::Log(Box::new(other)),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        match error {
            Error::Refused(refusal) => refused(&refusal),
            Error::Invalid(invalid) => invalid.into(),
            Error::UnknownWorker(_) => status(Code::NotFound, "UNKNOWN_WORKER", error.to_string()),
            Error::Log(_) => unavailable(chain(&error), RETRY_AFTER),
            Error::Inapplicable(_) => status(Code::Internal, "INAPPLICABLE", chain(&error)),
        }
    }
}
