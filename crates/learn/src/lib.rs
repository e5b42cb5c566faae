//! The numeric core: from a base model, a chunk and a rehearsal buffer to the next version's weights.
//!
//! Synchronous. Never awaits, opens a socket, names a bucket, reads a clock or draws an ambient
//! random number; everything random is a counter-based draw keyed by the manifest. Shape errors
//! inside tensor code are bugs and panic; what comes from files and data returns an [`Error`].

#![forbid(unsafe_code)]

pub mod assemble;
mod batch;
mod carried;
pub mod checkpoint;
pub mod coreset;
pub mod data;
mod descent;
mod error;
pub mod evaluate;
mod files;
mod flat;
pub mod heads;
pub mod import;
pub mod input;
mod intake;
mod kept;
mod memory;
pub mod method;
pub mod model;
pub mod optim;
pub mod peft;
mod pool;
pub mod precision;
pub mod predict;
mod prefix;
pub mod publish;
mod selection;
pub mod selective;
pub mod shift;
mod stage;
pub mod update;
mod validation;
pub mod verify;
mod weights;

pub use carried::{Carried, LEARNER};
pub use error::Error;
pub use files::{Precise, folder_digest};
pub use flat::{Flat, Pass};
pub use intake::Initial;
pub use pool::{Part, Pool};
pub use prefix::Prefix;
