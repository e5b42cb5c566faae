//! What the rehearsal buffer holds.
//!
//! Snapshots are made by the run that trains and belong to its version; this service reads them, and takes rows from everything
//! that they refer to when these must be forgotten. It never chooses a row: that is `perennial-buffer`'s.

mod erase;
mod error;
mod grpc;

pub use erase::Eraser;
pub use error::Error;
pub use grpc::Rehearsal;
