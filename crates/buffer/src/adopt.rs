//! A buffer goes on under another policy or capacity.

use domain::buffer::{Slot, Snapshot};
use domain::draw::Draw;
use domain::pipeline::Policy;

use crate::{labels, window};

/// Continues a snapshot under another policy or capacity. A larger capacity keeps every row.
///
/// A smaller one keeps a uniform sample, except that
/// - `class-balanced` and `greedy` evict from the most frequent labels, as they do on an offer;
/// - `window` keeps the newest rows, where the old policy knew which they are;
/// - a selecting policy keeps the first slots of another's, which stand in order of choice.
///
/// Weights stay within `gmc`. Elsewhere they are 1, and what `gmc` takes over from others shares out
/// the rows that were offered of its label.
pub fn adopt(mut snapshot: Snapshot, policy: Policy, capacity: u64) -> Snapshot {
    if (snapshot.policy, snapshot.capacity) == (policy, capacity) {
        return snapshot;
    }
    snapshot.slots = match policy {
        Policy::Infinite => snapshot.slots,
        Policy::Window => window::lay_out(aged(&snapshot, capacity), snapshot.seen, capacity),
        Policy::ClassBalanced | Policy::Greedy => balanced(&snapshot, capacity),
        _ if policy.selects() && snapshot.policy.selects() => first(&snapshot, capacity),
        _ => sample(&snapshot, capacity),
    };
    if policy != snapshot.policy {
        weigh(&mut snapshot, policy);
    }
    (snapshot.policy, snapshot.capacity) = (policy, capacity);
    snapshot
}

fn stream(snapshot: &Snapshot) -> Draw {
    Draw::new(snapshot.seed).named("adopt").at(snapshot.seen)
}

/// A uniform sample in slot order.
fn sample(snapshot: &Snapshot, capacity: u64) -> Vec<Slot> {
    let held = snapshot.slots.len();
    if held as u64 <= capacity {
        return snapshot.slots.clone();
    }
    let mut kept = stream(snapshot).permutation(held);
    kept.truncate(capacity as usize);
    kept.sort_unstable();
    kept.into_iter().map(|slot| snapshot.slots[slot]).collect()
}

fn first(snapshot: &Snapshot, capacity: u64) -> Vec<Slot> {
    snapshot.slots.iter().take(capacity as usize).copied().collect()
}

fn balanced(snapshot: &Snapshot, capacity: u64) -> Vec<Slot> {
    let mut slots = snapshot.slots.clone();
    while slots.len() as u64 > capacity {
        let draw = stream(snapshot).at(slots.len() as u64);
        let Some(slot) = labels::evict(&slots, draw) else { break };
        slots.remove(slot);
    }
    slots
}

fn aged(snapshot: &Snapshot, capacity: u64) -> Vec<Slot> {
    match snapshot.policy {
        Policy::Window => window::by_age(snapshot),
        Policy::Infinite => snapshot.slots.clone(),
        _ => sample(snapshot, capacity),
    }
}

