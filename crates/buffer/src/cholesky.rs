//! A Cholesky factor that grows and shrinks by one variable.

use crate::rows;

/// A pivot below this share of its variable's own square is raised to it: the variable depends on those before.
const JITTER: f64 = 1e-8;

/// `L` of `L Lᵀ = G`, by columns: column `j` starts at its diagonal.
#[derive(Clone, Default)]
pub struct Cholesky {
    columns: Vec<Vec<f64>>,
}

impl Cholesky {
    /// Appends a variable by its products with the earlier ones, in order, and with itself.
    pub fn push(&mut self, mut products: Vec<f64>, own: f64) {
        self.forward(&mut products);
        let pivot = own - rows::dot(&products, &products);
        for (column, &value) in self.columns.iter_mut().zip(&products) {
            column.push(value);
        }
        self.columns.push(vec![pivot.max(JITTER * own).sqrt()]);
    }

    /// Keeps the first so many variables.
    pub fn truncate(&mut self, variables: usize) {
        self.columns.truncate(variables);
        for (at, column) in self.columns.iter_mut().enumerate() {
            column.truncate(variables - at);
        }
    }

    /// Takes out variable `at`: what its column explained goes back into the later ones, by rotations.
    pub fn remove(&mut self, at: usize) {
        let gone = self.columns.remove(at);
        for (before, column) in self.columns[..at].iter_mut().enumerate() {
            column.remove(at - before);
        }
        let mut rest = &mut gone.into_iter().skip(1).collect::<Vec<_>>()[..];
        for column in &mut self.columns[at..] {
            rotate(column, rest);
            rest = &mut rest[1..];
        }
    }

    /// `x` of `L Lᵀ x = right`.
    pub fn solve(&self, mut right: Vec<f64>) -> Vec<f64> {
        self.forward(&mut right);
        for (at, column) in self.columns.iter().enumerate().rev() {
            let (value, later) = right[at..].split_first_mut().expect("as long as the factor");
            *value = (*value - rows::dot(&column[1..], later)) / column[0];
        }
        right
    }

    /// `x` of `L x = right`, in its place.
    fn forward(&self, right: &mut [f64]) {
        for (at, column) in self.columns.iter().enumerate() {
            let (value, later) = right[at..].split_first_mut().expect("as long as the factor");
            *value /= column[0];
            rows::add_scaled(later, -*value, &column[1..]);
        }
    }
}

/// The Givens rotation of the two columns that leaves zero where `other` starts.
fn rotate(column: &mut [f64], other: &mut [f64]) {
    let length = column[0].hypot(other[0]);
    let (cos, sin) = (column[0] / length, other[0] / length);
    for (x, y) in column.iter_mut().zip(other) {
        (*x, *y) = (cos * *x + sin * *y, cos * *y - sin * *x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::draw::Draw;

    fn gram(seed: u64, n: usize, dim: usize) -> Vec<Vec<f64>> {
        let atom =
            |i: usize| -> Vec<f64> { (0..dim).map(|d| Draw::new(seed).at(i as u64).at(d as u64).normal()).collect() };
        let atoms: Vec<_> = (0..n).map(atom).collect();
        atoms.iter().map(|a| atoms.iter().map(|b| rows::dot(a, b)).collect()).collect()
    }

    fn factor(gram: &[Vec<f64>], variables: &[usize]) -> Cholesky {
        let mut factor = Cholesky::default();
        for (at, &i) in variables.iter().enumerate() {
            factor.push(variables[..at].iter().map(|&j| gram[i][j]).collect(), gram[i][i]);
        }
        factor
    }

    #[test]
    fn a_solution_satisfies_its_equations() {
        let gram = gram(1, 12, 20);
        let solved = factor(&gram, &(0..12).collect::<Vec<_>>()).solve(vec![1.0; 12]);
        assert!(gram.iter().all(|row| (rows::dot(row, &solved) - 1.0).abs() < 1e-10));
    }

    #[test]
    fn a_factor_without_a_variable_is_that_of_the_others() {
        let gram = gram(2, 12, 20);
        for gone in 0..12 {
            let mut factor_of_all = factor(&gram, &(0..12).collect::<Vec<_>>());
            factor_of_all.remove(gone);
            let others: Vec<usize> = (0..12).filter(|&i| i != gone).collect();
            for (shrunk, anew) in factor_of_all.columns.iter().zip(&factor(&gram, &others).columns) {
                assert_eq!(shrunk.len(), anew.len());
                assert!(shrunk.iter().zip(anew).all(|(a, b)| (a - b).abs() < 1e-12), "{gone}");
            }
        }
    }

    #[test]
    fn dependent_variables_leave_a_finite_solution() {
        let gram = gram(3, 6, 2);
        let solved = factor(&gram, &[0, 1, 2, 3, 4, 5]).solve(vec![1.0; 6]);
        assert!(solved.iter().all(|x| x.is_finite()));
    }
}
