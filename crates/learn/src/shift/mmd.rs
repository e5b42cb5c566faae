//! Maximum mean discrepancy by permutation (Gretton et al., 2012), with a Gaussian kernel of the median distance.
//!
//! The unbiased statistic, `Σ_{i≠j} k(x_i, x_j)/(m(m−1)) + Σ_{i≠j} k(y_i, y_j)/(n(n−1)) − 2·mean k(x_i, y_j)`, whose permutations are one
//! product of the kernel matrix with a matrix of memberships.

use domain::draw::Draw;
use tch::{Kind, Tensor};

use super::Found;

pub struct Mmd {
    pub found: Found,
    /// The median distance of two different rows.
    pub bandwidth: f64,
}

/// `reference` (m, width), `fresh` (n, width). None with fewer than two rows on a side, or a row that is not finite.
/// p = (1 + permutations with as large a statistic) / (1 + permutations), which is never 0.
pub fn mmd(reference: &Tensor, fresh: &Tensor, permutations: usize, draw: Draw) -> Option<Mmd> {
    let (m, n) = (reference.size()[0], fresh.size()[0]);
    let all = Tensor::cat(&[reference, fresh], 0).to_kind(Kind::Double);
    if m < 2 || n < 2 || all.isfinite().all().int64_value(&[]) == 0 {
        return None;
    }
    let distances = distances(&all);
    let bandwidth = median_of_pairs(&distances);
    let kernel = kernel(&distances, bandwidth);
    let observed = Tensor::cat(&[Tensor::ones([m, 1], options()), Tensor::zeros([n, 1], options())], 0);
    let memberships = Tensor::cat(&[observed, memberships(m, n, permutations, draw)], 1);
    let statistics = Vec::<f64>::try_from(statistics(&kernel, &memberships, m, n)).expect("doubles");
    let (observed, permuted) = statistics.split_first().expect("the first is the observed one");
    // Sums of the same numbers in another order differ by rounding.
    let reached = permuted.iter().filter(|&&value| value >= observed - 1e-12).count();
    let p = (1 + reached) as f64 / (1 + permutations) as f64;
    Some(Mmd { found: Found { statistic: *observed, p }, bandwidth })
}

/// The statistic alone. None with fewer than two rows on a side.
pub fn discrepancy(reference: &Tensor, fresh: &Tensor, bandwidth: f64) -> Option<f64> {
    let (m, n) = (reference.size()[0], fresh.size()[0]);
    if m < 2 || n < 2 {
        return None;
    }
    let kernel = kernel(&distances(&Tensor::cat(&[reference, fresh], 0).to_kind(Kind::Double)), bandwidth);
    let observed = Tensor::cat(&[Tensor::ones([m, 1], options()), Tensor::zeros([n, 1], options())], 0);
    Some(statistics(&kernel, &observed, m, n).double_value(&[0]))
}

fn options() -> (Kind, tch::Device) {
    (Kind::Double, tch::Device::Cpu)
}

/// (rows, rows), Euclidean.
fn distances(rows: &Tensor) -> Tensor {
    // Differences, not products: equal rows are at distance 0.
    Tensor::cdist(rows, rows, 2.0, 2)
}

/// Where more than half of the pairs are equal, the mean of the others; 1 where all are.
fn median_of_pairs(distances: &Tensor) -> f64 {
    let rows = distances.size()[0];
    let pairs = distances.masked_select(&Tensor::ones([rows, rows], (Kind::Bool, tch::Device::Cpu)).triu(1));
    let median = pairs.median().double_value(&[]);
    if median > 0.0 {
        return median;
    }
    let apart = pairs.masked_select(&pairs.gt(0.0));
    if apart.numel() == 0 { 1.0 } else { apart.mean(Kind::Double).double_value(&[]) }
}

/// (rows, rows), 0 on the diagonal.
fn kernel(distances: &Tensor, bandwidth: f64) -> Tensor {
    let scaled = distances / bandwidth;
    (scaled.square() * -0.5).exp().fill_diagonal_(0.0, false)
}

/// (m + n, permutations): 1 where a row counts to the reference.
fn memberships(m: i64, n: i64, permutations: usize, draw: Draw) -> Tensor {
    let rows = (m + n) as usize;
    let mut members = vec![0.0; rows * permutations];
    for (at, column) in members.chunks_mut(rows).enumerate() {
        for place in &draw.at(at as u64).permutation(rows)[..m as usize] {
            column[*place] = 1.0;
        }
    }
    Tensor::from_slice(&members).view([permutations as i64, m + n]).transpose(0, 1)
}

/// (columns). With `K` of zero diagonal, `a` a column and `b = 1 − a`: `aᵀKb = aᵀK1 − aᵀKa`, `bᵀKb = 1ᵀK1 − 2·aᵀK1 + aᵀKa`.
fn statistics(kernel: &Tensor, memberships: &Tensor, m: i64, n: i64) -> Tensor {
    let sums = kernel.sum_dim_intlist(1, false, Kind::Double);
    let within = (kernel.matmul(memberships) * memberships).sum_dim_intlist(0, false, Kind::Double);
    let touching = memberships.transpose(0, 1).matmul(&sums);
    let (m, n) = (m as f64, n as f64);
    let other = sums.sum(Kind::Double) - 2.0 * &touching + &within;
    &within / (m * (m - 1.0)) + other / (n * (n - 1.0)) - 2.0 * (&touching - &within) / (m * n)
}
