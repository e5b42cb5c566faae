//! Why data is not taken in, and what its producer should do.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use domain::chunk::Split;
use domain::id::{ChunkId, TaskName};
use domain::planning::Refusal;
use domain::state::Inapplicable;
use perennial_proto::convert::Invalid;
use perennial_proto::status::{RETRY_AFTER, chain, coded, refused, retry, unavailable};
use store::examples::{BadData, Unread};
use store::journal::CommitError;
use tonic::{Code, Status};

use crate::admission::Who;

/// Characters of a status. It travels in a header, and clients refuse long ones.
const MAX_TEXT: usize = 2000;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error("a push begins with its header; the first message had none")]
    NoHeader,
    #[error("a message of the push holds neither header nor frame; is the client newer than this server?")]
    EmptyMessage,
    #[error("a push has one header; a second one came after {after} frames")]
    SecondHeader { after: u64 },
    #[error("a frame of {bytes} bytes is over the limit of {limit} bytes a frame; send smaller frames")]
    FrameTooLarge { bytes: usize, limit: usize },
    #[error("a message is over the limit of {limit} bytes a frame; send smaller frames")]
    MessageTooLarge { limit: usize },
    #[error("the payload is over the limit of {limit} bytes a chunk; push it as several chunks")]
    ChunkTooLarge { limit: u64 },
    #[error("{who} has {most} pushes under way, which is its limit; push again when one has ended")]
    Busy { who: Who, most: u32 },
    #[error("nothing arrived for {} s; push the chunk again", .0.as_secs_f32())]
    Idle(Duration),
    #[error("the payload's SHA-256 is {found}, the header says {expected}; it changed on its way, push it again")]
    Digest { expected: String, found: String },
    #[error(
        "{durable} bytes of the payload are durable, so that it cannot go on at {offset}; ask QueryUpload where it can"
    )]
    Offset { offset: u64, durable: u64 },
    #[error("the payload ended at {arrived} of {total} bytes; ask QueryUpload where it can go on")]
    CutShort { arrived: u64, total: u64 },
    #[error(transparent)]
    Data(#[from] BadData),
    #[error(transparent)]
    Store(Box<store::Error>),
    #[error("cannot spool the payload")]
    Spool(#[from] io::Error),
    #[error("the stream broke: {}", .0.message())]
    Stream(Status),
    #[error("{}", .0.message())]
    Control(Status),
    #[error("the control role's answer cannot be used; is it another version?")]
    Answer(#[source] Invalid),
    /// Nobody knows whether it was recorded; pushing again tells.
    #[error("the chunk may not have been recorded; push it again")]
    Log(#[source] Box<CommitError<Infallible>>),
    #[error("the chunk's events do not apply")]
    Inapplicable(#[source] Inapplicable),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("pipeline `{0}` closed its labels while the chunk was sealed; push it again")]
    LabelsClosed(domain::id::PipelineId),
    #[error("labels of the same rows keep changing; push these again")]
    LabelsMoved,
    #[error("the rows of chunk {0} are not checked yet, and may be among those; push the labels again")]
    Unchecked(ChunkId),
    #[error("{most} payloads wait until their rows are checked; push again when some are")]
    Full { most: usize },
    /// Held-out rows measure what the others taught: no row may be on both sides.
    #[error(
        "chunk {chunk} (task `{task}`, split `{}`) holds the same payload; under another task or split its held-out rows would \
         train. Push only rows that are new, or name that chunk's task and split",
        name(*.split)
    )]
    KnownPayload { chunk: ChunkId, task: TaskName, split: Split },
    #[error("sealing stopped")]
    Stopped(#[from] tokio::task::JoinError),
}

/// As lists show it.
fn name(split: Split) -> &'static str {
    match split {
        Split::Train => "train",
        Split::HeldOut => "held_out",
        Split::Auto => "auto",
    }
}

impl Error {
    pub fn code(&self) -> Code {
        match self {
            Self::NoHeader | Self::EmptyMessage | Self::SecondHeader { .. } | Self::Invalid(_) => Code::InvalidArgument,
            Self::FrameTooLarge { .. } | Self::MessageTooLarge { .. } | Self::ChunkTooLarge { .. } => {
                Code::InvalidArgument
            }
            Self::Digest { .. } | Self::Data(_) => Code::InvalidArgument,
            Self::Idle(_) => Code::DeadlineExceeded,
            Self::Busy { .. } | Self::Full { .. } => Code::ResourceExhausted,
            Self::Store(error) => error.rpc_code().into(),
            Self::Spool(_) | Self::Log(_) => Code::Unavailable,
            Self::Stream(status) => status.code(),
            Self::Control(status) => control_code(status),
            Self::Refused(refusal) => refused(refusal).code(),
            Self::LabelsClosed(_)
            | Self::LabelsMoved
            | Self::Unchecked(_)
            | Self::Offset { .. }
            | Self::CutShort { .. } => Code::Aborted,
            Self::KnownPayload { .. } => Code::AlreadyExists,
            Self::Answer(_) | Self::Inapplicable(_) | Self::Stopped(_) => Code::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NoHeader | Self::EmptyMessage | Self::SecondHeader { .. } => "BAD_STREAM",
            Self::FrameTooLarge { .. } | Self::MessageTooLarge { .. } => "FRAME_TOO_LARGE",
            Self::ChunkTooLarge { .. } => "CHUNK_TOO_LARGE",
            Self::Digest { .. } => "DIGEST_MISMATCH",
            Self::Offset { .. } | Self::CutShort { .. } => "UPLOAD_OFFSET",
            Self::Data(_) => "BAD_DATA",
            Self::Idle(_) => "IDLE",
            Self::Store(error) => match **error {
                store::Error::OutsideRoots { .. } => "OUTSIDE_ROOTS",
                _ => "STORE",
            },
            Self::LabelsClosed(_) => "LABELS_CLOSED",
            Self::KnownPayload { .. } => "PAYLOAD_KNOWN",
            _ => "INGEST",
        }
    }
}

/// A connection that breaks shows as any of these, and each call may be repeated.
fn control_code(status: &Status) -> Code {
    match status.code() {
        Code::Unknown | Code::Cancelled | Code::DeadlineExceeded | Code::Unavailable => Code::Unavailable,
        code => code,
    }
}

/// The beginning of a text that a producer's data may have made long.
pub fn short(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Store(Box::new(error))
    }
}

impl From<Unread> for Error {
    fn from(error: Unread) -> Self {
        match error {
            Unread::Bad(error) => Self::Data(error),
            Unread::Io(error) => Self::Spool(error),
        }
    }
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
        let (code, reason) = (error.code(), error.reason());
        match error {
            Error::Invalid(invalid) => invalid.into(),
            Error::Refused(refusal) => refused(&refusal),
            Error::Control(answer) if code != Code::Unavailable => {
                Status::with_details(code, answer.message(), answer.details().to_vec().into())
            }
            Error::Control(answer) => {
                unavailable(format!("the control role does not answer: {}", answer.message()), RETRY_AFTER)
            }
            error @ (Error::Busy { .. } | Error::Full { .. }) => retry(code, "BUSY", error.to_string(), RETRY_AFTER),
            error => coded(code, reason, short(&chain(&error), MAX_TEXT)),
        }
    }
}
