//! Whether the same rows would have other labels now: a model that was right is wrong on fresh ones.

use domain::draw::Draw;

use super::Found;

/// A permutation test, on one side, that the mean of `fresh` losses lies above that of `reference`; the statistic is the difference in nats.
/// p = (1 + permutations with as large a difference) / (1 + permutations). None with fewer than two on a side, or a loss that is not
/// a number.
pub fn concept(reference: &[f64], fresh: &[f64], permutations: usize, draw: Draw) -> Option<Found> {
    let (m, n) = (reference.len(), fresh.len());
    let all: Vec<f64> = reference.iter().chain(fresh).copied().collect();
    if m < 2 || n < 2 || all.iter().any(|loss| !loss.is_finite()) {
        return None;
    }
    let total: f64 = all.iter().sum();
    let difference = |of_fresh: f64| of_fresh / n as f64 - (total - of_fresh) / m as f64;
    let statistic = difference(fresh.iter().sum());
    let reached = (0..permutations as u64).filter(|&at| {
        let drawn = draw.at(at).permutation(m + n);
        difference(drawn[..n].iter().map(|&place| all[place]).sum()) >= statistic - 1e-12
    });
    Some(Found { statistic, p: (1 + reached.count()) as f64 / (1 + permutations) as f64 })
}
