//! A sliding window (as in Renate; Wistuba et al., 2023): the last rows, and no others.

use domain::buffer::{Slot, Snapshot};

/// The slot that offer number `seen` takes: that of the oldest row, once `held` rows fill the buffer.
pub fn slot(seen: u64, held: u64, capacity: u64) -> Option<u64> {
    if held < capacity {
        return Some(held);
    }
    seen.checked_rem(capacity)
}

/// The slots of a full or growing window, oldest row first.
pub fn by_age(snapshot: &Snapshot) -> Vec<Slot> {
    let mut slots = snapshot.slots.clone();
    if !slots.is_empty() && slots.len() as u64 == snapshot.capacity {
        slots.rotate_left((snapshot.seen % snapshot.capacity) as usize);
    }
    slots
}

/// The newest `capacity` of `aged` rows, laid out so that [`slot`] takes the oldest next.
///
/// Fewer stay in order of age. Which of them are overwritten first once the rest has filled up is
/// then arbitrary; the window is exact again `capacity` offers later.
pub fn lay_out(mut aged: Vec<Slot>, seen: u64, capacity: u64) -> Vec<Slot> {
    let beyond = aged.len().saturating_sub(capacity as usize);
    aged.drain(..beyond);
    if !aged.is_empty() && aged.len() as u64 == capacity {
        aged.rotate_right((seen % capacity) as usize);
    }
    aged
}
