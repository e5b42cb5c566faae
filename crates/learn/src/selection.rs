//! What a policy that selects keeps of memory and a chunk, from features of the rows.

use std::collections::BTreeMap;

use buffer::{herding, interleave, k_centre, quotas};
use domain::pipeline::Policy;
use tch::{Kind, Tensor};

/// Rows among which to choose: memory's, in the order of their slots, then the chunk's.
pub struct Candidates {
    pub labels: Vec<u32>,
    /// How many of them are memory's.
    pub held: usize,
    /// (rows, width), f32 on the CPU
    pub features: Tensor,
}

/// Which candidates to keep, in order of choice. Each label has an equal share; those of a label that the chunk does not
/// bring were chosen before, and the first of them stay.
pub fn choose(policy: Policy, candidates: &Candidates, capacity: usize) -> Vec<usize> {
    let by_label = by_label(&candidates.labels);
    let counts: Vec<usize> = by_label.values().map(Vec::len).collect();
    let shares = quotas(&counts, capacity);
    let chosen = by_label.values().zip(shares).map(|(rows, share)| match rows.last() {
        Some(&last) if last >= candidates.held => of_label(policy, candidates, rows, share),
        _ => rows[..share].to_vec(),
    });
    interleave(&chosen.collect::<Vec<_>>())
}

/// The candidates of each label, in order.
pub fn by_label(labels: &[u32]) -> BTreeMap<u32, Vec<usize>> {
    let mut rows: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    labels.iter().enumerate().for_each(|(row, label)| rows.entry(*label).or_default().push(row));
    rows
}

fn of_label(policy: Policy, candidates: &Candidates, rows: &[usize], share: usize) -> Vec<usize> {
    let index: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
    let features = candidates.features.index_select(0, &Tensor::from_slice(&index));
    let width = features.size()[1] as usize;
    let values = Vec::<f32>::try_from(features.reshape([-1])).expect("a vector of f32");
    let chosen = match policy {
        Policy::KCentre => k_centre::choose(&values, width, share, nearest_the_mean(&features)),
        _ => herding::choose(&values, width, share),
    };
    chosen.into_iter().map(|at| rows[at]).collect()
}

/// Of (rows, width): the row to start from.
fn nearest_the_mean(features: &Tensor) -> usize {
    let away = features - features.mean_dim(&[0i64][..], true, Kind::Float);
    away.square().sum_dim_intlist(&[1i64][..], false, Kind::Float).argmin(0, false).int64_value(&[]) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::layers::Init;

    fn candidates(labels: &[u32], held: usize) -> Candidates {
        let features = Init::Normal(1.0).draw(4, "features", &[labels.len() as i64, 3]);
        Candidates { labels: labels.to_vec(), held, features }
    }

    #[test]
    fn what_the_chunk_does_not_bring_keeps_the_first_it_chose() {
        // Label 5 is memory's alone; label 6 is in both.
        let labels = [5, 5, 6, 5, 5, 6, 6, 6];
        for policy in [Policy::Herding, Policy::KCentre] {
            let kept = choose(policy, &candidates(&labels, 5), 4);
            let old: Vec<usize> = kept.iter().copied().filter(|&row| labels[row] == 5).collect();
            assert_eq!((old, kept.len()), (vec![0, 1], 4), "{policy:?}");
        }
    }

    #[test]
    fn every_label_keeps_a_row_and_a_short_one_leaves_its_share() {
        let labels: Vec<u32> = [1].into_iter().chain([2; 20]).chain([3; 20]).collect();
        let kept = choose(Policy::Herding, &candidates(&labels, 0), 9);
        let count = |label| kept.iter().filter(|&&row| labels[row] == label).count();
        assert_eq!([1, 2, 3].map(count), [1, 4, 4]);
    }
}
