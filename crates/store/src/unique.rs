//! Names that no other process will ever choose.

use std::hash::{BuildHasher, Hasher, RandomState};

/// 128 random bits in hex.
///
/// `RandomState` is the standard library's door to the system's randomness; two of its keyed
/// hashes of nothing are two independent words.
pub fn token() -> String {
    let word = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", word(), word())
}
