//! A whole Perennial in processes of its own, for tests.

pub mod cluster;
pub mod digits;

pub use cluster::{Cluster, Options, Worker};
