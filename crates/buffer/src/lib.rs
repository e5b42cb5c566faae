//! The rehearsal buffer as pure data: one row offered, one snapshot changed.
//!
//! Which rows are kept and which are replayed is decided here, by counter-based draws or from
//! features that somebody else computed; the rows themselves stay in their chunks. Knows no tensor, no file and no clock.

mod adopt;
mod cholesky;
mod class_balanced;
mod greedy;
pub mod herding;
mod infinite;
pub mod k_centre;
mod labels;
mod nnls;
pub mod omp;
pub mod products;
mod quotas;
mod replay;
mod reservoir;
pub mod rows;
mod window;

pub use adopt::adopt;
pub use quotas::{interleave, quotas};
pub use replay::{draw, draw_by_weight};

use domain::buffer::{Slot, Snapshot};
use domain::id::ChunkId;
use domain::pipeline::Policy;

/// Shows the buffer one row, which it may keep; the slot it then has.
///
/// Each row is to be offered once an update, in data order: draws depend on how many came before.
/// A policy that selects counts the row and keeps nothing of it: its slots come from [`keep`].
pub fn offer(snapshot: &mut Snapshot, chunk: &ChunkId, row: u32, label: u32) -> Option<usize> {
    let (seed, seen, held) = (snapshot.seed, snapshot.seen, snapshot.slots.len());
    count(snapshot, label);
    let slot = match snapshot.policy {
        Policy::Reservoir => reservoir::slot(seed, seen, snapshot.capacity),
        Policy::ClassBalanced => class_balanced::slot(snapshot, seen, label),
        Policy::Greedy => greedy::slot(snapshot, seen),
        Policy::Window => window::slot(seen, held as u64, snapshot.capacity),
        Policy::Infinite => infinite::slot(seen),
        Policy::Herding | Policy::KCentre | Policy::Gmc => None,
    };
    // Beyond the last slot when the capacity has grown since the buffer was full.
    let slot = held.min(slot? as usize);
    let kept = Slot { chunk: position(snapshot, chunk), row, label, weight: 1.0 };
    match snapshot.slots.get_mut(slot) {
        Some(taken) => *taken = kept,
        None => snapshot.slots.push(kept),
    }
    Some(slot)
}

/// Ends a chunk under a policy that selects: `chosen` become the slots, and the rows count as offered.
///
/// Candidates are the slots, in order, and then the `offered` rows of the chunk, each with its label. `chosen` names
/// candidates in order of choice, each with its weight.
pub fn keep(snapshot: &mut Snapshot, chunk: &ChunkId, offered: &[(u32, u32)], chosen: &[(usize, f32)]) {
    let (chunk, held) = (position(snapshot, chunk), snapshot.slots.len());
    let candidate = |at: usize| match snapshot.slots.get(at) {
        Some(slot) => *slot,
        None => Slot { chunk, row: offered[at - held].0, label: offered[at - held].1, weight: 1.0 },
    };
    snapshot.slots = chosen.iter().map(|&(at, weight)| Slot { weight, ..candidate(at) }).collect();
    offered.iter().for_each(|&(_, label)| count(snapshot, label));
}

fn count(snapshot: &mut Snapshot, label: u32) {
    snapshot.seen += 1;
    let known = snapshot.seen_by_label.len().max(label as usize + 1);
    snapshot.seen_by_label.resize(known, 0);
    snapshot.seen_by_label[label as usize] += 1;
}

/// Where `chunk` stands in the snapshot's list, appended if it is new.
fn position(snapshot: &mut Snapshot, chunk: &ChunkId) -> u32 {
    // From the back: rows arrive chunk by chunk.
    let known = snapshot.chunks.iter().rposition(|id| id == chunk);
    let position = known.unwrap_or_else(|| {
        snapshot.chunks.push(chunk.clone());
        snapshot.chunks.len() - 1
    });
    position as u32
}

