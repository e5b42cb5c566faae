//! A whole Perennial in processes of its own, for tests.

pub mod cluster;
pub mod digits;
pub mod dying;
pub mod insist;
pub mod proxy;

pub use cluster::{Cluster, Options, Worker};
