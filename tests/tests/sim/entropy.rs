//! The system's randomness, taken from the seed.
//!
//! The standard library's hash maps ask for it, and so does the order in which tokio's `select!` polls.

use std::sync::atomic::{AtomicU64, Ordering};

use domain::draw::Draw;

static SEED: AtomicU64 = AtomicU64::new(0);

/// From here on, for every thread that has not asked yet.
pub fn seed(seed: u64) {
    SEED.store(seed, Ordering::SeqCst);
}

/// Takes the place of the C library's. It counts nothing: each thread is answered the same, whenever it asks.
///
/// # Safety
///
/// `buffer` must be valid for writes of `length` bytes, as `getrandom(2)` demands.
#[expect(unsafe_code, reason = "a symbol of the C library is replaced, in this test alone")]
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    let draw = Draw::new(SEED.load(Ordering::SeqCst)).named("entropy");
    // SAFETY: the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    bytes.iter_mut().zip(0..).for_each(|(byte, at)| *byte = draw.at(at).bits() as u8);
    length as isize
}