/// Forgets chunks that no slot refers to any more, so that nobody fetches them.
pub fn compact(snapshot: &mut Snapshot) {
    let mut used = vec![false; snapshot.chunks.len()];
    for slot in &snapshot.slots {
        used[slot.chunk as usize] = true;
    }
    let mut moved = Vec::with_capacity(used.len());
    let mut next = 0;
    for &is_used in &used {
        moved.push(next);
        next += u32::from(is_used);
    }
    for slot in &mut snapshot.slots {
        slot.chunk = moved[slot.chunk as usize];
    }
    let mut used = used.into_iter();
    snapshot.chunks.retain(|_| used.next().unwrap_or(false));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(name: &str) -> ChunkId {
        ChunkId(name.to_owned())
    }

    fn filled(seed: u64, capacity: u64, rows: u32) -> Snapshot {
        let mut snapshot = Snapshot::empty(Policy::Reservoir, capacity, seed);
        for row in 0..rows {
            offer(&mut snapshot, &chunk("a"), row, 0);
        }
        snapshot
    }

    #[test]
    fn what_was_offered_is_counted_by_label_and_what_is_kept_knows_its_slot() {
        let mut snapshot = Snapshot::empty(Policy::Reservoir, 2, 0);
        let labels = [3, 0, 3, 3, 1];
        for (row, label) in (0..).zip(labels) {
            if let Some(slot) = offer(&mut snapshot, &chunk("a"), row, label) {
                let kept = snapshot.slots[slot];
                assert_eq!((kept.row, kept.label, kept.weight), (row, label, 1.0));
            }
        }
        assert_eq!((snapshot.seen, snapshot.seen_by_label), (5, vec![1, 1, 0, 3]));
    }

    #[test]
    fn infinite_keeps_every_row_in_order() {
        let mut snapshot = Snapshot::empty(Policy::Infinite, 1, 0);
        for row in 0..50 {
            offer(&mut snapshot, &chunk("a"), row, 0);
        }
        let rows: Vec<u32> = snapshot.slots.iter().map(|slot| slot.row).collect();
        assert_eq!(rows, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn a_grown_buffer_says_where_it_puts_a_row() {
        for policy in [Policy::Reservoir, Policy::Greedy, Policy::Window, Policy::Infinite] {
            let mut snapshot = adopt(filled(1, 10, 50), policy, 100);
            assert_eq!(offer(&mut snapshot, &chunk("b"), 0, 0), Some(10), "{policy:?}");
            assert_eq!(snapshot.slots.len(), 11);
        }
    }

    #[test]
    fn what_was_chosen_among_memory_and_chunk_is_kept_in_order_with_its_weight() {
        let mut snapshot = Snapshot::empty(Policy::Gmc, 3, 0);
        keep(&mut snapshot, &chunk("a"), &[(0, 5), (1, 6)], &[(1, 2.0), (0, 3.0)]);
        keep(&mut snapshot, &chunk("b"), &[(0, 7), (1, 6)], &[(3, 4.0), (0, 0.0)]);
        let row = |chunk, row, label, weight| Slot { chunk, row, label, weight };
        assert_eq!(snapshot.slots, [row(1, 1, 6, 4.0), row(0, 1, 6, 0.0)]);
        assert_eq!((snapshot.seen, &snapshot.seen_by_label[5..]), (4, &[1, 2, 1][..]));
    }

    #[test]
    fn a_selecting_policy_counts_an_offer_and_keeps_nothing() {
        let mut snapshot = Snapshot::empty(Policy::Herding, 3, 0);
        assert_eq!(offer(&mut snapshot, &chunk("a"), 0, 1), None);
        assert_eq!((snapshot.seen, snapshot.seen_by_label, snapshot.slots), (1, vec![0, 1], vec![]));
    }

    #[test]
    fn chunks_without_a_slot_are_forgotten() {
        let mut snapshot = filled(0, 3, 3);
        let mut row = 0;
        while snapshot.slots.iter().any(|slot| slot.chunk == 0) {
            offer(&mut snapshot, &chunk("b"), row, 0);
            row += 1;
        }
        offer(&mut snapshot, &chunk("c"), 0, 0);
        let before: Vec<_> =
            snapshot.slots.iter().map(|s| (snapshot.chunks[s.chunk as usize].clone(), s.row)).collect();
        compact(&mut snapshot);
        let after: Vec<_> = snapshot.slots.iter().map(|s| (snapshot.chunks[s.chunk as usize].clone(), s.row)).collect();
        assert_eq!(before, after);
        assert!(!snapshot.chunks.contains(&chunk("a")));
    }
}
