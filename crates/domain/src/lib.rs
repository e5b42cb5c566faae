//! The nouns of Perennial and the rules between them.
//!
//! Pure data: serde and thiserror only. Nothing here performs I/O, reads a clock, draws a random
//! number or knows a tensor; time and seeds arrive as arguments.

pub mod buffer;
pub mod calibration;
pub mod chunk;
pub mod draw;
pub mod erasure;
pub mod evalset;
pub mod flips;
pub mod gate;
pub mod held_out;
pub mod id;
pub mod labelled;
pub mod manifest;
pub mod matrix;
pub mod pipeline;
pub mod planning;
pub mod producer;
pub mod report;
pub mod run;
pub mod shift;
pub mod stability;
pub mod state;
pub mod version;

/// Milliseconds since the Unix epoch.
pub type Timestamp = u64;
