//! Inner products of last-layer gradients, from their factors, in f64.

use buffer::products::Products;
use tch::{Kind, Tensor};

use super::{Gradients, numbers};

/// Rows at a time: in f64 they take the room of a processor's own cache.
const BLOCK: i64 = 1024;
/// Columns that there is room for beyond those that were asked for.
const SPARE: i64 = 32;

pub struct Columns {
    /// (draws, rows, classes)
    delta: Tensor,
    /// (draws or 1, rows, width + 1)
    phi: Tensor,
    /// (rows, room), f64: a row's products with the atoms so far.
    values: Tensor,
    columns: i64,
}

impl Columns {
    /// With room for so many columns before any is moved.
    pub fn new(gradients: &Gradients, room: usize) -> Self {
        let values = empty(gradients.rows() as i64, room as i64);
        let (delta, phi) = (gradients.delta.shallow_clone(), gradients.phi.shallow_clone());
        Self { delta, phi, values, columns: 0 }
    }

    /// (rows, columns)
    fn filled(&self) -> Tensor {
        self.values.narrow(1, 0, self.columns)
    }

    fn make_room(&mut self, columns: i64) {
        if self.columns + columns > self.values.size()[1] {
            let values = empty(self.values.size()[0], self.columns + columns + SPARE);
            values.narrow(1, 0, self.columns).copy_(&self.filled());
            self.values = values;
        }
    }
}

impl Products for Columns {
    fn count(&self) -> usize {
        self.values.size()[0] as usize
    }

    fn push(&mut self, atoms: &[usize]) {
        let (index, new) = (positions(atoms), atoms.len() as i64);
        self.make_room(new);
        let of = |rows: &Tensor| rows.index_select(1, &index).to_kind(Kind::Double).transpose(1, 2);
        let (delta, phi) = (of(&self.delta), of(&self.phi)); // (draws, classes or width + 1, atoms)
        let (draws, rows) = (self.delta.size()[0] as f64, self.values.size()[0]);
        for start in (0..rows).step_by(BLOCK as usize) {
            let length = BLOCK.min(rows - start);
            let block = |rows: &Tensor| rows.narrow(1, start, length).to_kind(Kind::Double);
            let products = block(&self.delta).matmul(&delta) * block(&self.phi).matmul(&phi); // (draws, block, atoms)
            let mean = products.sum_dim_intlist(&[0i64][..], false, Kind::Double) / draws;
            self.values.narrow(0, start, length).narrow(1, self.columns, new).copy_(&mean);
        }
        self.columns += new;
    }

    fn truncate(&mut self, columns: usize) {
        self.columns = columns as i64;
    }

    fn row(&self, candidate: usize) -> Vec<f64> {
        numbers(&self.filled().get(candidate as i64))
    }

    fn sums(&self, weights: &[&[f64]]) -> Vec<Vec<f64>> {
        let last = weights.iter().map(|weights| weights.len()).max().unwrap_or(0);
        let padded =
            weights.iter().flat_map(|weights| weights.iter().copied().chain(std::iter::repeat(0.0)).take(last));
        let lists = Tensor::from_slice(&padded.collect::<Vec<_>>()).view([weights.len() as i64, last as i64]);
        let sums = self.values.narrow(1, 0, last as i64).matmul(&lists.tr()); // (rows, lists)
        (0..weights.len() as i64).map(|list| numbers(&sums.select(1, list))).collect()
    }

    fn part(&self, candidates: &[usize]) -> Box<dyn Products + '_> {
        let index = positions(candidates);
        let of = |rows: &Tensor| rows.index_select(1, &index).to_kind(Kind::Double);
        let mut part = Self {
            delta: of(&self.delta),
            phi: of(&self.phi),
            values: self.filled().index_select(0, &index),
            columns: self.columns,
        };
        part.make_room(1);
        Box::new(part)
    }
}

fn empty(rows: i64, columns: i64) -> Tensor {
    Tensor::empty([rows, columns], (Kind::Double, tch::Device::Cpu))
}

fn positions(rows: &[usize]) -> Tensor {
    Tensor::from_slice(&rows.iter().map(|&row| row as i64).collect::<Vec<_>>())
}
