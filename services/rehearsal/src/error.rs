use domain::id::ChunkId;
use domain::planning::Refusal;
use domain::state::Inapplicable;
use perennial_proto::convert::Invalid;
use perennial_proto::status::{chain, coded, refused};
use store::journal::CommitError;
use tonic::{Code, Status};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error("what rows refer to cannot be read or written")]
    Store(#[from] store::Error),
    #[error("chunks keep coming while they are looked through; ask again")]
    Moving,
    #[error("the rows of chunk {0} are not checked yet, so that nobody knows whom they are about; ask again")]
    Unchecked(ChunkId),
    /// Asking again tells.
    #[error("the erasure may not have been recorded; ask for it again")]
    Log(#[source] Box<CommitError<std::convert::Infallible>>),
    #[error("the erasure's event does not apply")]
    Inapplicable(#[source] Inapplicable),
}

impl From<CommitError<Error>> for Error {
    fn from(error: CommitError<Error>) -> Self {
        match error {
            CommitError::Refused(error) => error,
            CommitError::Inapplicable(reason) => Self::Inapplicable(reason),
            CommitError::Closed(reason) => Self::Log(Box::new(CommitError::Closed(reason))),
            CommitError::Unconfirmed(reason) => Self::Log(Box::new(CommitError::Unconfirmed(reason))),
            CommitError::Timeout(after) => Self::Log(Box::new(CommitError::Timeout(after))),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        match error {
            Error::Refused(refusal) => refused(&refusal),
            Error::Invalid(invalid) => invalid.into(),
            Error::Store(ref source) => coded(source.rpc_code().into(), "STORE", chain(&error)),
            Error::Moving => coded(Code::Aborted, "MOVING", chain(&error)),
            Error::Unchecked(_) => coded(Code::Aborted, "UNCHECKED", chain(&error)),
            Error::Log(_) => coded(Code::Unavailable, "LOG", chain(&error)),
            Error::Inapplicable(_) => coded(Code::Internal, "LOG", chain(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_that_is_gone_or_damaged_is_not_to_be_asked_for_again() {
        let digest = || "0".repeat(64);
        let damaged = store::Error::Digest { path: "s".to_owned(), wanted: digest(), found: digest() };
        let status = Status::from(Error::Store(damaged));
        assert_eq!(status.code(), Code::DataLoss);
        assert!(
            status.message().starts_with("what rows refer to cannot be read or written: `s` is damaged"),
            "{status:?}"
        );
        let slow = std::time::Duration::from_secs(180);
        let down = store::Error::Timeout { action: "read", path: "s".to_owned(), after: slow };
        assert_eq!(Status::from(Error::Store(down)).code(), Code::Unavailable);
    }
}
