use domain::planning::Refusal;
use perennial_proto::convert::Invalid;
use perennial_proto::status::{chain, refused, unavailable};
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
            Error::Store(_) => unavailable(chain(&error), std::time::Duration::from_secs(1)),
        }
    }
}
