//! Inner products of candidates: all that a pursuit knows of them.

use rayon::prelude::*;

use crate::rows;

/// Sums a thread adds up at a time; they stay in its cache while the columns pass.
const BLOCK: usize = 1024;

/// The products of every candidate with chosen ones, the atoms: a column an atom.
pub trait Products {
    /// Candidates.
    fn count(&self) -> usize;

    /// Adds these atoms' columns.
    fn push(&mut self, atoms: &[usize]);

    /// Keeps the first so many columns.
    fn truncate(&mut self, columns: usize);

    /// A candidate's products with the atoms, in order.
    fn row(&self, candidate: usize) -> Vec<f64>;

    /// `Σⱼ wⱼ⟨uᵢ, uⱼ⟩` of every candidate, for each list of the first atoms' weights.
    fn sums(&self, weights: &[&[f64]]) -> Vec<Vec<f64>>;

    /// These candidates alone, with the columns there are; each is then called by its place here.
    fn part(&self, candidates: &[usize]) -> Box<dyn Products + '_>;
}

/// The products of a candidate with every one.
pub type Column<'a> = &'a dyn Fn(usize) -> Vec<f64>;

/// Products that a function gives, column by column.
pub struct Columns<'a> {
    column: Column<'a>,
    /// As `column` calls them.
    candidates: Vec<usize>,
    values: Vec<Vec<f64>>,
}

impl<'a> Columns<'a> {
    pub fn new(candidates: usize, column: Column<'a>) -> Self {
        Self { column, candidates: (0..candidates).collect(), values: Vec::new() }
    }
}

impl Products for Columns<'_> {
    fn count(&self) -> usize {
        self.candidates.len()
    }

    fn push(&mut self, atoms: &[usize]) {
        let column = |&atom: &usize| {
            let products = (self.column)(self.candidates[atom]);
            self.candidates.iter().map(|&candidate| products[candidate]).collect()
        };
        self.values.extend(atoms.iter().map(column).collect::<Vec<_>>());
    }

    fn truncate(&mut self, columns: usize) {
        self.values.truncate(columns);
    }

    fn row(&self, candidate: usize) -> Vec<f64> {
        self.values.iter().map(|column| column[candidate]).collect()
    }

    fn sums(&self, weights: &[&[f64]]) -> Vec<Vec<f64>> {
        let (values, count) = (&self.values, self.count());
        let sum = |weights: &&[f64]| {
            let mut sums = vec![0.0; count];
            sums.par_chunks_mut(BLOCK).enumerate().for_each(|(block, sums)| {
                for (column, &weight) in values.iter().zip(*weights) {
                    rows::add_scaled(sums, weight, &column[block * BLOCK..][..sums.len()]);
                }
            });
            sums
        };
        weights.iter().map(sum).collect()
    }

    fn part(&self, candidates: &[usize]) -> Box<dyn Products + '_> {
        let of = |column: &Vec<f64>| candidates.iter().map(|&candidate| column[candidate]).collect();
        let values = self.values.iter().map(of).collect();
        let candidates = candidates.iter().map(|&candidate| self.candidates[candidate]).collect();
        Box::new(Self { column: self.column, candidates, values })
    }
}
