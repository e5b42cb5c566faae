//! Gradient-matching coresets (Balles et al., 2021 and 2022): rows and weights whose summed gradient is that of all rows,
//! at many draws of the initial weights, so that nothing has to be trained first.
//!
//! A row's gradient is that of the last layer, `g = δ ⊗ [φ; 1]` with `δ = softmax(z) − e_y`, which is never written out:
//! `⟨g_i, g_j⟩ = ⟨δ_i, δ_j⟩·(⟨φ_i, φ_j⟩ + 1)`. Products are averaged over the draws.

mod columns;
pub mod sketch;

use buffer::omp::{self, Options, Problem};
use buffer::{interleave, quotas};
use tch::{Kind, Tensor};

use crate::selection::by_label;
use columns::Columns;

/// Rows at every draw of the initial weights.
pub struct Gradients {
    /// (draws, rows, classes)
    pub delta: Tensor,
    /// (draws, rows, width + 1); (1, …) where the features are the same at every draw
    pub phi: Tensor,
}

/// Chosen rows in order of choice, with their weights.
pub type Chosen = Vec<(usize, f32)>;

impl Gradients {
    /// Of each draw the logits (rows, classes) and, or once for all draws, the features (rows, width). Labels (rows).
    pub fn new(features: &[Tensor], logits: &[Tensor], labels: &Tensor) -> Self {
        let delta = logits.iter().map(|logits| logits.softmax(-1, Kind::Float) - labels.one_hot(logits.size()[1]));
        let phi = features.iter().map(|features| features.constant_pad_nd([0, 1]) + unit(features.size()[1]));
        Self { delta: Tensor::stack(&delta.collect::<Vec<_>>(), 0), phi: Tensor::stack(&phi.collect::<Vec<_>>(), 0) }
    }

    /// Of gradients that are written out, projected: of each draw (rows, columns).
    pub fn projected(rows: &[Tensor]) -> Self {
        let phi = Tensor::stack(rows, 0);
        let delta = Tensor::ones([phi.size()[0], phi.size()[1], 1], tch::kind::FLOAT_CPU);
        Self { delta, phi }
    }

    fn draws(&self) -> f64 {
        self.delta.size()[0] as f64
    }

    fn rows(&self) -> usize {
        self.delta.size()[1] as usize
    }

    /// `Σ_i masses_i·g_i` at each draw: (draws, classes, width + 1).
    pub fn sum(&self, masses: &Tensor) -> Tensor {
        (&self.delta * masses.view([1, -1, 1])).transpose(1, 2).matmul(&self.phi)
    }

    /// Of the rows at `rows`, and of the one class's row of the head alone if `class` is given.
    fn part(&self, rows: &[usize], class: Option<i64>) -> Self {
        let index: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        let index = Tensor::from_slice(&index);
        let delta = self.delta.index_select(1, &index);
        let delta = class.map_or_else(|| delta.shallow_clone(), |class| delta.narrow(2, class, 1));
        Self { delta, phi: self.phi.index_select(1, &index) }
    }

    fn problem(&self, target: &Tensor) -> Problem {
        let of = |rows: &Tensor, draw: i64| rows.get(draw.min(rows.size()[0] - 1)).to_kind(Kind::Double);
        // Draw by draw: all at once would take the room of all features again.
        let correlations = (0..self.delta.size()[0])
            .map(|draw| {
                let products = of(&self.delta, draw).matmul(&of(target, draw)) * of(&self.phi, draw);
                products.sum_dim_intlist(&[1i64][..], false, Kind::Double)
            })
            .reduce(|sum, next| sum + next)
            .expect("at least one draw");
        Problem {
            correlations: numbers(&(correlations / self.draws())),
            target_norm2: target.square().sum(Kind::Double).double_value(&[]) / self.draws(),
        }
    }

    /// At most `capacity` rows whose weighted sum is nearest to `target`.
    pub fn matched(&self, target: &Tensor, capacity: usize) -> Chosen {
        let mut columns = Columns::new(self, capacity);
        let coreset = omp::solve(&self.problem(target), &mut columns, &Options::new(capacity));
        coreset.support.into_iter().zip(coreset.weights).map(|(row, weight)| (row, weight as f32)).collect()
    }

