//! Non-negative least squares by active sets (Lawson and Hanson, 1974), warm as atoms join.

use crate::cholesky::Cholesky;
use crate::rows;

/// `w ≥ 0` that minimises `‖b − Σ wᵢ uᵢ‖² + ridge·‖w‖²`, known by inner products alone.
pub struct Nnls {
    ridge: f64,
    /// A slope up to this is rounding.
    floor: f64,
    /// `⟨uᵢ, uⱼ⟩`, all of it.
    gram: Vec<Vec<f64>>,
    /// `⟨uᵢ, b⟩`
    target: Vec<f64>,
    weights: Vec<f64>,
    /// Atoms with a weight, in the factor's order.
    passive: Vec<usize>,
    factor: Cholesky,
}

/// An optimum to go back to.
pub struct State {
    pub weights: Vec<f64>,
    passive: usize,
    /// The passive atoms and their factor, where the next step let some of them go.
    kept: Option<(Vec<usize>, Cholesky)>,
}

impl Nnls {
    pub fn new(ridge: f64, floor: f64) -> Self {
        let factor = Cholesky::default();
        Self { ridge, floor, gram: vec![], target: vec![], weights: vec![], passive: vec![], factor }
    }

    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// An atom at weight 0, by its products with the earlier ones and with itself, and with the target.
    pub fn push(&mut self, products: Vec<f64>, target: f64) {
        for (row, &product) in self.gram.iter_mut().zip(&products) {
            row.push(product);
        }
        self.gram.push(products);
        self.target.push(target);
        self.weights.push(0.0);
    }

    /// Moves the weights from one optimum to that of all atoms.
    pub fn refit(&mut self) {
        self.improve(true);
    }

    /// The same for an atom by its products and target, from the last state, to which it can go back.
    pub fn extend(&mut self, products: Vec<f64>, target: f64, last: &mut State) {
        self.push(products.clone(), target);
        if !self.improve(false) {
            self.back(std::slice::from_ref(last));
            last.kept = Some((self.passive.clone(), self.factor.clone()));
            self.push(products, target);
            self.improve(true);
        }
    }

    pub fn state(&self) -> State {
        State { weights: self.weights.clone(), passive: self.passive.len(), kept: None }
    }

    /// To the first of these states, which follow each other up to now.
    pub fn back(&mut self, states: &[State]) {
        let (state, atoms) = (&states[0], states[0].weights.len());
        if let Some((passive, factor)) = states.iter().find_map(|state| state.kept.as_ref()) {
            (self.passive, self.factor) = (passive.clone(), factor.clone());
        }
        self.gram.truncate(atoms);
        self.gram.iter_mut().for_each(|row| row.truncate(atoms));
        self.target.truncate(atoms);
        self.weights.clone_from(&state.weights);
        self.passive.truncate(state.passive);
        self.factor.truncate(state.passive);
    }

    /// Whether it came to the optimum: not where atoms would have to be let go and may not.
    ///
    /// In exact arithmetic each atom that enters lowers the objective, so no passive set returns; the
    /// bound is for rounding.
    fn improve(&mut self, lets_go: bool) -> bool {
        for _ in 0..3 * self.weights.len() {
            let Some(atom) = self.entering() else { return true };
            self.enter(atom);
            if !self.descend(lets_go) {
                return false;
            }
            if self.weights[atom] == 0.0 {
                return true;
            }
        }
        true
    }

    /// `‖b − Σ wᵢ uᵢ‖²`, given `‖b‖²`.
    pub fn residual2(&self, target_norm2: f64) -> f64 {
        let unmatched: f64 = (0..self.weights.len()).map(|atom| self.weights[atom] * self.slope(atom)).sum();
        target_norm2 - rows::dot(&self.weights, &self.target) - unmatched
    }

    /// `⟨uᵢ, r⟩`
    fn slope(&self, atom: usize) -> f64 {
        self.target[atom] - rows::dot(&self.gram[atom], &self.weights)
    }

    /// Of the atoms at zero the one that the objective falls fastest along, if it does.
    fn entering(&self) -> Option<usize> {
        let slope = |atom| if self.weights[atom] > 0.0 { f64::NEG_INFINITY } else { self.slope(atom) };
        let slopes: Vec<f64> = (0..self.weights.len()).map(slope).collect();
        rows::highest(slopes.iter().copied()).filter(|&atom| slopes[atom] > self.floor)
    }

