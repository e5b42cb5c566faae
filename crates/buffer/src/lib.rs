//! The rehearsal buffer as pure data: one row offered, one snapshot changed.
//!
//! Which rows are kept and which are replayed is decided here, by counter-based draws; the rows
//! themselves stay in their chunks. Knows no tensor, no file and no clock.

mod infinite;
mod replay;
mod reservoir;

pub use replay::draw;

use domain::buffer::{Slot, Snapshot};
use domain::draw::Draw;
use domain::id::ChunkId;
use domain::pipeline::Policy;

/// Shows the buffer one row, which it may keep; the slot it then has.
///
/// Each row is to be offered once an update, in data order: the draw depends on how many came before.
pub fn offer(snapshot: &mut Snapshot, chunk: &ChunkId, row: u32, label: u32) -> Option<usize> {
    let slot = match snapshot.policy {
        Policy::Reservoir => reservoir::slot(snapshot.seed, snapshot.seen, snapshot.capacity),
        Policy::Infinite => infinite::slot(snapshot.seen),
    };
    count(snapshot, label);
    let slot = slot? as usize;
    let kept = Slot { chunk: position(snapshot, chunk), row, label, weight: 1.0 };
    match snapshot.slots.get_mut(slot) {
        Some(taken) => *taken = kept,
        None => snapshot.slots.push(kept),
    }
    Some(slot)
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

/// Continues a snapshot under another policy or capacity. A smaller capacity keeps a uniform sample.
pub fn adopt(mut snapshot: Snapshot, policy: Policy, capacity: u64) -> Snapshot {
    (snapshot.policy, snapshot.capacity) = (policy, capacity);
    let held = snapshot.slots.len();
    if policy == Policy::Reservoir && held as u64 > capacity {
        let draw = Draw::new(snapshot.seed).named("adopt").at(snapshot.seen);
        let mut kept = draw.permutation(held);
        kept.truncate(capacity as usize);
        kept.sort_unstable();
        snapshot.slots = kept.into_iter().map(|slot| snapshot.slots[slot]).collect();
    }
    snapshot
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
    fn a_restored_buffer_keeps_what_an_uninterrupted_one_keeps() {
        let whole = filled(3, 20, 500);
        let mut part = filled(3, 20, 137);
        for row in 137..500 {
            let text = serde_json::to_string(&part).unwrap();
            part = serde_json::from_str(&text).unwrap();
            offer(&mut part, &chunk("a"), row, 0);
        }
        assert_eq!(part, whole);
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
    fn a_smaller_capacity_keeps_a_sample_and_a_larger_one_everything() {
        let small = adopt(filled(1, 50, 50), Policy::Reservoir, 10);
        assert_eq!(small.slots.len(), 10);
        let rows: Vec<u32> = small.slots.iter().map(|slot| slot.row).collect();
        assert!(rows.is_sorted() && *rows.last().unwrap() > 10, "{rows:?}");
        let mut large = adopt(small, Policy::Reservoir, 60);
        for row in 0..40 {
            offer(&mut large, &chunk("b"), row, 0);
        }
        assert!((11..=50).contains(&large.slots.len()), "{}", large.slots.len());
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
