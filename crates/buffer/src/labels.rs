//! How many slots each label holds, and who leaves.
//!
//! Counted anew at each offer: 5,000 slots take microseconds, and a stored count could disagree.

use domain::buffer::Slot;
use domain::draw::Draw;

/// Counts kept side by side, so that a run of one label does not wait for its own last increment.
const LANES: usize = 4;

/// Slots of each label, up to the highest held.
pub fn counts(slots: &[Slot]) -> Vec<u32> {
    let labels = slots.iter().map(|slot| slot.label as usize + 1).max().unwrap_or(0);
    let mut lanes = vec![[0u32; LANES]; labels];
    let (groups, rest) = slots.as_chunks::<LANES>();
    for group in groups {
        for (lane, slot) in group.iter().enumerate() {
            lanes[slot.label as usize][lane] += 1;
        }
    }
    for slot in rest {
        lanes[slot.label as usize][0] += 1;
    }
    lanes.into_iter().map(|lanes| lanes.iter().sum()).collect()
}

/// A random slot of a random one of the labels that hold most; `None` without slots.
pub fn evict(slots: &[Slot], draw: Draw) -> Option<usize> {
    let counts = counts(slots);
    let most = *counts.iter().max()?;
    let largest: Vec<usize> = (0..counts.len()).filter(|&label| counts[label] == most).collect();
    let label = largest[draw.at(0).below(largest.len() as u64) as usize] as u32;
    let member = draw.at(1).below(u64::from(most)) as usize;
    slots.iter().enumerate().filter(|(_, slot)| slot.label == label).nth(member).map(|(slot, _)| slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(labels: &[u32]) -> Vec<Slot> {
        labels.iter().map(|&label| Slot { chunk: 0, row: 0, label, weight: 1.0 }).collect()
    }

    #[test]
    fn every_slot_counts_once() {
        assert_eq!(counts(&slots(&[3, 0, 3, 3, 1, 3, 0])), [2, 1, 0, 4]);
        assert_eq!(counts(&[]), [0u32; 0]);
    }

    #[test]
    fn labels_that_tie_and_their_slots_leave_equally_often() {
        // Label 0 ties with 2 and 3, and lists first; label 1 is smaller.
        let slots = slots(&[0, 1, 2, 3, 3, 2, 0, 2, 1, 3, 0]);
        let mut left = [0f64; 11];
        let runs = 18_000;
        for seed in 0..runs {
            left[evict(&slots, Draw::new(seed)).unwrap()] += 1.0;
        }
        assert_eq!((left[1], left[8]), (0.0, 0.0));
        let expected = runs as f64 / 9.0;
        let chi_square: f64 =
            left.iter().filter(|&&n| n > 0.0).map(|count| (count - expected).powi(2) / expected).sum();
        // 8 degrees of freedom, p = 1e-4.
        assert!(chi_square < 31.8, "{chi_square} {left:?}");
    }

    #[test]
    fn nobody_leaves_an_empty_buffer() {
        assert_eq!(evict(&[], Draw::new(0)), None);
    }
}
