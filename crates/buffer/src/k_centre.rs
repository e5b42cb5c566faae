//! Greedy k-centre (Gonzalez, 1985; as a coreset: Sener and Savarese, 2018): no row is far from a kept one.

use rayon::prelude::*;

use crate::rows;

/// Rows a thread takes at a time.
const ROWS: usize = 256;

/// At most `k` rows in order of choice: `first`, then always the row farthest from those chosen.
///
/// Ties go to the lowest row. The largest distance left is at most twice what `k` rows can reach, and
/// any prefix is what a smaller `k` would have chosen.
pub fn choose(features: &[f32], dim: usize, k: usize, first: usize) -> Vec<usize> {
    assert!(dim > 0 && features.len().is_multiple_of(dim), "{} numbers are no rows of {dim}", features.len());
    // Squared; −∞ once chosen.
    let mut gaps = vec![f64::INFINITY; features.len() / dim];
    let mut chosen = Vec::with_capacity(k.min(gaps.len()));
    let mut next = (first < gaps.len()).then_some(first);
    while let Some(centre) = next.filter(|_| chosen.len() < k) {
        let row = &features[centre * dim..][..dim];
        gaps[centre] = f64::NEG_INFINITY;
        chosen.push(centre);
        let others = features.par_chunks_exact(dim).with_min_len(ROWS);
        gaps.par_iter_mut().zip(others).for_each(|(gap, other)| *gap = gap.min(distance(row, other)));
        next = rows::highest(gaps.iter().copied());
    }
    chosen
}

/// Squared.
fn distance(left: &[f32], right: &[f32]) -> f64 {
    const LANES: usize = 8;
    let (a, a_rest) = left.as_chunks::<LANES>();
    let (b, b_rest) = right.as_chunks::<LANES>();
    let square = |a: f32, b: f32| (f64::from(a) - f64::from(b)).powi(2);
    let mut lanes = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            lanes[lane] += square(a[lane], b[lane]);
        }
    }
    lanes.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(&a, &b)| square(a, b)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::draw::Draw;

    fn features(seed: u64, rows: usize, dim: usize) -> Vec<f32> {
        (0..(rows * dim) as u64).map(|at| Draw::new(seed).at(at).normal() as f32).collect()
    }

    fn radius(features: &[f32], dim: usize, centres: &[usize]) -> f64 {
        let nearest = |row: &[f32]| {
            centres.iter().map(|&c| distance(row, &features[c * dim..][..dim])).fold(f64::INFINITY, f64::min)
        };
        features.chunks(dim).map(nearest).fold(0.0, f64::max).sqrt()
    }

    #[test]
    fn each_row_is_the_farthest_from_those_before() {
        let features = features(1, 60, 11);
        let chosen = choose(&features, 11, 12, 5);
        assert_eq!(chosen[0], 5);
        for size in 1..12 {
            let gap = chosen[..size]
                .iter()
                .map(|&c| distance(&features[chosen[size] * 11..][..11], &features[c * 11..][..11]))
                .fold(f64::INFINITY, f64::min);
            assert_eq!(gap.sqrt(), radius(&features, 11, &chosen[..size]));
        }
    }

    #[test]
    fn the_radius_is_at_most_twice_the_best() {
        for seed in 0..20 {
            let features = features(seed, 12, 2);
            let pairs = (0..12).flat_map(|a| (0..a).map(move |b| [a, b]));
            let triples = pairs.flat_map(|[a, b]| (0..b).map(move |c| [a, b, c]));
            let best = triples.map(|three| radius(&features, 2, &three)).fold(f64::INFINITY, f64::min);
            assert!(radius(&features, 2, &choose(&features, 2, 3, 0)) <= 2.0 * best);
        }
    }

    #[test]
    fn identical_rows_follow_all_others_from_the_lowest() {
        assert_eq!(choose(&[1.0, 1.0, 9.0, 1.0, 9.0], 1, 4, 1), [1, 2, 0, 3]);
    }

    #[test]
    fn nothing_is_chosen_where_there_is_nothing_or_nothing_is_wanted() {
        assert!(choose(&[], 3, 5, 0).is_empty());
        assert!(choose(&[1.0, 2.0], 2, 0, 0).is_empty());
        assert_eq!(choose(&[1.0, 2.0], 2, 9, 0), [0]);
    }
}
