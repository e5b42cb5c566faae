//! Which slots a step replays.

use std::collections::HashMap;

use domain::buffer::Snapshot;
use domain::draw::Draw;

/// Slot positions of the replay batch of `step`: `n` of them, none if the buffer is empty.
///
/// Uniform without replacement. A buffer smaller than `n` is gone through in whole permutations, so
/// that every slot appears `⌊n/items⌋` or one more times. Depends on `(seed, step)` and the number of
/// slots alone.
pub fn draw(snapshot: &Snapshot, seed: Draw, step: u64, n: usize) -> Vec<usize> {
    let items = snapshot.slots.len();
    if items == 0 {
        return Vec::new();
    }
    let stream = seed.at(step);
    let mut drawn = Vec::with_capacity(n);
    for pass in 0..n.div_ceil(items) {
        let wanted = items.min(n - drawn.len());
        drawn.extend(sample(stream.at(pass as u64), items, wanted));
    }
    drawn
}

/// The same, with replacement and in proportion to the slots' weights.
pub fn draw_by_weight(snapshot: &Snapshot, seed: Draw, step: u64, n: usize) -> Vec<usize> {
    let mut total = 0.0;
    let sums: Vec<f64> = snapshot.slots.iter().map(|slot| (total += f64::from(slot.weight), total).1).collect();
    if total <= 0.0 {
        return draw(snapshot, seed, step, n);
    }
    let stream = seed.at(step);
    let drawn = (0..n as u64).map(|at| {
        let height = stream.at(at).unit() * total;
        sums.partition_point(|sum| *sum <= height)
    });
    drawn.collect()
}

/// The first `wanted` entries of a shuffle of `0..items`, holding only those that moved.
fn sample(stream: Draw, items: usize, wanted: usize) -> impl Iterator<Item = usize> {
    let mut moved: HashMap<usize, usize> = HashMap::with_capacity(2 * wanted);
    (0..wanted).map(move |here| {
        let there = here + stream.at(here as u64).below((items - here) as u64) as usize;
        let taken = moved.get(&there).copied().unwrap_or(there);
        let displaced = moved.get(&here).copied().unwrap_or(here);
        moved.insert(there, displaced);
        taken
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::id::ChunkId;
    use domain::pipeline::Policy;

    fn buffer(items: u32) -> Snapshot {
        let mut snapshot = Snapshot::empty(Policy::Infinite, 0, 0);
        for row in 0..items {
            crate::offer(&mut snapshot, &ChunkId("a".to_owned()), row, 0);
        }
        snapshot
    }

    #[test]
    fn a_batch_holds_no_slot_twice_and_all_slots_equally_often() {
        let snapshot = buffer(20);
        let mut counts = [0u32; 20];
        for step in 0..5_000 {
            let mut batch = draw(&snapshot, Draw::new(4), step, 8);
            batch.iter().for_each(|&slot| counts[slot] += 1);
            batch.sort_unstable();
            batch.dedup();
            assert_eq!(batch.len(), 8);
        }
        assert!(counts.iter().all(|&n| (1_840..2_160).contains(&n)), "{counts:?}");
    }

    #[test]
    fn a_slot_is_drawn_as_often_as_its_weight_says() {
        let mut snapshot = buffer(4);
        for (slot, weight) in snapshot.slots.iter_mut().zip([1.0, 0.0, 3.0, 4.0]) {
            slot.weight = weight;
        }
        let mut counts = [0u32; 4];
        for step in 0..2_000 {
            draw_by_weight(&snapshot, Draw::new(4), step, 8).into_iter().for_each(|slot| counts[slot] += 1);
        }
        let expected = [2_000, 0, 6_000, 8_000];
        assert!(counts.iter().zip(expected).all(|(&n, expected)| n.abs_diff(expected) < 250), "{counts:?}");
    }

    #[test]
    fn a_small_buffer_is_cycled() {
        let mut batch = draw(&buffer(3), Draw::new(4), 0, 8);
        batch.sort_unstable();
        assert_eq!(batch.len(), 8);
        assert!([0, 1, 2].iter().all(|slot| (2..=3).contains(&batch.iter().filter(|s| *s == slot).count())));
    }

    #[test]
    fn an_empty_buffer_replays_nothing() {
        assert!(draw(&buffer(0), Draw::new(4), 0, 8).is_empty());
    }
}
