//! What the binaries `perenniald` and `perennial` are made of. Neither links libtorch: training and
//! evaluation happen in `perennial-worker`, which they find and start.

pub mod cli;
pub mod config;
pub mod role;
mod serve;
pub mod shutdown;
pub mod spawn;
pub mod standby;
pub mod telemetry;
mod tidy;
pub mod units;
pub mod yaml;
