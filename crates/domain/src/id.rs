//! Names. Each is checked once, where it enters, and then only passed on.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{given}` is not a valid {kind}: use 1 to {max} of a-z, 0-9 and `-`, starting and ending with a letter or digit"
)]
pub struct InvalidName {
    kind: &'static str,
    given: String,
    max: usize,
}

/// A DNS label, so that `<pipeline>-v<NNNN>` is one too (serving fleets ask for that).
fn label(kind: &'static str, max: usize, given: String) -> Result<String, InvalidName> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ends = |c: Option<char>| c.is_some_and(inner);
    let fits = !given.is_empty() && given.len() <= max;
    let legal = given.chars().all(|c| inner(c) || c == '-');
    if fits && legal && ends(given.chars().next()) && ends(given.chars().last()) {
        return Ok(given);
    }
    Err(InvalidName { kind, given, max })
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(given: String) -> Result<Self, InvalidName> {
                label($kind, $max, given).map(Self)
            }
        }
        impl std::str::FromStr for $name {
            type Err = InvalidName;
            fn from_str(given: &str) -> Result<Self, InvalidName> {
                given.to_owned().try_into()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A tenant; `default` unless said otherwise.
    Namespace, "namespace", 40
);
name!(
    /// A pipeline's name within its namespace.
    PipelineName, "pipeline name", 50
);
name!(
    /// A named slice of the data with held-out items.
    TaskName, "task name", 63
);

name!(
    /// Who pushes chunks to a pipeline, and numbers them.
    ProducerName, "producer name", 63
);

impl Default for Namespace {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

/// `namespaces/{ns}/pipelines/{p}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PipelineId {
    pub namespace: Namespace,
    pub name: PipelineName,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidPipelineId {
    #[error("`{0}` is not a resource name: expected `namespaces/{{namespace}}/pipelines/{{pipeline}}`")]
    Form(String),
    #[error(transparent)]
    Name(#[from] InvalidName),
}

impl TryFrom<String> for PipelineId {
    type Error = InvalidPipelineId;
    fn try_from(given: String) -> Result<Self, InvalidPipelineId> {
        given.parse()
    }
}

impl std::str::FromStr for PipelineId {
    type Err = InvalidPipelineId;
    fn from_str(given: &str) -> Result<Self, InvalidPipelineId> {
        match *given.split('/').collect::<Vec<_>>() {
            ["namespaces", namespace, "pipelines", name] => {
                Ok(Self { namespace: namespace.parse()?, name: name.parse()? })
            }
            _ => Err(InvalidPipelineId::Form(given.to_owned())),
        }
    }
}

impl From<PipelineId> for String {
    fn from(id: PipelineId) -> String {
        id.to_string()
    }
}

impl fmt::Display for PipelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "namespaces/{}/pipelines/{}", self.namespace, self.name)
    }
}

/// A chunk, named by its content: the first 16 bytes (in hex) of a SHA-256 over payload, task and split.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChunkId(pub String);

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of a run within its pipeline, from 1.
pub type RunNumber = u64;

/// A run, with its pipeline: `…/pipelines/{p}/runs/{n}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunId {
    pub pipeline: PipelineId,
    pub number: RunNumber,
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/runs/{}", self.pipeline, self.number)
    }
}

/// A published version's number within its pipeline, from 1, never re-used. Written `v3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl Version {
    /// The immutable name under which serving fleets know it: `tickets-v0042`.
    pub fn folder(self, pipeline: &PipelineName) -> String {
        format!("{pipeline}-v{:04}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_id_reads_back() {
        let id: PipelineId = "namespaces/default/pipelines/tickets".parse().unwrap();
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn names_that_would_escape_a_folder_are_refused() {
        for bad in ["", "..", "a/b", "-a", "a-", "A", "a_b"] {
            assert!(bad.parse::<PipelineName>().is_err(), "{bad}");
        }
        assert!("pipelines/x".parse::<PipelineId>().is_err());
    }

    #[test]
    fn a_version_folder_is_a_dns_label() {
        let name: PipelineName = "a".repeat(50).parse().unwrap();
        assert!(Version(9999).folder(&name).len() <= 63);
    }
}