    fn enter(&mut self, atom: usize) {
        let row = &self.gram[atom];
        let products = self.passive.iter().map(|&other| row[other]).collect();
        self.factor.push(products, row[atom] + self.ridge);
        self.passive.push(atom);
    }

    /// Steps towards the optimum of the passive atoms, letting go of those that reach zero on the way. False if that would
    /// have to be and may not.
    fn descend(&mut self, lets_go: bool) -> bool {
        loop {
            let aim = self.factor.solve(self.passive.iter().map(|&atom| self.target[atom]).collect());
            let share = |at: usize| {
                let weight = self.weights[self.passive[at]];
                (aim[at] <= 0.0).then(|| if weight > 0.0 { weight / (weight - aim[at]) } else { 0.0 })
            };
            let blocking = rows::highest((0..aim.len()).map(|at| share(at).map_or(f64::NEG_INFINITY, |share| -share)));
            let step = blocking.and_then(share).unwrap_or(1.0);
            for (&atom, aim) in self.passive.iter().zip(aim) {
                let weight = &mut self.weights[atom];
                *weight += step * (aim - *weight);
            }
            let Some(blocking) = blocking else { return true };
            if !lets_go {
                return false;
            }
            self.weights[self.passive[blocking]] = 0.0;
            self.release();
        }
    }

    fn release(&mut self) {
        for at in (0..self.passive.len()).rev() {
            let atom = self.passive[at];
            if self.weights[atom] <= 0.0 {
                self.weights[atom] = 0.0;
                self.passive.remove(at);
                self.factor.remove(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::draw::Draw;

    const N: usize = 7;

    fn problem(seed: u64) -> (Vec<Vec<f64>>, Vec<f64>) {
        let vector = |key: u64| -> Vec<f64> { (0..9).map(|d| Draw::new(seed).at(key).at(d).normal()).collect() };
        let (atoms, target): (Vec<_>, _) = ((0..N as u64).map(vector).collect(), vector(99));
        let gram = atoms.iter().map(|a| atoms.iter().map(|b| rows::dot(a, b)).collect()).collect();
        (gram, atoms.iter().map(|a| rows::dot(a, &target)).collect())
    }

    fn objective(gram: &[Vec<f64>], target: &[f64], weights: &[f64]) -> f64 {
        (0..N).map(|i| weights[i] * (rows::dot(&gram[i], weights) - 2.0 * target[i])).sum()
    }

    /// The lowest objective over the supports on which the unconstrained optimum is not negative.
    fn exhaustive(gram: &[Vec<f64>], target: &[f64]) -> f64 {
        let on = |mask: usize| {
            let support: Vec<usize> = (0..N).filter(|i| mask >> i & 1 == 1).collect();
            let mut factor = Cholesky::default();
            for (at, &i) in support.iter().enumerate() {
                factor.push(support[..at].iter().map(|&j| gram[i][j]).collect(), gram[i][i]);
            }
            let solved = factor.solve(support.iter().map(|&i| target[i]).collect());
            let mut weights = vec![0.0; N];
            support.into_iter().zip(&solved).for_each(|(i, &weight)| weights[i] = weight);
            solved.iter().all(|&weight| weight >= 0.0).then(|| objective(gram, target, &weights))
        };
        (0..1 << N).filter_map(on).fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn no_support_does_better_whether_atoms_join_one_by_one_or_at_once() {
        for seed in 0..200 {
            let (gram, target) = problem(seed);
            let best = exhaustive(&gram, &target);
            for warm in [false, true] {
                let mut fit = Nnls::new(0.0, 1e-12);
                for i in 0..N {
                    fit.push(gram[i][..=i].to_vec(), target[i]);
                    (0..usize::from(warm)).for_each(|_| fit.refit());
                }
                fit.refit();
                let reached = objective(&gram, &target, fit.weights());
                assert!((reached - best).abs() < 1e-9, "{seed}: {reached} {best}");
                assert!((fit.residual2(100.0) - 100.0 - best).abs() < 1e-9);
            }
        }
    }
}
