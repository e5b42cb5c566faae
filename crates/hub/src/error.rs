use std::path::PathBuf;
use std::time::Duration;

use hf_hub::HFError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{given}` names no model of the Hub: write hf://ORG/NAME or hf://ORG/NAME@REVISION")]
    Name { given: String },
    #[error(
        "cannot reach the Hub at {endpoint} for `{repository}`: {reason}; set HF_ENDPOINT to a mirror, or name a local folder"
    )]
    Unreachable { endpoint: String, repository: String, reason: String },
    #[error(
        "the Hub at {endpoint} does not give `{repository}`: {reason}; correct the name, or set HF_TOKEN if it is private or gated"
    )]
    Refused { endpoint: String, repository: String, reason: String },
    #[error("`{repository}` at {commit} has no `{file}`; choose a model with a config.json and safetensors")]
    Incomplete { repository: String, commit: String, file: String },
    #[error("`{file}` of `{repository}` is damaged: {reason}")]
    Damaged { repository: String, file: String, reason: String },
    #[error("cannot write `{path}`: {source}")]
    Write { path: PathBuf, source: std::io::Error },
}

impl Error {
    pub(crate) fn of(error: HFError, endpoint: &str, repository: &str) -> Self {
        let (endpoint, repository) = (endpoint.to_owned(), repository.to_owned());
        let reason = root_cause(&error);
        match error {
            HFError::Request { .. } | HFError::Xet { .. } => Self::Unreachable { endpoint, repository, reason },
            _ => Self::Refused { endpoint, repository, reason },
        }
    }

    pub(crate) fn silent(after: Duration, endpoint: &str, repository: &str) -> Self {
        let (endpoint, repository) = (endpoint.to_owned(), repository.to_owned());
        Self::Unreachable { endpoint, repository, reason: format!("no answer within {} s", after.as_secs()) }
    }
}

/// The last of a chain: "connection refused" rather than "error sending request".
fn root_cause(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.last().map_or_else(String::new, ToString::to_string)
}
