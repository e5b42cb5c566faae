//! Takes data in. [`Ingest`] answers producers and knows no journal; [`Record`] keeps the account of
//! chunks and knows no payload. Neither decides what is trained.

mod admission;
mod control;
mod error;
mod grpc;
mod header;
mod labels;
mod limits;
mod prepare;
mod push;
mod record;
mod register;
mod seal;
mod shards;
mod shift;
mod spill;
mod spool;
mod take;
mod unchecked;
mod upload;
mod watch;

pub use admission::Allowance;
pub use error::Error;
pub use limits::Limits;
pub use record::Record;
pub use take::{Ingest, Taken};
pub use watch::Watcher;
