//! What the rehearsal buffer holds.
//!
//! Snapshots are made by the run that trains and belong to its version; this service reads them. It
//! never chooses a row: that is `perennial-buffer`'s.

mod error;
mod grpc;

pub use error::Error;
pub use grpc::Rehearsal;
