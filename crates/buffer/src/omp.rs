//! Non-negative orthogonal matching pursuit, for gradient-matching coresets (Balles et al., 2022).
//!
//! Chooses candidates `uᵢ` and weights `w ≥ 0` such that `Σ wᵢ uᵢ ≈ b`, from inner products alone: what
//! a candidate is, and in how many dimensions, is the caller's. Holds one Gram column of f64 for each
//! chosen candidate, 160 MB for 1,000 of 20,000.

use rayon::prelude::*;

use crate::nnls::Nnls;
use crate::rows;

/// Correlations a thread updates at a time; they stay in its cache while the columns pass.
const BLOCK: usize = 1024;
/// A correlation below this share of the largest at the start is rounding, not descent.
const FLOOR: f64 = 1e-11;

/// What is to be matched.
#[derive(Clone, Debug)]
pub struct Problem {
    /// `⟨uᵢ, b⟩`, one for each candidate.
    pub correlations: Vec<f64>,
    /// `‖b‖²`
    pub target_norm2: f64,
}

#[derive(Clone, Debug)]
pub struct Options {
    /// Candidates chosen at most. Where that is all of them, keeping each at its own mass is exact and
    /// needs no pursuit; the masses are the caller's.
    pub atoms: usize,
    /// Stops once `‖b − Σ wᵢ uᵢ‖` is at most this share of `‖b‖`.
    pub tolerance: f64,
    /// λ of the penalty `λ‖w‖²`.
    pub ridge: f64,
    /// `‖uᵢ‖`, if the choice is to divide correlations by them.
    pub norms: Option<Vec<f64>>,
}

impl Options {
    pub fn new(atoms: usize) -> Self {
        Self { atoms, tolerance: 1e-4, ridge: 0.0, norms: None }
    }
}

/// Why no further candidate was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Full,
    Matched,
    /// No candidate left points towards what is missing.
    Exhausted,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Coreset {
    /// In order of choice.
    pub support: Vec<usize>,
    /// One for each of the support; 0 where later choices made one superfluous.
    pub weights: Vec<f64>,
    /// `‖b − Σ wᵢ uᵢ‖ / ‖b‖` after each choice.
    pub residuals: Vec<f64>,
    pub stop: Stop,
}

/// Gives the inner products of a candidate with every candidate.
pub type Column<'a> = &'a mut dyn FnMut(usize) -> Vec<f64>;

/// Chooses the candidate most correlated with what is missing, refits all weights, and repeats.
///
/// Ties go to the lowest candidate. The same bits at any number of threads.
pub fn solve(problem: &Problem, column: Column, options: &Options) -> Coreset {
    let mut pursuit = Pursuit::new(problem, options.ridge);
    let mut residuals = Vec::new();
    let stop = loop {
        if pursuit.support.len() >= options.atoms {
            break Stop::Full;
        }
        if residuals.last().is_some_and(|&residual| residual <= options.tolerance) {
            break Stop::Matched;
        }
        let Some(atom) = pursuit.next(options.norms.as_deref()) else { break Stop::Exhausted };
        pursuit.add(atom, column(atom));
        residuals.push(relative(&pursuit.fit, problem));
    };
    Coreset { support: pursuit.support, weights: pursuit.fit.weights().to_vec(), residuals, stop }
}

/// The best weights of a support that somebody else chose, and the relative residual they leave.
pub fn weigh(support: &[usize], problem: &Problem, column: Column, ridge: f64) -> (Vec<f64>, f64) {
    let mut fit = Nnls::new(ridge, floor(problem));
    for (at, &atom) in support.iter().enumerate() {
        let products = column(atom);
        fit.push(support[..=at].iter().map(|&other| products[other]).collect(), problem.correlations[atom]);
    }
    fit.refit();
    (fit.weights().to_vec(), relative(&fit, problem))
}

/// What one worker chose of its own rows; also what a coreset carries to the next update.
#[derive(Clone, Debug, PartialEq)]
pub struct Part<Row> {
    pub rows: Vec<Row>,
    pub weights: Vec<f64>,
    /// `b`, of all rows that the part stands for, so that errors of choice do not add up.
    pub target: Vec<f64>,
}

/// The candidates of two parts, and the target of both: what the next pursuit chooses from.
///
/// Sums depend on the order of merging in their last bits; parts are to be folded in one order.
pub fn merge<Row>(mut left: Part<Row>, right: Part<Row>) -> Part<Row> {
    left.rows.extend(right.rows);
    left.weights.extend(right.weights);
    rows::add_scaled(&mut left.target, 1.0, &right.target);
    left
}

fn floor(problem: &Problem) -> f64 {
    FLOOR * problem.correlations.iter().copied().fold(0.0, f64::max)
}

fn relative(fit: &Nnls, problem: &Problem) -> f64 {
    (fit.residual2(problem.target_norm2).max(0.0) / problem.target_norm2).sqrt()
}

struct Pursuit<'a> {
    problem: &'a Problem,
    floor: f64,
    fit: Nnls,
    support: Vec<usize>,
    taken: Vec<bool>,
    /// Of the support.
    columns: Vec<Vec<f64>>,
    /// `⟨uᵢ, r⟩` of every candidate.
    correlations: Vec<f64>,
}

impl<'a> Pursuit<'a> {
    fn new(problem: &'a Problem, ridge: f64) -> Self {
        let (floor, correlations) = (floor(problem), problem.correlations.clone());
        let taken = vec![false; correlations.len()];
        Self { problem, floor, fit: Nnls::new(ridge, floor), support: vec![], taken, columns: vec![], correlations }
    }

    fn next(&self, norms: Option<&[f64]>) -> Option<usize> {
        let score = |at: usize| match self.correlations[at] {
            correlation if self.taken[at] || correlation <= self.floor => f64::NEG_INFINITY,
            correlation => norms.map_or(correlation, |norms| correlation / norms[at]),
        };
        rows::highest((0..self.taken.len()).map(score))
    }

    fn add(&mut self, atom: usize, column: Vec<f64>) {
        assert_eq!(column.len(), self.taken.len(), "one product for each candidate");
        self.taken[atom] = true;
        self.support.push(atom);
        let products = self.support.iter().map(|&other| column[other]).collect();
        self.columns.push(column);
        self.fit.push(products, self.problem.correlations[atom]);
        self.fit.refit();
        self.correlate();
    }

    /// Anew from the target, so that rounding does not add up over choices.
    fn correlate(&mut self) {
        let weighted = self.columns.iter().zip(self.fit.weights());
        let active: Vec<(&[f64], f64)> =
            weighted.filter(|&(_, &weight)| weight > 0.0).map(|(column, &weight)| (&column[..], weight)).collect();
        let targets = self.problem.correlations.par_chunks(BLOCK);
        self.correlations.par_chunks_mut(BLOCK).zip(targets).enumerate().for_each(
            |(block, (correlations, targets))| {
                correlations.copy_from_slice(targets);
                subtract(correlations, &active, block * BLOCK);
            },
        );
    }
}

/// Four columns at a time, so that a block is read and written a quarter as often.
fn subtract(block: &mut [f64], active: &[(&[f64], f64)], start: usize) {
    let end = start + block.len();
    let (groups, rest) = active.as_chunks::<4>();
    for group in groups {
        let [a, b, c, d] = group.map(|(column, _)| &column[start..end]);
        let weights = group.map(|(_, weight)| weight);
        for ((((out, a), b), c), d) in block.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            *out -= weights[0] * a + weights[1] * b + weights[2] * c + weights[3] * d;
        }
    }
    for (column, weight) in rest {
        rows::add_scaled(block, -weight, &column[start..end]);
    }
}
