//! Data order: which rows a step sees, and which of its micro-batches a rank computes.
//!
//! A pure function of (seed, update, step): a resumed run goes straight to its step.

use std::ops::Range;

use domain::draw::Draw;

/// Passes over so many rows.
pub struct Order {
    draw: Draw,
    rows: usize,
    batch: usize,
    /// The permutation of the epoch last asked for.
    epoch: Option<(u64, Vec<usize>)>,
}

impl Order {
    pub fn new(draw: Draw, rows: usize, batch: usize) -> Self {
        Self { draw, rows, batch, epoch: None }
    }

    pub fn steps_per_epoch(&self) -> u64 {
        self.rows.div_ceil(self.batch) as u64
    }

    pub fn epoch_of(&self, step: u64) -> u64 {
        step / self.steps_per_epoch()
    }

    /// The rows of a step. The last batch of an epoch may be short.
    pub fn rows(&mut self, step: u64) -> Vec<usize> {
        let epoch = self.epoch_of(step);
        let start = (step % self.steps_per_epoch()) as usize * self.batch;
        let end = self.rows.min(start + self.batch);
        if self.epoch.as_ref().is_none_or(|(known, _)| *known != epoch) {
            self.epoch = Some((epoch, self.draw.at(epoch).permutation(self.rows)));
        }
        let order = self.epoch.as_ref().map_or(&[][..], |(_, order)| order);
        order[start..end].to_vec()
    }
}

/// Part `part` of `0..length` cut into `parts` that differ by at most one.
pub fn part(length: usize, part: usize, parts: usize) -> Range<usize> {
    part * length / parts..(part + 1) * length / parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_sees_every_row_once_and_any_step_can_be_asked_first() {
        let order = || Order::new(Draw::new(3), 23, 5);
        assert_eq!(order().steps_per_epoch(), 5);
        let mut whole = order();
        for epoch in 0..2 {
            let mut rows: Vec<usize> = (5 * epoch..5 * epoch + 5).flat_map(|step| whole.rows(step)).collect();
            rows.sort_unstable();
            assert_eq!(rows, (0..23).collect::<Vec<_>>());
        }
        assert_eq!(order().rows(7), whole.rows(7));
        assert_ne!(whole.rows(2), whole.rows(7));
        assert_eq!(whole.rows(9).len(), 3);
    }

    #[test]
    fn parts_cover_a_batch_in_order_whatever_the_number_of_ranks() {
        for (length, parts) in [(10, 4), (3, 4), (32, 4), (0, 2)] {
            let rows: Vec<usize> = (0..parts).flat_map(|l| part(length, l, parts)).collect();
            assert_eq!(rows, (0..length).collect::<Vec<_>>());
        }
        assert_eq!((0..3).map(|rank| part(4, rank, 3)).collect::<Vec<_>>(), [0..1, 1..2, 2..4]);
    }
}
