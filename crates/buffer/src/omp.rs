//! Non-negative orthogonal matching pursuit, for gradient-matching coresets (Balles et al., 2022).
//!
//! Chooses candidates `uᵢ` and weights `w ≥ 0` such that `Σ wᵢ uᵢ ≈ b`, from inner products alone: what
//! a candidate is, and in how many dimensions, is the caller's.
//!
//! To look at every candidate after every choice would read all there is each time. So the pursuit goes on for some
//! steps among those that were most correlated at the last look, and then looks at all of them as they were at each of
//! these steps. The first choice that another candidate would have won is undone, and all after it: what is chosen is
//! what looking at all of them every time would choose.

use crate::nnls::{Nnls, State};
use crate::products::Products;
use crate::rows;

/// A correlation below this share of the largest at the start is rounding, not descent.
const FLOOR: f64 = 1e-11;
/// Choices between two looks at every candidate, at most.
const AHEAD: usize = 32;

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
    /// Candidates among which the pursuit looks ahead. Changes no choice.
    pub shortlist: usize,
}

impl Options {
    pub fn new(atoms: usize) -> Self {
        Self { atoms, tolerance: 1e-4, ridge: 0.0, norms: None, shortlist: 512 }
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

/// Chooses the candidate most correlated with what is missing, refits all weights, and repeats.
///
/// Ties go to the lowest candidate. `products` have no column yet.
pub fn solve(problem: &Problem, products: &mut dyn Products, options: &Options) -> Coreset {
    assert_eq!(problem.correlations.len(), products.count(), "one correlation for each candidate");
    let mut pursuit = Pursuit::new(problem, options);
    let stop = loop {
        if let Some(stop) = pursuit.over() {
            break stop;
        }
        if !pursuit.round(products) {
            break Stop::Exhausted;
        }
    };
    let Pursuit { fit, support, residuals, .. } = pursuit;
    Coreset { support, weights: fit.weights().to_vec(), residuals, stop }
}

/// The best weights of a support that somebody else chose, and the relative residual they leave.
pub fn weigh(support: &[usize], problem: &Problem, products: &dyn Products, ridge: f64) -> (Vec<f64>, f64) {
    let mut part = products.part(support);
    part.push(&(0..support.len()).collect::<Vec<_>>());
    let mut fit = Nnls::new(ridge, floor(problem));
    for (at, &atom) in support.iter().enumerate() {
        let mut products = part.row(at);
        products.truncate(at + 1);
        fit.push(products, problem.correlations[atom]);
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
    options: &'a Options,
    floor: f64,
    fit: Nnls,
    support: Vec<usize>,
    residuals: Vec<f64>,
    /// Whether a candidate is of the support that has been looked at.
    taken: Vec<bool>,
    /// `⟨uᵢ, r⟩` of every candidate, at that support.
    correlations: Vec<f64>,
    ahead: usize,
}

impl<'a> Pursuit<'a> {
    fn new(problem: &'a Problem, options: &'a Options) -> Self {
        let (floor, correlations) = (floor(problem), problem.correlations.clone());
        let (fit, taken) = (Nnls::new(options.ridge, floor), vec![false; correlations.len()]);
        let (support, residuals) = (Vec::new(), Vec::new());
        Self { problem, options, floor, fit, support, residuals, taken, correlations, ahead: 1 }
    }

    fn over(&self) -> Option<Stop> {
        let matched = self.residuals.last().is_some_and(|&residual| residual <= self.options.tolerance);
        match self.support.len() >= self.options.atoms {
            true => Some(Stop::Full),
            false => matched.then_some(Stop::Matched),
        }
    }

    /// What a candidate with this correlation is chosen by.
    fn score(&self, candidate: usize, correlation: f64, taken: bool) -> f64 {
        match &self.options.norms {
            _ if taken || correlation <= self.floor => f64::NEG_INFINITY,
            Some(norms) => correlation / norms[candidate],
            None => correlation,
        }
    }

    /// Whether there was a choice to make.
    fn round(&mut self, products: &mut dyn Products) -> bool {
        let scores: Vec<f64> =
            (0..self.taken.len()).map(|at| self.score(at, self.correlations[at], self.taken[at])).collect();
        if rows::highest(scores.iter().copied()).is_none() {
            return false;
        }
        if scores.len() <= self.options.shortlist {
            // Nobody is left to look at afterwards.
            let all: Vec<usize> = (0..scores.len()).collect();
            self.advance(&mut *products.part(&all), &all, usize::MAX);
            self.taken.fill(true);
            return true;
        }
        let listed = best(&scores, self.options.shortlist);
        let states = self.advance(&mut *products.part(&listed), &listed, self.ahead);
        self.look(products, &states);
        true
    }

    /// Chooses among the listed candidates, once and then up to `ahead` times. The fit after each choice.
    fn advance(&mut self, part: &mut dyn Products, listed: &[usize], ahead: usize) -> Vec<State> {
        let certain = listed.len() == self.taken.len();
        let targets: Vec<f64> = listed.iter().map(|&candidate| self.problem.correlations[candidate]).collect();
        let mut correlations: Vec<f64> = listed.iter().map(|&candidate| self.correlations[candidate]).collect();
        let mut taken: Vec<bool> = listed.iter().map(|&candidate| self.taken[candidate]).collect();
        let mut states: Vec<State> = Vec::new();
        while states.len() <= ahead && (states.is_empty() || self.over().is_none()) {
            let score = |at: usize| self.score(listed[at], correlations[at], taken[at]);
            let Some(at) = rows::highest((0..listed.len()).map(score)) else { break };
            part.push(&[at]);
            match states.last_mut() {
                Some(last) if !certain => self.fit.extend(part.row(at), targets[at], last),
                _ => {
                    self.fit.push(part.row(at), targets[at]);
                    self.fit.refit();
                }
            }
            states.push(self.fit.state());
            taken[at] = true;
            self.support.push(listed[at]);
            self.residuals.push(relative(&self.fit, self.problem));
            correlations = missing(&targets, part.sums(&[self.fit.weights()]).remove(0));
        }
        states
    }

    /// Looks at every candidate as it was at each of the choices that left these states, and undoes what was wrong.
    fn look(&mut self, products: &mut dyn Products, states: &[State]) {
        let before = self.support.len() - states.len();
        products.push(&self.support[before..]);
        let weights: Vec<&[f64]> = states.iter().map(|state| &state.weights[..]).collect();
        let mut kept = 0;
        for sums in products.sums(&weights) {
            if kept > 0 {
                let score = |at: usize| self.score(at, self.correlations[at], self.taken[at]);
                let best = rows::highest((0..self.taken.len()).map(score));
                if best != Some(self.support[before + kept]) {
                    break;
                }
            }
            self.taken[self.support[before + kept]] = true;
            self.correlations = missing(&self.problem.correlations, sums);
            kept += 1;
        }
        self.ahead = (2 * kept).min(AHEAD);
        self.fit.back(&states[kept - 1..]);
        self.support.truncate(before + kept);
        self.residuals.truncate(before + kept);
        products.truncate(before + kept);
    }
}

/// The positions of so many of the highest scores, the lowest among equals, in order of position.
fn best(scores: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.select_nth_unstable_by(count, |&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(count);
    order.sort_unstable();
    order
}

/// `⟨uᵢ, b⟩ − Σ wⱼ⟨uᵢ, uⱼ⟩`
fn missing(targets: &[f64], sums: Vec<f64>) -> Vec<f64> {
    targets.iter().zip(sums).map(|(target, sum)| target - sum).collect()
}
