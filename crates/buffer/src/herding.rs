//! Herding (iCaRL; Rebuffi et al., 2017): rows whose mean feature follows the mean of all.

use crate::rows;

/// At most `k` rows in order of choice: each brings the mean of those so far nearest to that of all rows.
///
/// Features are divided by their norms first; a row of zeros stays one. Ties go to the lowest row. Any
/// prefix is what a smaller `k` would have chosen. Of one label at a time, to keep as iCaRL does.
pub fn choose(features: &[f32], dim: usize, k: usize) -> Vec<usize> {
    let norms = rows::norms(features, dim);
    let scales: Vec<f64> = norms.iter().map(|&norm| if norm > 0.0 { 1.0 / norm } else { 0.0 }).collect();
    let sum = rows::weighted_sum(features, dim, &scales);
    let mean: Vec<f64> = sum.iter().map(|total| total / norms.len() as f64).collect();
    let mut taken = vec![false; norms.len()];
    // (size of the choice) · mean − sum of the choice
    let mut missing = vec![0.0; dim];
    let mut chosen = Vec::with_capacity(k.min(norms.len()));
    while chosen.len() < k {
        rows::add_scaled(&mut missing, 1.0, &mean);
        let products = rows::products(features, dim, &missing);
        let Some(next) = rows::highest((0..taken.len()).map(|row| score(products[row], scales[row], taken[row])))
        else {
            break;
        };
        rows::add_scaled(&mut missing, -scales[next], &features[next * dim..][..dim]);
        taken[next] = true;
        chosen.push(next);
    }
    chosen
}

/// `−½‖missing − feature‖²`, but for what all rows share.
fn score(product: f64, scale: f64, taken: bool) -> f64 {
    match taken {
        true => f64::NEG_INFINITY,
        false if scale > 0.0 => product * scale - 0.5,
        false => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::draw::Draw;

    fn features(seed: u64, rows: usize, dim: usize) -> Vec<f32> {
        (0..(rows * dim) as u64).map(|at| Draw::new(seed).at(at).normal() as f32 + 0.3).collect()
    }

    fn normalised(features: &[f32], dim: usize) -> Vec<Vec<f64>> {
        let row = |row: &[f32]| {
            let norm = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            row.iter().map(|&x| if norm > 0.0 { f64::from(x) / norm } else { 0.0 }).collect()
        };
        features.chunks(dim).map(row).collect()
    }

    fn distance(of: &[usize], rows: &[Vec<f64>]) -> f64 {
        let mean = |over: &mut dyn Iterator<Item = usize>, at: usize, n: usize| {
            over.map(|row| rows[row][at]).sum::<f64>() / n as f64
        };
        let gap = |at| mean(&mut of.iter().copied(), at, of.len()) - mean(&mut (0..rows.len()), at, rows.len());
        (0..rows[0].len()).map(|at| gap(at).powi(2)).sum()
    }

    #[test]
    fn each_row_brings_the_mean_nearer_than_any_other_would() {
        let mut features = features(1, 30, 6);
        features[6 * 4..6 * 5].fill(0.0);
        let (chosen, rows) = (choose(&features, 6, 12), normalised(&features, 6));
        for size in 1..=12 {
            let reached = distance(&chosen[..size], &rows);
            for other in (0..30).filter(|row| !chosen[..size].contains(row)) {
                let instead: Vec<usize> = chosen[..size - 1].iter().copied().chain([other]).collect();
                assert!(reached <= distance(&instead, &rows) + 1e-12, "{size} {other}");
            }
        }
    }

    #[test]
    fn a_prefix_is_the_smaller_choice_and_all_rows_are_a_permutation() {
        let features = features(2, 25, 4);
        let mut all = choose(&features, 4, 100);
        assert_eq!(choose(&features, 4, 7), all[..7]);
        all.sort_unstable();
        assert_eq!(all, (0..25).collect::<Vec<_>>());
    }

    #[test]
    fn a_rows_length_does_not_matter() {
        let features = features(3, 20, 4);
        let longer: Vec<f32> = features
            .chunks(4)
            .zip([1.0, 4.0, 0.5].iter().cycle())
            .flat_map(|(row, by)| row.iter().map(move |x| x * by))
            .collect();
        assert_eq!(choose(&longer, 4, 8), choose(&features, 4, 8));
    }

    #[test]
    fn identical_rows_are_taken_from_the_lowest() {
        assert_eq!(choose(&[2.0, 1.0].repeat(5), 2, 3), [0, 1, 2]);
    }

    #[test]
    fn nothing_is_chosen_where_there_is_nothing_or_nothing_is_wanted() {
        assert!(choose(&[], 3, 5).is_empty());
        assert!(choose(&[1.0, 2.0], 2, 0).is_empty());
    }
}
