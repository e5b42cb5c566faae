//! Decides what runs next and on which workers, and carries it out.
//!
//! Decisions are pure ([`reconcile`], [`gang`], [`evaluation`]); [`drive`] applies them. It never
//! touches a tensor, and never writes a version: it ends where a run has been judged.

pub mod drive;
mod erased;
mod error;
pub mod evaluation;
pub mod fleet;
pub mod gang;
mod measure;
pub mod reconcile;
mod run_grpc;
pub mod sweep;
mod worker_grpc;

pub use drive::Scheduler;
pub use drive::Terms;
pub use error::Error;
pub use fleet::Moment;
pub use run_grpc::Runs;
pub use worker_grpc::Workers;
