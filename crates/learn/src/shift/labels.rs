//! Whether labels come in other proportions, by their histograms; and which they are where only a model's answers are known.

use std::collections::{BTreeMap, BTreeSet};

use statrs::distribution::{ChiSquared, ContinuousCDF};
use tch::{Kind, Tensor};

use super::Found;

/// Pearson's χ² test that two histograms are of one distribution, with one degree of freedom fewer than there are labels; and the
/// change of each label's share. None if a side is empty. Expected counts under five make p too small.
pub fn labels(
    reference: &BTreeMap<String, u64>,
    fresh: &BTreeMap<String, u64>,
) -> Option<(Found, BTreeMap<String, f64>)> {
    let (m, n): (u64, u64) = (reference.values().sum(), fresh.values().sum());
    if m == 0 || n == 0 {
        return None;
    }
    let (m, n) = (m as f64, n as f64);
    let names: BTreeSet<&String> =
        reference.iter().chain(fresh).filter(|(_, count)| **count > 0).map(|(name, _)| name).collect();
    let count = |of: &BTreeMap<String, u64>, name: &String| of.get(name).copied().unwrap_or(0) as f64;
    let (mut statistic, mut changes) = (0.0, BTreeMap::new());
    for name in &names {
        let (before, now) = (count(reference, name), count(fresh, name));
        for (seen, all) in [(before, m), (now, n)] {
            let expected = (before + now) * all / (m + n);
            statistic += (seen - expected).powi(2) / expected;
        }
        changes.insert((*name).clone(), now / n - before / m);
    }
    let freedom = names.len() as f64 - 1.0;
    let p = ChiSquared::new(freedom).map_or(1.0, |distribution| distribution.sf(statistic));
    Some((Found { statistic, p }, changes))
}

/// Black-box shift estimation (Lipton, Wang and Smola, 2018): label proportions of rows that nobody has labelled.
///
/// `joint` (classes, classes): the share of reference rows that are answered i and labelled j. `answered` (classes): the share of fresh rows that
/// are answered i. Where `joint` can be inverted, `w = joint⁻¹ · answered` is how many times as frequent each label is as before;
/// proportions below 0, which noise makes, are 0. None where the answers do not tell the labels apart, or none is of a label of the reference.
pub fn bbse(joint: &Tensor, answered: &Tensor) -> Option<Vec<f64>> {
    /// Below this part of the greatest singular value, answers of one label are those of others.
    const TOLD_APART: f64 = 1e-3;
    let joint = joint.to_kind(Kind::Double);
    let (_, singular, _) = joint.svd(true, true);
    if singular.min().double_value(&[]) <= TOLD_APART * singular.max().double_value(&[]) {
        return None;
    }
    let times = joint.inverse().matmul(&answered.to_kind(Kind::Double));
    let before = joint.sum_dim_intlist(0, false, Kind::Double);
    let now = (times * before).clamp_min(0.0);
    let all = now.sum(Kind::Double);
    if all.double_value(&[]) <= 0.0 {
        return None;
    }
    Vec::try_from(now / all).ok()
}
