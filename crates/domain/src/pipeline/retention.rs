//! How long files of versions are kept.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// The newest so many versions keep their files. Older ones keep what is known of them, and their files go unless
    /// something needs them: an alias, a hold, a run, the next run, or a rollback of the champion. Default: all stay.
    pub versions: Option<NonZeroU32>,
}

impl Retention {
    pub(super) fn keeps_all(&self) -> bool {
        self.versions.is_none()
    }
}
