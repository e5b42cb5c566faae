//! Reservoir sampling (Vitter, 1985, algorithm R): every row seen is held with equal probability.

use domain::draw::Draw;

/// The slot that offer number `seen` takes, or `None` if it is not kept.
///
/// Depends on `(seed, seen)` alone, so a restored buffer keeps exactly what it would have kept.
pub fn slot(seed: u64, seen: u64, capacity: u64) -> Option<u64> {
    if seen < capacity {
        return Some(seen);
    }
    let drawn = Draw::new(seed).named("reservoir").at(seen).below(seen + 1);
    (drawn < capacity).then_some(drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(seed: u64, capacity: u64, rows: u64) -> Vec<u64> {
        let mut held = vec![0; capacity as usize];
        for row in 0..rows {
            if let Some(slot) = slot(seed, row, capacity) {
                held[slot as usize] = row;
            }
        }
        held
    }

    /// A draw on `{0..seen−1}` instead of `{0..seen}` gives 0.211 for the first K and 0.263 for the rest.
    #[test]
    fn every_row_is_held_with_probability_k_over_n() {
        let (k, n, runs) = (5, 20, 40_000);
        let mut held = vec![0f64; n as usize];
        for seed in 0..runs {
            kept(seed, k, n).into_iter().for_each(|row| held[row as usize] += 1.0);
        }
        let expected = (runs * k) as f64 / n as f64;
        let chi_square: f64 = held.iter().map(|count| (count - expected).powi(2) / expected).sum();
        // 19 degrees of freedom, p = 1e-4. Rows of one run exclude each other, which only lowers it.
        assert!(chi_square < 50.8, "{chi_square} {held:?}");
    }

    #[test]
    fn the_row_after_the_buffer_fills_is_not_always_admitted() {
        let admitted = (0..10_000).filter(|&seed| slot(seed, 10, 10).is_some()).count();
        assert!((8_900..9_270).contains(&admitted), "{admitted} of 10000, expected 10/11");
    }

    #[test]
    fn early_and_late_rows_survive_equally_often() {
        let late = (0..2_000).flat_map(|seed| kept(seed, 10, 100)).filter(|&row| row >= 50).count();
        assert!((9_600..10_400).contains(&late), "{late} of 20000 kept rows are late");
    }
}
