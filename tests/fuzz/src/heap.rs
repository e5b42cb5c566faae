//! What an input costs in memory: every allocation of the process is counted.
#![allow(unsafe_code, reason = "an allocator is an unsafe trait; this one counts and hands on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Bytes in use at a time: what wants more is ended before the machine is.
const CEILING: usize = 4 << 30;

struct Counting;

#[global_allocator]
static HEAP: Counting = Counting;
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// One input at a time, or tests beside each other would be charged with what the others take.
static TURN: Mutex<()> = Mutex::new(());

/// Runs with at most `limit` bytes more than were in use before.
///
/// # Panics
/// Where it took more. An allocation that goes beyond [`CEILING`] fails, which ends the process.
pub fn within<T>(limit: usize, run: impl FnOnce() -> T) -> T {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let outcome = run();
    let taken = PEAK.load(Relaxed).saturating_sub(before);
    assert!(taken <= limit, "it took {taken} bytes of memory, and {limit} are allowed");
    outcome
}

fn charge(bytes: usize) -> bool {
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(live, Relaxed);
    live <= CEILING
}

fn refund(bytes: usize) {
    LIVE.fetch_sub(bytes, Relaxed);
}

/// The pointer, if there is one; else what was charged for it is given back.
fn settled(pointer: *mut u8, bytes: usize) -> *mut u8 {
    if pointer.is_null() {
        refund(bytes);
    }
    pointer
}

// SAFETY: memory comes from `System` and goes back to it, with the layouts it came with.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let pointer = match charge(layout.size()) {
            true => unsafe { System.alloc(layout) },
            false => std::ptr::null_mut(),
        };
        settled(pointer, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let pointer = match charge(layout.size()) {
            true => unsafe { System.alloc_zeroed(layout) },
            false => std::ptr::null_mut(),
        };
        settled(pointer, layout.size())
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) };
        refund(layout.size());
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let moved = match charge(size) {
            true => unsafe { System.realloc(pointer, layout, size) },
            false => std::ptr::null_mut(),
        };
        if !moved.is_null() {
            refund(layout.size());
        }
        settled(moved, size)
    }
}