fn weigh(snapshot: &mut Snapshot, policy: Policy) {
    let held = labels::counts(&snapshot.slots);
    for slot in &mut snapshot.slots {
        let label = slot.label as usize;
        let share = snapshot.seen_by_label[label] as f32 / held[label] as f32;
        slot.weight = if policy == Policy::Gmc { share } else { 1.0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{keep, offer};
    use domain::id::ChunkId;

    fn chunk() -> ChunkId {
        ChunkId("a".to_owned())
    }

    /// Rows `0..rows`, three of label 0 to one of label 1.
    fn filled(policy: Policy, capacity: u64, rows: u32) -> Snapshot {
        let mut snapshot = Snapshot::empty(policy, capacity, 1);
        for row in 0..rows {
            offer(&mut snapshot, &chunk(), row, u32::from(row % 4 == 0));
        }
        snapshot
    }

    fn selected(policy: Policy, chosen: &[(usize, f32)]) -> Snapshot {
        let mut snapshot = Snapshot::empty(policy, 100, 1);
        let offered: Vec<(u32, u32)> = (0..100).map(|row| (row, 0)).collect();
        keep(&mut snapshot, &chunk(), &offered, chosen);
        snapshot
    }

    fn rows(snapshot: &Snapshot) -> Vec<u32> {
        snapshot.slots.iter().map(|slot| slot.row).collect()
    }

    #[test]
    fn nothing_changes_where_nothing_is_to_change() {
        for policy in [Policy::Reservoir, Policy::Window, Policy::Greedy, Policy::ClassBalanced] {
            let snapshot = filled(policy, 10, 57);
            assert_eq!(adopt(snapshot.clone(), policy, 10), snapshot);
        }
        let snapshot = selected(Policy::Gmc, &[(3, 2.5), (1, 0.0)]);
        assert_eq!(adopt(snapshot.clone(), Policy::Gmc, 100), snapshot);
    }

    #[test]
    fn a_smaller_reservoir_keeps_a_sample_and_a_larger_one_everything() {
        let small = adopt(filled(Policy::Reservoir, 50, 50), Policy::Reservoir, 10);
        assert_eq!(small.slots.len(), 10);
        assert!(rows(&small).is_sorted() && *rows(&small).last().unwrap() > 10, "{:?}", rows(&small));
        let mut large = adopt(small, Policy::Reservoir, 60);
        for row in 0..40 {
            offer(&mut large, &chunk(), row, 0);
        }
        assert!((11..=50).contains(&large.slots.len()), "{}", large.slots.len());
    }

    #[test]
    fn a_smaller_window_holds_the_newest_rows_and_goes_on_as_if_it_had_always_been_small() {
        for from in [Policy::Window, Policy::Infinite] {
            let mut snapshot = adopt(filled(from, 50, 73), Policy::Window, 20);
            for row in 73..95 {
                let mut held = rows(&snapshot);
                held.sort_unstable();
                assert_eq!(held, (row - 20..row).collect::<Vec<_>>(), "{from:?}");
                offer(&mut snapshot, &chunk(), row, 0);
            }
        }
    }

    #[test]
    fn a_larger_window_is_exact_again_after_one_round() {
        let mut snapshot = adopt(filled(Policy::Window, 7, 40), Policy::Window, 20);
        assert_eq!(rows(&snapshot), (33..40).collect::<Vec<_>>());
        for row in 40..73 {
            offer(&mut snapshot, &chunk(), row, 0);
        }
        let mut held = rows(&snapshot);
        held.sort_unstable();
        assert_eq!(held, (53..73).collect::<Vec<_>>());
    }

    #[test]
    fn a_smaller_balanced_buffer_stays_balanced() {
        for policy in [Policy::ClassBalanced, Policy::Greedy] {
            let small = adopt(filled(Policy::Reservoir, 40, 40), policy, 10);
            assert_eq!(labels::counts(&small.slots), [5, 5], "{policy:?}");
        }
    }

    #[test]
    fn a_smaller_selection_keeps_what_was_chosen_first() {
        let snapshot = selected(Policy::Gmc, &[(3, 2.5), (9, 1.0), (1, 0.5)]);
        let small = adopt(snapshot.clone(), Policy::Gmc, 2);
        assert_eq!(small.slots, snapshot.slots[..2]);
        assert_eq!(rows(&adopt(snapshot, Policy::Herding, 2)), [3, 9]);
    }

    #[test]
    fn weights_are_one_but_under_gmc_where_they_add_up_to_what_was_offered() {
        let streaming = adopt(selected(Policy::Gmc, &[(3, 2.5), (9, 0.0)]), Policy::Reservoir, 100);
        assert_eq!(streaming.slots.iter().map(|slot| slot.weight).collect::<Vec<_>>(), [1.0, 1.0]);
        let weighted = adopt(filled(Policy::Reservoir, 20, 400), Policy::Gmc, 20);
        let mass =
            |label| weighted.slots.iter().filter(|slot| slot.label == label).map(|slot| slot.weight).sum::<f32>();
        assert!((mass(0) - 300.0).abs() < 1e-3 && (mass(1) - 100.0).abs() < 1e-3, "{} {}", mass(0), mass(1));
    }
}
