//! Sums and products over row-major features: f32 in, f64 out, the same bits at any number of threads.

use rayon::prelude::*;

const LANES: usize = 8;
/// Rows a thread takes at a time, so that small inputs stay on one.
const ROWS: usize = 256;

/// `Σ weights[i] · row i`, added in order of `i`.
pub fn weighted_sum(features: &[f32], dim: usize, weights: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; dim];
    for (row, &weight) in features.chunks_exact(dim).zip(weights) {
        add_scaled(&mut sum, weight, row);
    }
    sum
}

/// The product of each row with `with`.
pub fn products(features: &[f32], dim: usize, with: &[f64]) -> Vec<f64> {
    map(features, dim, |row| dot(row, with))
}

/// Of each row.
pub(crate) fn norms(features: &[f32], dim: usize) -> Vec<f64> {
    map(features, dim, |row| row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt())
}

pub(crate) fn map(features: &[f32], dim: usize, value: impl Fn(&[f32]) -> f64 + Send + Sync) -> Vec<f64> {
    assert!(dim > 0 && features.len().is_multiple_of(dim), "{} numbers are no rows of {dim}", features.len());
    features.par_chunks_exact(dim).with_min_len(ROWS).map(value).collect()
}

/// The position of the highest score, the lowest among equals; none of those at −∞ or NaN.
pub(crate) fn highest(scores: impl IntoIterator<Item = f64>) -> Option<usize> {
    let mut best = (f64::NEG_INFINITY, None);
    for (at, score) in scores.into_iter().enumerate() {
        if score > best.0 {
            best = (score, Some(at));
        }
    }
    best.1
}

/// In lanes, which a compiler may not reorder on its own.
pub(crate) fn dot<T: Copy + Into<f64>>(left: &[T], right: &[f64]) -> f64 {
    let (a, a_rest) = left.as_chunks::<LANES>();
    let (b, b_rest) = right.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            lanes[lane] += a[lane].into() * b[lane];
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(&a, &b)| a.into() * b).sum();
    lanes.iter().sum::<f64>() + rest
}

pub(crate) fn add_scaled<T: Copy + Into<f64>>(sum: &mut [f64], scale: f64, values: &[T]) {
    for (sum, &value) in sum.iter_mut().zip(values) {
        *sum += scale * value.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_in_lanes_are_those_one_by_one() {
        for dim in [1, 7, 8, 9, 40] {
            let features: Vec<f32> = (0..3 * dim).map(|i| (i as f32 * 0.7).sin()).collect();
            let with: Vec<f64> = (0..dim).map(|i| (i as f64 * 0.3).cos()).collect();
            let plain = |row: &[f32]| row.iter().zip(&with).map(|(&a, b)| f64::from(a) * b).sum::<f64>();
            for (product, row) in products(&features, dim, &with).into_iter().zip(features.chunks(dim)) {
                assert!((product - plain(row)).abs() < 1e-12, "{dim}");
            }
        }
    }

    #[test]
    fn the_lowest_of_equals_is_highest_and_nothing_is_where_nothing_counts() {
        assert_eq!(highest([1.0, 3.0, f64::NAN, 3.0]), Some(1));
        assert_eq!(highest([f64::NEG_INFINITY, f64::NAN]), None);
    }

    #[test]
    fn rows_add_up_by_their_weights() {
        assert_eq!(weighted_sum(&[1.0, 2.0, 3.0, 4.0], 2, &[2.0, -1.0]), [-1.0, 0.0]);
    }
}
