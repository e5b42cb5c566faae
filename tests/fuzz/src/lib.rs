//! What reads bytes that somebody else wrote, each as one function that takes any bytes at all.
//!
//! A target panics if what it calls does, or breaks a law that is stated beside it; what an input may cost in memory is
//! [`heap`]'s. Knows no fuzzer: `tests/targets.rs` feeds them.

// `cargo bolero` builds the tests of this library, too; what it instruments links with the fuzzer alone.
#[cfg(test)]
use bolero as _;

pub mod documents;
pub mod heap;
pub mod log;
pub mod rows;
pub mod wire;