    /// What `‖target − Σ w·g‖ / ‖target‖` is left by these rows with their weights.
    pub fn residual(&self, target: &Tensor, chosen: &[(usize, f32)]) -> f64 {
        let mut masses = vec![0f32; self.rows()];
        chosen.iter().for_each(|&(row, weight)| masses[row] = weight);
        let left = target - self.sum(&Tensor::from_slice(&masses));
        (left.norm() / target.norm()).double_value(&[])
    }

    /// The non-negative weights with which a choice of rows comes nearest to `target`.
    pub fn weighed(&self, target: &Tensor, rows: &[usize]) -> Chosen {
        let (weights, _) = omp::weigh(rows, &self.problem(target), &Columns::new(self, 0), 0.0);
        rows.iter().zip(weights).map(|(&row, weight)| (row, weight as f32)).collect()
    }
}

/// Out of rows with these masses. Each keeps its own if all have room. Where no row's gradient tells it from the others,
/// as those of a single class, the first stand for all.
pub fn choose(gradients: &Gradients, masses: &[f32], target: &Tensor, capacity: usize) -> Chosen {
    if masses.len() <= capacity {
        return masses.iter().copied().enumerate().collect();
    }
    let chosen = gradients.matched(target, capacity);
    if !chosen.is_empty() {
        return chosen;
    }
    let weight = masses.iter().sum::<f32>() / capacity as f32;
    (0..capacity).map(|row| (row, weight)).collect()
}

/// The same label by label, each with an equal share of the capacity: no class can vanish.
pub fn choose_by_label(gradients: &Gradients, labels: &[u32], masses: &[f32], capacity: usize) -> Chosen {
    let by_label = by_label(labels);
    let counts: Vec<usize> = by_label.values().map(Vec::len).collect();
    let mut weights = masses.to_vec();
    let chosen = by_label.iter().zip(quotas(&counts, capacity)).map(|((&label, rows), share)| {
        let own: Vec<f32> = rows.iter().map(|&row| masses[row]).collect();
        let part = gradients.part(rows, Some(i64::from(label)));
        let target = part.sum(&Tensor::from_slice(&own));
        let chosen = choose(&part, &own, &target, share);
        chosen.iter().for_each(|&(at, weight)| weights[rows[at]] = weight);
        chosen.into_iter().map(|(at, _)| rows[at]).collect()
    });
    let order = interleave(&chosen.collect::<Vec<Vec<usize>>>());
    order.into_iter().map(|row| (row, weights[row])).collect()
}

/// (width + 1): 1 in the last place.
fn unit(width: i64) -> Tensor {
    Tensor::ones([1], tch::kind::FLOAT_CPU).constant_pad_nd([width, 0])
}

