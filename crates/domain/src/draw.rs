//! Counter-based random draws: a value depends on its key alone, never on what was drawn before.
//!
//! A restored process therefore continues with exactly the draws it would have made.

/// SplitMix64's finaliser (Steele, Lea and Flood, 2014): a bijection on 64 bits.
pub const fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stream of draws named by a seed and any number of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw(u64);

impl Draw {
    pub const fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// The stream of `key` within this one.
    pub const fn at(self, key: u64) -> Self {
        Self(mix(self.0 ^ mix(key)))
    }

    /// The stream of a named purpose within this one.
    pub fn named(self, purpose: &str) -> Self {
        purpose.bytes().fold(self, |draw, byte| draw.at(u64::from(byte)))
    }

    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Uniform in `0..bound`, by the high half of a 128-bit product (Lemire, 2019).
    ///
    /// The bias is below `bound / 2^64`.
    pub fn below(self, bound: u64) -> u64 {
        ((u128::from(self.0) * u128::from(bound)) >> 64) as u64
    }

    /// Uniform in `[0, 1)`, 53 bits.
    pub fn unit(self) -> f64 {
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal by Box and Muller, from two draws below this one.
    pub fn normal(self) -> f64 {
        let radius = (-2.0 * (1.0 - self.at(0).unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.at(1).unit()).cos()
    }

    /// A permutation of `0..n` (Fisher and Yates).
    pub fn permutation(self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for last in (1..n).rev() {
            let other = self.at(last as u64).below(last as u64 + 1) as usize;
            order.swap(last, other);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permutation_holds_every_index_once() {
        let mut order = Draw::new(7).at(3).permutation(1000);
        assert_ne!(order[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn draws_below_a_bound_are_uniform() {
        let mut counts = [0u32; 10];
        (0..100_000).for_each(|key| counts[Draw::new(1).at(key).below(10) as usize] += 1);
        assert!(counts.iter().all(|&n| (9_600..10_400).contains(&n)), "{counts:?}");
    }

    #[test]
    fn normal_draws_have_unit_variance() {
        let draws: Vec<f64> = (0..50_000).map(|key| Draw::new(2).at(key).normal()).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
    }
}
