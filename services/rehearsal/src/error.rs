use domain::planning::Refusal;
use perennial_proto::convert::Invalid;
use perennial_proto::status::{chain, coded, refused};
use tonic::Status;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error("cannot read the snapshot")]
    Store(#[from] store::Error),
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        match error {
            Error::Refused(refusal) => refused(&refusal),
            Error::Invalid(invalid) => invalid.into(),
            Error::Store(ref source) => coded(source.rpc_code().into(), "STORE", chain(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn a_snapshot_that_is_gone_or_damaged_is_not_to_be_asked_for_again() {
        let digest = || "0".repeat(64);
        let damaged = store::Error::Digest { path: "s".to_owned(), wanted: digest(), found: digest() };
        let status = Status::from(Error::Store(damaged));
        assert_eq!(status.code(), Code::DataLoss);
        assert!(status.message().starts_with("cannot read the snapshot: `s` is damaged"), "{status:?}");
        let slow = std::time::Duration::from_secs(180);
        let down = store::Error::Timeout { action: "read", path: "s".to_owned(), after: slow };
        assert_eq!(Status::from(Error::Store(down)).code(), Code::Unavailable);
    }
}