fn numbers(values: &Tensor) -> Vec<f64> {
    Vec::try_from(values).expect("a vector of f64")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::layers::Init;
    use buffer::products::Products;

    const DRAWS: i64 = 3;
    const ROWS: i64 = 40;

    fn drawn(seed: u64, shape: &[i64]) -> Tensor {
        Init::Normal(1.0).draw(seed, "coreset", shape)
    }

    fn labels() -> Vec<u32> {
        (0..ROWS as u32).map(|row| row % 4).collect()
    }

    fn truth() -> Tensor {
        Tensor::from_slice(&labels().into_iter().map(i64::from).collect::<Vec<_>>())
    }

    fn gradients() -> Gradients {
        let draws = |first: u64, width: i64| -> Vec<Tensor> {
            (first..first + DRAWS as u64).map(|draw| drawn(draw, &[ROWS, width])).collect()
        };
        Gradients::new(&draws(0, 5), &draws(10, 4), &truth())
    }

    /// A row's products with every row.
    fn column(gradients: &Gradients, row: usize) -> Vec<f64> {
        let mut columns = Columns::new(gradients, 1);
        columns.push(&[row]);
        (0..gradients.rows()).map(|row| columns.row(row)[0]).collect()
    }

    fn ones() -> Vec<f32> {
        vec![1.0; ROWS as usize]
    }

    #[test]
    fn products_are_those_of_the_last_layers_gradients() {
        let gradients = gradients();
        for draw in 0..DRAWS as u64 {
            let (phi, weight) = (drawn(draw, &[ROWS, 5]), drawn(99, &[4, 5]).set_requires_grad(true));
            let logits = phi.linear(&weight, None::<&Tensor>);
            let own = Gradients::new(&[phi.shallow_clone()], &[logits.detach()], &truth());
            let of = |row: i64| {
                let label = Tensor::from_slice(&[row % 4]);
                let loss = logits.narrow(0, row, 1).cross_entropy_for_logits(&label);
                let weight = Tensor::run_backward(&[loss], &[&weight], true, false).remove(0).reshape([-1]);
                // The gradient by the bias is δ, the product of the weight's with φ over ‖φ‖².
                let phi = phi.get(row);
                let bias = weight.view([4, 5]).matmul(&phi) / phi.dot(&phi);
                Tensor::cat(&[weight, bias], 0)
            };
            let by_hand = |i: i64, j: i64| of(i).dot(&of(j)).double_value(&[]);
            for (i, j) in [(0, 0), (3, 17), (22, 39)] {
                assert!((column(&own, i as usize)[j as usize] - by_hand(i, j)).abs() < 1e-4, "{i} {j}");
            }
        }
        assert!((column(&gradients, 7)[21] - column(&gradients, 21)[7]).abs() < 1e-6);
    }

    /// Of rows without any structure, more than a pursuit lists.
    fn many() -> (Gradients, Tensor) {
        let rows = 3_000;
        let draws = |first: u64, width: i64| -> Vec<Tensor> {
            (first..first + 2).map(|draw| drawn(draw, &[rows, width])).collect()
        };
        let labels = Tensor::arange(rows, (Kind::Int64, tch::Device::Cpu)).fmod(4.0);
        let gradients = Gradients::new(&draws(20, 12), &draws(30, 4), &labels.to_kind(Kind::Int64));
        let target = gradients.sum(&Tensor::ones([rows], tch::kind::FLOAT_CPU));
        (gradients, target)
    }

    #[test]
    fn columns_choose_what_gradients_written_out_choose() {
        let (gradients, target) = many();
        let of = |rows: &Tensor| rows.to_kind(Kind::Double);
        // (rows, draws · classes · (width + 1))
        let outer = of(&gradients.delta).unsqueeze(3) * of(&gradients.phi).unsqueeze(2);
        let written_out = outer.transpose(0, 1).flatten(1, -1);
        let mut missing = of(&target).flatten(0, -1);
        let chosen = gradients.matched(&target, 40);
        for size in 0..chosen.len() {
            let open = Tensor::ones([written_out.size()[0]], tch::kind::DOUBLE_CPU);
            let support: Vec<usize> = chosen[..size].iter().map(|&(row, _)| row).collect();
            support.iter().for_each(|&row| drop(open.get(row as i64).fill_(f64::NEG_INFINITY)));
            if size > 0 {
                let masses = Tensor::zeros([written_out.size()[0]], tch::kind::DOUBLE_CPU);
                for (row, weight) in gradients.weighed(&target, &support) {
                    let _ = masses.get(row as i64).fill_(f64::from(weight));
                }
                missing = of(&target).flatten(0, -1) - masses.unsqueeze(0).matmul(&written_out).squeeze();
            }
            let correlations = written_out.matmul(&missing);
            let best = correlations.where_self(&open.gt(0.0), &open).argmax(0, false).int64_value(&[]);
            assert_eq!(chosen[size].0 as i64, best, "{size}");
        }
    }

    #[test]
    fn a_choice_depends_on_no_number_of_threads() {
        let (gradients, target) = many();
        let with = |threads| {
            tch::set_num_threads(threads);
            gradients.matched(&target, 60)
        };
        assert_eq!(with(1), with(2));
    }

    #[test]
    fn a_part_has_the_products_of_the_whole() {
        let gradients = gradients();
        let mut whole = Columns::new(&gradients, 0);
        whole.push(&[4, 9, 30]);
        whole.truncate(2);
        let listed = [9, 2, 30];
        let of_part: Vec<Vec<f64>> = {
            let mut part = whole.part(&listed);
            part.push(&[2]);
            assert_eq!(part.count(), 3);
            (0..3).map(|at| part.row(at)).collect()
        };
        whole.push(&[30]);
        let sums = whole.sums(&[&[2.0, 0.5], &[1.0, 0.0, 3.0]]);
        for (row, of_part) in listed.into_iter().zip(of_part) {
            let products = whole.row(row);
            assert!(of_part.len() == 3 && of_part.iter().zip(&products).all(|(a, b)| (a - b).abs() < 1e-12), "{row}");
            assert!((sums[0][row] - 2.0 * products[0] - 0.5 * products[1]).abs() < 1e-12);
            assert!((sums[1][row] - products[0] - 3.0 * products[2]).abs() < 1e-12);
        }
    }

    #[test]
    fn correlations_are_sums_of_columns() {
        let gradients = gradients();
        let target = gradients.sum(&Tensor::from_slice(&ones()));
        let problem = gradients.problem(&target);
        let columns: Vec<Vec<f64>> = (0..ROWS as usize).map(|row| column(&gradients, row)).collect();
        for (row, correlation) in problem.correlations.iter().enumerate() {
            let sum: f64 = columns.iter().map(|column| column[row]).sum();
            assert!((correlation - sum).abs() < 1e-3, "{row}");
        }
        assert!((problem.target_norm2 - columns.iter().flatten().sum::<f64>()).abs() < 1e-2);
    }

    #[test]
    fn a_matched_coreset_leaves_less_than_any_of_a_hundred_weighed_random_ones() {
        let gradients = gradients();
        let target = gradients.sum(&Tensor::from_slice(&ones()));
        let ours = gradients.residual(&target, &choose(&gradients, &ones(), &target, 12));
        let random = (0..100).map(|seed| {
            let rows = &domain::draw::Draw::new(seed).permutation(ROWS as usize)[..12];
            gradients.residual(&target, &gradients.weighed(&target, rows))
        });
        let best = random.fold(f64::INFINITY, f64::min);
        assert!(ours < best, "{ours} {best}");
    }

    #[test]
    fn all_rows_keep_their_masses_where_there_is_room() {
        let gradients = gradients();
        let target = gradients.sum(&Tensor::from_slice(&ones()));
        let all = choose(&gradients, &ones(), &target, 100);
        assert!(all.len() == 40 && gradients.residual(&target, &all) < 1e-6);
    }

    #[test]
    fn features_that_are_the_same_at_every_draw_are_held_once() {
        let (phi, logits) = (drawn(0, &[ROWS, 5]), [drawn(10, &[ROWS, 4]), drawn(11, &[ROWS, 4])]);
        let once = Gradients::new(&[phi.shallow_clone()], &logits, &truth());
        let each = Gradients::new(&[phi.shallow_clone(), phi], &logits, &truth());
        let masses = Tensor::from_slice(&ones());
        assert_eq!(once.sum(&masses), each.sum(&masses));
        let target = once.sum(&masses);
        assert_eq!(once.problem(&target).correlations, each.problem(&target).correlations);
        assert_eq!(column(&once, 3), column(&each, 3));
    }

    #[test]
    fn rows_of_a_single_class_stand_for_each_other() {
        let labels = Tensor::zeros([ROWS], (Kind::Int64, tch::Device::Cpu));
        let gradients = Gradients::new(&[drawn(0, &[ROWS, 5])], &[drawn(1, &[ROWS, 1])], &labels);
        let target = gradients.sum(&Tensor::from_slice(&ones()));
        let chosen = choose(&gradients, &ones(), &target, 8);
        assert_eq!(chosen, (0..8).map(|row| (row, 5.0)).collect::<Vec<_>>());
    }

    #[test]
    fn label_by_label_no_class_vanishes() {
        let gradients = gradients();
        let mut labels = labels();
        labels[3] = 9;
        labels.iter_mut().enumerate().for_each(|(row, label)| *label = if row == 3 { 3 } else { *label % 3 });
        let chosen = choose_by_label(&gradients, &labels, &ones(), 8);
        let kept: std::collections::BTreeSet<u32> = chosen.iter().map(|&(row, _)| labels[row]).collect();
        assert_eq!(kept.len(), 4);
        assert!(chosen.len() <= 8 && chosen.iter().all(|(_, weight)| *weight >= 0.0));
    }
}
