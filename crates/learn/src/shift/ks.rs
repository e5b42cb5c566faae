//! Kolmogorov and Smirnov's two-sample test of each feature, with Bonferroni's correction: `p = min(1, width · min_j p_j)`.

use super::Found;

/// Columns of `reference` and `fresh`. The test of the feature whose distribution functions are farthest apart, and each
/// feature's distance. None without features, with fewer than two rows on a side, or a value that is not a number.
pub fn ks(reference: &[Vec<f64>], fresh: &[Vec<f64>]) -> Option<(Found, Vec<f64>)> {
    let (m, n) = (reference.first()?.len(), fresh.first()?.len());
    let nan = |columns: &[Vec<f64>]| columns.iter().flatten().any(|value| value.is_nan());
    if m < 2 || n < 2 || nan(reference) || nan(fresh) {
        return None;
    }
    let apart: Vec<u64> = reference.iter().zip(fresh).map(|(before, now)| farthest(before, now)).collect();
    let most = *apart.iter().max()?;
    let p = (two_sample_p(most, m, n) * reference.len() as f64).min(1.0);
    let distance = |apart: u64| apart as f64 / (m * n) as f64;
    Some((Found { statistic: distance(most), p }, apart.into_iter().map(distance).collect()))
}

/// The greatest distance of two empirical distribution functions, times both numbers of values: a whole number.
fn farthest(before: &[f64], now: &[f64]) -> u64 {
    let sorted = |values: &[f64]| {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        values
    };
    let (before, now) = (sorted(before), sorted(now));
    let (m, n) = (before.len(), now.len());
    let (mut i, mut j, mut most) = (0, 0, 0);
    while i < m && j < n {
        let value = before[i].min(now[j]);
        i += before[i..].iter().take_while(|&&other| other <= value).count();
        j += now[j..].iter().take_while(|&&other| other <= value).count();
        most = most.max((i * n).abs_diff(j * m));
    }
    most as u64
}

/// P(D ≥ apart/(m·n)) if all m + n values come from one continuous distribution, exactly: the share of lattice paths from (0, 0) to
/// (m, n) that touch a place so far off the diagonal. A path to (i, j) came from (i − 1, j) with probability i/(i + j); what is
/// summed is never a difference, so that the smallest p is as exact as the largest. m·n steps.
fn two_sample_p(apart: u64, m: usize, n: usize) -> f64 {
    let outside = |i: usize, j: usize| (i * n).abs_diff(j * m) as u64 >= apart;
    let mut touched = vec![0.0; n + 1];
    for i in 0..=m {
        for j in 0..=n {
            touched[j] = if outside(i, j) {
                1.0
            } else {
                let from_above = if i > 0 { touched[j] * i as f64 } else { 0.0 };
                let from_left = if j > 0 { touched[j - 1] * j as f64 } else { 0.0 };
                (from_above + from_left) / (i + j).max(1) as f64
            };
        }
    }
    touched[n]
}
