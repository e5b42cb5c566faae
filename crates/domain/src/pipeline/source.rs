//! Places whose objects become chunks as they come.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{InvalidSpec, invalid};
use crate::chunk::Split;
use crate::evalset::ARCHIVE;
use crate::id::TaskName;

/// A prefix that the ingest role watches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Below one of the daemon's `roots`, such as `s3://bucket/tickets/`. Each object below it becomes a chunk once it has
    /// stayed the same for a while; names that begin with a dot or an underscore are passed over.
    pub uri: String,
    /// Default: the pipeline's.
    #[serde(default)]
    pub task: Option<TaskName>,
    #[serde(default)]
    pub split: Split,
    #[serde(default)]
    pub input_column: Option<String>,
    #[serde(default)]
    pub label_column: Option<String>,
}

pub(super) fn check(sources: &[Source]) -> Result<(), InvalidSpec> {
    for (at, source) in sources.iter().enumerate() {
        let given = format!("`{}`", source.uri);
        if !source.uri.contains("://") {
            return Err(invalid("sources.uri", given, "it is not a URI; write a folder as file:///absolute/path"));
        }
        let below = |one: &Source, other: &Source| {
            let rest = one.uri.trim_end_matches('/').strip_prefix(other.uri.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if sources[..at].iter().any(|other| below(source, other) || below(other, source)) {
            return Err(invalid("sources.uri", given, "another one covers it, or is covered; an object is one chunk"));
        }
        if source.task.as_ref().is_some_and(|task| task.as_str() == ARCHIVE) {
            return Err(invalid(
                "sources.task",
                format!("`{ARCHIVE}`"),
                "old tasks merge under that name; choose another",
            ));
        }
    }
    Ok(())
}
