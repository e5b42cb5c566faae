//! What can go wrong with a store, and what the caller should do about it.

use std::io;
use std::time::Duration;

use crate::examples::BadData;

/// URLs that [`crate::open`] understands.
pub(crate) const SUPPORTED: &str =
    "file:///absolute/folder, memory:///, s3://bucket/prefix, gs://bucket/prefix and az://container/prefix";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{url}` is not a store: {reason}; supported are {SUPPORTED}")]
    Url { url: String, reason: String },
    #[error("`{uri}` is refused: {reason}; allowed roots are {roots} (config key `roots`)")]
    OutsideRoots {
        uri: String,
        reason: String,
        /// The configured roots, quoted and comma-separated.
        roots: String,
    },
    #[error(
        "this store cannot keep the commit log: {what}; a conditional put must be atomic, as on AWS S3, MinIO, GCS, Azure and a local directory"
    )]
    Unsuitable { what: String },
    #[error("cannot {action} `{path}`")]
    Store { action: &'static str, path: String, source: object_store::Error },
    #[error("cannot {action} `{path}`")]
    File { action: &'static str, path: String, source: io::Error },
    #[error("cannot {action} `{path}`: no answer within {} s", .after.as_secs_f32())]
    Timeout { action: &'static str, path: String, after: Duration },
    #[error("`{path}` is damaged: its SHA-256 is {found}, wanted {wanted}")]
    Digest { path: String, wanted: String, found: String },
    #[error("`{path}` exists with other content (SHA-256 {found}, this one is {wanted})")]
    Exists { path: String, wanted: String, found: String },
    #[error("`{path}` is not a shard of rows: {reason}")]
    Shard { path: String, reason: String },
    #[error("stream `{path}`: {reason}")]
    Stream { path: String, reason: String },
    #[error("`{path}`")]
    Data { path: String, source: BadData },
}

/// What the caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Mend what was given.
    Invalid,
    /// Name something that exists.
    NotFound,
    /// Another writer was first, with other content.
    Exists,
    /// Choose another store.
    Unsuitable,
    /// Stored bytes are not what was stored: restore them from elsewhere.
    Damaged,
    /// Try again later.
    Unavailable,
}

impl Error {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Url { .. } | Self::OutsideRoots { .. } | Self::Stream { .. } | Self::Data { .. } => Kind::Invalid,
            Self::Unsuitable { .. } => Kind::Unsuitable,
            Self::Store { source, .. } => kind_of(source),
            Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound => Kind::NotFound,
            Self::File { .. } | Self::Timeout { .. } => Kind::Unavailable,
            Self::Digest { .. } | Self::Shard { .. } => Kind::Damaged,
            Self::Exists { .. } => Kind::Exists,
        }
    }

    /// What it is to a client, as a number of `google.rpc.Code`: whichever service meets it, the answer is the same.
    pub fn rpc_code(&self) -> i32 {
        const INVALID_ARGUMENT: i32 = 3;
        const NOT_FOUND: i32 = 5;
        const PERMISSION_DENIED: i32 = 7;
        const FAILED_PRECONDITION: i32 = 9;
        const ABORTED: i32 = 10;
        const UNAVAILABLE: i32 = 14;
        const DATA_LOSS: i32 = 15;
        match (self, self.kind()) {
            (Self::OutsideRoots { .. }, _) => PERMISSION_DENIED,
            (_, Kind::Invalid) => INVALID_ARGUMENT,
            (_, Kind::NotFound) => NOT_FOUND,
            (_, Kind::Exists) => ABORTED,
            (_, Kind::Damaged) => DATA_LOSS,
            (_, Kind::Unsuitable) => FAILED_PRECONDITION,
            (_, Kind::Unavailable) => UNAVAILABLE,
        }
    }

    pub(crate) fn store(action: &'static str, path: impl ToString) -> impl FnOnce(object_store::Error) -> Self {
        let path = path.to_string();
        move |source| Self::Store { action, path, source }
    }

    pub(crate) fn file(action: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::File { action, path, source }
    }
}

fn kind_of(source: &object_store::Error) -> Kind {
    use object_store::Error as E;
    match source {
        E::NotFound { .. } => Kind::NotFound,
        E::AlreadyExists { .. } | E::Precondition { .. } => Kind::Exists,
        E::InvalidPath { .. } | E::UnknownConfigurationKey { .. } => Kind::Invalid,
        E::NotSupported { .. } | E::NotImplemented { .. } => Kind::Unsuitable,
        _ => Kind::Unavailable,
    }
}
