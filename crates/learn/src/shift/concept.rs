//! Whether rows of a label are harder than those of the same label were: their labels may mean something else by now.

use domain::draw::Draw;

use super::Found;

/// Losses of the rows of one label.
pub struct Losses {
    pub reference: Vec<f64>,
    pub fresh: Vec<f64>,
}

/// A permutation test, on one side, that fresh rows have a higher loss than rows of the same label in the reference. The statistic is the mean
/// over fresh rows of how much higher it is than the mean of their label there, nats; rows change sides within their label alone, so that
/// other proportions of labels are no such shift. p = (1 + permutations with as large a statistic) / (1 + permutations). None without a
/// label that has two rows on each side, or with a loss that is not a number.
pub fn concept(labels: &[Losses], permutations: usize, draw: Draw) -> Option<Found> {
    let labels: Vec<&Losses> = labels.iter().filter(|of| of.reference.len() > 1 && of.fresh.len() > 1).collect();
    let all: Vec<Vec<f64>> = labels.iter().map(|of| [&of.fresh[..], &of.reference].concat()).collect();
    let rows: usize = labels.iter().map(|of| of.fresh.len()).sum();
    if rows == 0 || all.iter().flatten().any(|loss| !loss.is_finite()) {
        return None;
    }
    // Of one label: its fresh rows times the difference of the means.
    let higher = |of: &Losses, all: &[f64], fresh: f64| {
        let total: f64 = all.iter().sum();
        fresh - (total - fresh) / of.reference.len() as f64 * of.fresh.len() as f64
    };
    let statistic = |drawn: &dyn Fn(usize) -> f64| {
        labels.iter().zip(&all).enumerate().map(|(at, (of, all))| higher(of, all, drawn(at))).sum::<f64>() / rows as f64
    };
    let observed = statistic(&|at| labels[at].fresh.iter().sum());
    let reached = (0..permutations as u64).filter(|&permutation| {
        let draw = draw.at(permutation);
        let permuted = |at: usize| {
            let order = draw.at(at as u64).permutation(all[at].len());
            order[..labels[at].fresh.len()].iter().map(|&place| all[at][place]).sum()
        };
        statistic(&permuted) >= observed - 1e-12
    });
    Some(Found { statistic: observed, p: (1 + reached.count()) as f64 / (1 + permutations) as f64 })
}
