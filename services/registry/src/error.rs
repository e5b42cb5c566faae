use domain::id::PipelineId;
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
    #[error("`{pipeline}` has no `{alias}`")]
    NoAlias { pipeline: PipelineId, alias: &'static str },
    #[error("run {0} has not been judged")]
    NotJudged(u64),
    #[error("the object store failed")]
    Store(#[source] store::Error),
    #[error("not recorded")]
    Log(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the upload broke off")]
    Upload(#[source] Box<Status>),
    #[error("cannot spool the upload")]
    Spool(#[source] std::io::Error),
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
            Error::NoAlias { .. } => status(Code::NotFound, "NO_ALIAS", error.to_string()),
            Error::NotJudged(_) => status(Code::FailedPrecondition, "NOT_JUDGED", error.to_string()),
            Error::Store(_) | Error::Log(_) => unavailable(chain(&error), std::time::Duration::from_secs(1)),
            Error::Upload(status) => *status,
            Error::Spool(_) => status(Code::Internal, "SPOOL", chain(&error)),
        }
    }
}
