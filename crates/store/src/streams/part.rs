//! Which of a split's rows a generated task holds.

use std::ops::Range;
use std::sync::Arc;

use domain::draw::Draw;

use super::Split;
use super::feature::Feature;
use super::file::DataFile;
use super::value::Value;

/// A row where it lies.
pub(super) struct Place<'a> {
    pub file_name: &'a str,
    pub file: Arc<DataFile>,
    pub row: usize,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Part {
    #[default]
    Whole,
    /// Of the training rows in a random order; of the test rows all.
    Dealt { seed: u64, share: Share },
    /// Of either split's rows, sorted.
    Sorted { order: Order, share: Share },
    /// The rows whose value lies in `from..below`.
    Slice { column: String, from: Option<Value>, below: Option<Value> },
}

/// Sorted by a feature, then `0.5 · n · randomness` pairs of random positions change places.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Order {
    pub feature: Feature,
    pub randomness: f64,
    pub seed: u64,
}

/// The `index`-th of `of` contiguous shares; the first ones hold one more where `of` does not divide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub index: usize,
    pub of: usize,
}

impl Share {
    pub(super) fn all(of: usize) -> impl Iterator<Item = Self> {
        (0..of).map(move |index| Self { index, of })
    }

    pub(super) fn range(self, n: usize) -> Range<usize> {
        let start = |index: usize| index * (n / self.of) + index.min(n % self.of);
        start(self.index)..start(self.index + 1)
    }

    fn pick(self, order: &[usize]) -> Result<Vec<usize>, String> {
        match order.len() {
            n if n < self.of => Err(format!("{n} rows do not fill {} tasks; make fewer tasks", self.of)),
            n => Ok(order[self.range(n)].to_vec()),
        }
    }
}

impl Part {
    pub(super) fn of<'a>(&self, rows: Vec<Place<'a>>, split: Split) -> Result<Vec<Place<'a>>, String> {
        let chosen: Vec<usize> = match self {
            Self::Dealt { seed, share } if split == Split::Train => {
                share.pick(&Draw::new(*seed).named("deal").permutation(rows.len()))?
            }
            Self::Whole | Self::Dealt { .. } => return Ok(rows),
            Self::Sorted { order, share } => share.pick(&order.of(&rows)?)?,
            Self::Slice { .. } => (0..rows.len()).filter(|&at| self.holds(&rows[at])).collect(),
        };
        let mut rows: Vec<Option<Place>> = rows.into_iter().map(Some).collect();
        Ok(chosen.into_iter().filter_map(|at| rows[at].take()).collect())
    }

    fn holds(&self, place: &Place) -> bool {
        let Self::Slice { column, from, below } = self else {
            return true;
        };
        let value = place.file.value(column, place.row);
        from.as_ref().is_none_or(|from| from <= value) && below.as_ref().is_none_or(|below| value < below)
    }
}

impl Order {
    fn of(self, rows: &[Place]) -> Result<Vec<usize>, String> {
        let mut scores = Vec::with_capacity(rows.len());
        for place in rows {
            let file = place.file.scores(self.feature);
            scores.push(file.map_err(|reason| format!("`{}` {reason}", place.file_name))?[place.row]);
        }
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        self.disturb(&mut order);
        Ok(order)
    }

    fn disturb(self, order: &mut [usize]) {
        let n = order.len() as u64;
        let draw = Draw::new(self.seed).named("swap");
        for swap in 0..(0.5 * n as f64 * self.randomness) as u64 {
            let position = |end| draw.at(swap).at(end).below(n) as usize;
            order.swap(position(0), position(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_hold_everything_once_and_differ_by_one_at_most() {
        for (n, of) in [(10, 3), (9, 3), (3, 3), (100, 7)] {
            let ranges: Vec<Range<usize>> = Share::all(of).map(|share| share.range(n)).collect();
            assert_eq!(ranges.iter().cloned().flatten().collect::<Vec<_>>(), (0..n).collect::<Vec<_>>());
            assert!(ranges.iter().all(|range| range.len() - n / of <= 1), "{ranges:?}");
        }
        assert!(Share { index: 0, of: 4 }.pick(&[0, 1, 2]).unwrap_err().contains("3 rows do not fill 4 tasks"));
    }

    #[test]
    fn swaps_keep_every_row_and_move_at_most_two_each() {
        let moved = |randomness, seed| {
            let mut order: Vec<usize> = (0..1000).collect();
            Order { feature: Feature::Intensity, randomness, seed }.disturb(&mut order);
            let moved = order.iter().enumerate().filter(|(at, row)| at != *row).count();
            order.sort_unstable();
            assert_eq!(order, (0..1000).collect::<Vec<_>>());
            moved
        };
        assert_eq!(moved(0.0, 1), 0);
        assert!((150..=200).contains(&moved(0.2, 1)), "{}", moved(0.2, 1));
        // Of n/2 pairs a position stays in none with chance e^-1.
        assert!((590..680).contains(&moved(1.0, 2)), "{}", moved(1.0, 2));
    }
}
