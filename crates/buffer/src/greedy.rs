//! Greedy class balancing (Renate; Wistuba et al., 2023): a new row always enters, a frequent label pays.

use domain::buffer::Snapshot;
use domain::draw::Draw;

use crate::labels;

/// The slot that offer number `seen` takes.
pub fn slot(snapshot: &Snapshot, seen: u64) -> Option<u64> {
    if (snapshot.slots.len() as u64) < snapshot.capacity {
        return Some(snapshot.slots.len() as u64);
    }
    let draw = Draw::new(snapshot.seed).named("greedy").at(seen);
    labels::evict(&snapshot.slots, draw).map(|slot| slot as u64)
}
