use domain::id::PipelineId;
use domain::planning::Refusal;
use domain::state::Inapplicable;
use perennial_proto::convert::Invalid;
use perennial_proto::status::{RETRY_AFTER, chain, coded, refused, status, unavailable};
use store::Kind;
use store::journal::CommitError;
use tonic::{Code, Status};

use crate::import::Unfit;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error("`{pipeline}` has no `{alias}`")]
    NoAlias { pipeline: PipelineId, alias: &'static str },
    #[error("no pipeline starts from a base model with SHA-256 `{0}`")]
    UnknownModel(String),
    #[error("run {0} has not been judged")]
    NotJudged(u64),
    #[error("the object store failed")]
    Store(#[source] store::Error),
    /// Nobody knows whether it was recorded.
    #[error("the change may not have been recorded")]
    Log(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the change does not apply")]
    Inapplicable(#[source] Inapplicable),
    #[error("the upload broke off")]
    Upload(#[source] Box<Status>),
    #[error("{what} is over the limit of {limit}; {remedy}")]
    TooLarge { what: String, limit: String, remedy: &'static str },
    #[error("cannot spool the upload")]
    Spool(#[source] std::io::Error),
}

impl From<CommitError<Refusal>> for Error {
    fn from(error: CommitError<Refusal>) -> Self {
        Self::uncommitted(error)
    }
}

impl Error {
    /// Why a decision was not recorded: its own reason, or the log's.
    pub(crate) fn uncommitted<X>(error: CommitError<X>) -> Self
    where
        X: std::error::Error + Into<Self> + Send + Sync + 'static,
    {
        match error {
            CommitError::Refused(reason) => reason.into(),
            CommitError::Inapplicable(reason) => Self::Inapplicable(reason),
            other => Self::Log(Box::new(other)),
        }
    }

    /// Whether the same attempt would fail again, whenever it is made.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Store(error) => error.kind() != Kind::Unavailable,
            Self::Inapplicable(_) => true,
            _ => false,
        }
    }

    /// Whether stored bytes are gone, or are not what was stored.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, Self::Store(error) if matches!(error.kind(), Kind::NotFound | Kind::Damaged))
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        match error {
            Error::Refused(refusal) => refused(&refusal),
            Error::Invalid(invalid) => invalid.into(),
            Error::Unfit(Unfit::Unsupported { .. }) => {
                status(Code::InvalidArgument, "ADAPTER_UNSUPPORTED", error.to_string())
            }
            Error::Unfit(_) => status(Code::FailedPrecondition, "ADAPTER_DIFFERS", error.to_string()),
            Error::NoAlias { .. } => status(Code::NotFound, "NO_ALIAS", error.to_string()),
            Error::UnknownModel(_) => status(Code::NotFound, "UNKNOWN_MODEL", error.to_string()),
            Error::NotJudged(_) => status(Code::FailedPrecondition, "NOT_JUDGED", error.to_string()),
            Error::Store(ref source) => coded(source.rpc_code().into(), "STORE", chain(&error)),
            Error::Log(_) => unavailable(chain(&error), RETRY_AFTER),
            Error::Inapplicable(_) => status(Code::Internal, "INAPPLICABLE", chain(&error)),
            Error::Upload(status) => *status,
            Error::TooLarge { .. } => status(Code::InvalidArgument, "MODEL_TOO_LARGE", error.to_string()),
            Error::Spool(_) => status(Code::Internal, "SPOOL", chain(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_to_act_is_in_the_code() {
        let sum = || "0".repeat(64);
        let damaged = store::Error::Digest { path: "x".to_owned(), wanted: sum(), found: sum() };
        let taken = store::Error::Exists { path: "x".to_owned(), wanted: sum(), found: sum() };
        let down = store::Error::Timeout { action: "read", path: "x".to_owned(), after: RETRY_AFTER };
        let bug = CommitError::Inapplicable(Inapplicable::UnknownRun(7));
        let closed = CommitError::Timeout(RETRY_AFTER);
        for (error, code, permanent) in [
            (Error::Store(damaged), Code::DataLoss, true),
            (Error::Store(taken), Code::Aborted, true),
            (Error::Store(down), Code::Unavailable, false),
            (Error::from(bug), Code::Internal, true),
            (Error::from(closed), Code::Unavailable, false),
        ] {
            assert_eq!(error.is_permanent(), permanent, "{error:?}");
            let status = Status::from(error);
            assert_eq!(status.code(), code, "{status:?}");
        }
    }
}
