//! Everything that touches object storage: the commit log, immutable objects, rows of data.
//!
//! It knows bytes, numbers and digests. What may happen to a pipeline is decided elsewhere.

mod error;
pub mod examples;
pub mod fetch;
pub mod journal;
pub mod layout;
pub mod leftovers;
pub mod log;
pub mod objects;
mod open;
pub mod probe;
pub mod roots;
pub mod streams;
mod unique;

pub use error::{Error, Kind};
pub use open::open;
