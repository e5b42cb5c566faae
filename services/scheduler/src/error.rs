use domain::planning::Refusal;
use perennial_proto::convert::Invalid;
use perennial_proto::status::{chain, refused, status, unavailable};
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
    #[error("not recorded")]
    Log(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<CommitError<Refusal>> for Error {
    fn from(error: CommitError<Refusal>) -> Self {
        match error {
            CommitError::Refused(refusal) => Self::Refused(refusal),
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
            Error::Log(_) => unavailable(chain(&error), std::time::Duration::from_secs(1)),
        }
    }
}
