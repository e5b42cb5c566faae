//! What a column that chooses rows holds.

use std::fmt;

use serde::Deserialize;

/// Integers come before strings; a column holds one kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(untagged, expecting = "expected an integer or a string")]
pub(super) enum Value {
    Integer(i64),
    Text(String),
}

impl Value {
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Integer(_) => "integer",
            Self::Text(_) => "string",
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}
