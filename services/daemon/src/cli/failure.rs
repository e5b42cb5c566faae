//! Why a command did not do what was asked, in words and as an exit code.

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::yaml::ConfigError;

#[derive(Debug)]
pub enum Failure {
    /// What was asked makes no sense.
    Usage(String),
    Unreachable {
        server: String,
        reason: String,
    },
    /// The server's answer.
    Rpc(Box<Status>),
    /// The gate's answer.
    Refused(String),
    Config(ConfigError),
    File {
        action: &'static str,
        path: String,
        source: std::io::Error,
    },
    Interrupted,
    Failed(String),
}

impl Failure {
    pub fn file(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> Self + use<> {
        let path = path.display().to_string();
        move |source| Self::File { action, path: path.clone(), source }
    }

    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Rpc(status) => matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded),
            _ => false,
        }
    }

    /// Whether asking again may do.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Rpc(status) => {
                let details = status.get_error_details();
                let again =
                    details.error_info().is_some_and(|info| ["UPLOAD_OFFSET", "IDLE"].contains(&info.reason.as_str()));
                again || details.retry_info().is_some() || status.code() == Code::Unavailable
            }
            _ => false,
        }
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) => 2,
            Self::Refused(_) => 3,
            Self::Interrupted => 130,
            failure if failure.is_unavailable() => 4,
            _ => 1,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Refused(text) | Self::Failed(text) => f.write_str(text),
            Self::Unreachable { server, reason } => {
                write!(
                    f,
                    "cannot reach {server}: {reason}\nis perenniald running? (perenniald --config FILE; --server URL says where)"
                )
            }
            Self::Rpc(status) => f.write_str(&explain(status)),
            Self::Config(error) => f.write_str(&perennial_proto::status::chain(error)),
            Self::File { action, path, source } => write!(f, "cannot {action} `{path}`: {source}"),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl From<Status> for Failure {
    /// Statuses that the transport made up are about the connection, not about the request.
    fn from(status: Status) -> Self {
        let cause = std::error::Error::source(&status).map(perennial_proto::status::chain);
        let status = match cause {
            // tonic's word for a deadline, on either side.
            _ if status.message() == "Timeout expired" => {
                Status::deadline_exceeded("no answer within the deadline; --timeout DURATION gives it longer")
            }
            Some(cause) => Status::unavailable(format!("the connection was lost: {cause}")),
            None => status,
        };
        Self::Rpc(Box::new(status))
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

/// The message, and the fields at fault where it does not name them.
fn explain(status: &Status) -> String {
    let mut text = match (status.message(), status.code()) {
        ("", code) => code.description().to_owned(),
        (message, _) => message.to_owned(),
    };
    let details = status.get_error_details();
    let violations = details.bad_request().map_or(&[][..], |bad| &bad.field_violations);
    for violation in violations.iter().filter(|v| !status.message().contains(&v.description)) {
        text.push_str(&format!("\n  {}: {}", violation.field, violation.description));
    }
    if let Some(delay) = details.retry_info().and_then(|retry| retry.retry_delay) {
        text.push_str(&format!("; try again in {}", humantime::format_duration(delay)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    fn code(failure: &Failure) -> String {
        format!("{:?}", failure.exit_code())
    }

    #[test]
    fn fields_at_fault_are_said_once() {
        let said = Status::from(perennial_proto::convert::Invalid::new("pipeline", "`X` is not a name"));
        assert_eq!(Failure::from(said).to_string(), "`pipeline`: `X` is not a name");
        let details = ErrorDetails::with_bad_request_violation("spec.gate.mode", "unknown");
        let unsaid = Status::with_error_details(Code::InvalidArgument, "the spec is invalid", details);
        assert_eq!(Failure::from(unsaid).to_string(), "the spec is invalid\n  spec.gate.mode: unknown");
    }

    #[test]
    fn exit_codes_say_who_has_to_act() {
        assert_eq!(code(&Failure::from(Status::not_found("x"))), code(&Failure::Failed(String::new())));
        assert_eq!(code(&Failure::from(Status::unavailable("x"))), format!("{:?}", ExitCode::from(4)));
        assert_eq!(code(&Failure::from(Status::cancelled("Timeout expired"))), format!("{:?}", ExitCode::from(4)));
        assert_eq!(code(&Failure::Refused(String::new())), format!("{:?}", ExitCode::from(3)));
        assert_eq!(code(&Failure::Usage(String::new())), format!("{:?}", ExitCode::from(2)));
    }

    #[test]
    fn a_busy_server_says_when_to_come_back() {
        let status = perennial_proto::status::unavailable("starting", std::time::Duration::from_secs(2));
        assert_eq!(Failure::from(status).to_string(), "starting; try again in 2s");
    }
}
