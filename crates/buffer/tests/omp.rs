//! What matching pursuit promises, on problems small enough to check by hand.

use domain::draw::Draw;
use perennial_buffer::omp::{Coreset, Options, Part, Problem, Stop, merge, solve, weigh};
use perennial_buffer::products::Columns;
use perennial_buffer::rows;

/// Candidates as rows, and what they are to add up to.
#[derive(Clone)]
struct Atoms {
    dim: usize,
    values: Vec<f32>,
    target: Vec<f64>,
}

impl Atoms {
    fn new(values: Vec<f32>, dim: usize) -> Self {
        let target = rows::weighted_sum(&values, dim, &vec![1.0; values.len() / dim]);
        Self { dim, values, target }
    }

    fn random(seed: u64, n: usize, dim: usize) -> Self {
        let value = |at| Draw::new(seed).named("atoms").at(at).normal() as f32 + 0.3;
        Self::new((0..(n * dim) as u64).map(value).collect(), dim)
    }

    fn n(&self) -> usize {
        self.values.len() / self.dim
    }

    fn row(&self, at: usize) -> Vec<f64> {
        self.values[at * self.dim..][..self.dim].iter().map(|&x| f64::from(x)).collect()
    }

    fn problem(&self) -> Problem {
        let correlations = rows::products(&self.values, self.dim, &self.target);
        Problem { correlations, target_norm2: self.target.iter().map(|x| x * x).sum() }
    }

    fn column(&self, at: usize) -> Vec<f64> {
        rows::products(&self.values, self.dim, &self.row(at))
    }

    fn solve(&self, options: &Options) -> Coreset {
        solve(&self.problem(), &mut Columns::new(self.n(), &|at| self.column(at)), options)
    }

    fn weigh(&self, support: &[usize]) -> (Vec<f64>, f64) {
        weigh(support, &self.problem(), &Columns::new(self.n(), &|at| self.column(at)), 0.0)
    }

    /// `b − Σ wᵢ uᵢ`
    fn rest(&self, support: &[usize], weights: &[f64]) -> Vec<f64> {
        let mut rest = self.target.clone();
        for (&atom, weight) in support.iter().zip(weights) {
            rest.iter_mut().zip(self.row(atom)).for_each(|(rest, x)| *rest -= weight * x);
        }
        rest
    }

    fn relative(&self, support: &[usize], weights: &[f64]) -> f64 {
        norm(&self.rest(support, weights)) / norm(&self.target)
    }
}

fn norm(vector: &[f64]) -> f64 {
    vector.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn exact(atoms: usize) -> Options {
    Options { tolerance: 0.0, ..Options::new(atoms) }
}

#[test]
fn supports_and_weights_are_those_of_a_pursuit_by_scipy() {
    let cases: Vec<serde_json::Value> = serde_json::from_str(include_str!("golden/omp.json")).unwrap();
    for case in cases {
        let numbers = |name: &str| -> Vec<f64> { serde_json::from_value(case[name].clone()).unwrap() };
        let dim = case["dim"].as_u64().unwrap() as usize;
        let (problem, gram) = explicit(&numbers("features"), dim);
        let options = Options {
            atoms: case["k"].as_u64().unwrap() as usize,
            tolerance: case["tolerance"].as_f64().unwrap(),
            ridge: case["ridge"].as_f64().unwrap(),
            norms: (case["normalised"] == true).then(|| (0..gram.len()).map(|at| gram[at][at].sqrt()).collect()),
            ..Options::new(0)
        };
        let coreset = solve(&problem, &mut Columns::new(gram.len(), &|at| gram[at].clone()), &options);
        assert_eq!(serde_json::json!(coreset.support), case["support"]);
        assert_near(&coreset.weights, &numbers("weights"), 1e-8);
        assert_near(&coreset.residuals, &numbers("residuals"), 1e-7);
    }
}

/// The problem of the sum of all rows, and the whole Gram matrix.
fn explicit(features: &[f64], dim: usize) -> (Problem, Vec<Vec<f64>>) {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let rows: Vec<&[f64]> = features.chunks(dim).collect();
    let target: Vec<f64> = (0..dim).map(|at| rows.iter().map(|row| row[at]).sum()).collect();
    let gram = rows.iter().map(|a| rows.iter().map(|b| dot(a, b)).collect()).collect();
    let correlations = rows.iter().map(|row| dot(row, &target)).collect();
    (Problem { correlations, target_norm2: dot(&target, &target) }, gram)
}

fn assert_near(left: &[f64], right: &[f64], tolerance: f64) {
    assert_eq!(left.len(), right.len());
    let far = left.iter().zip(right).find(|(a, b)| (*a - *b).abs() > tolerance);
    assert!(far.is_none(), "{far:?}");
}

#[test]
fn the_residual_never_rises_with_atoms_and_is_what_the_weights_leave() {
    for seed in 0..200 {
        let atoms = Atoms::random(seed, 40, 15);
        let coreset = atoms.solve(&exact(14));
        assert!(coreset.residuals.windows(2).all(|pair| pair[1] <= pair[0] + 1e-9), "{:?}", coreset.residuals);
        let left = atoms.relative(&coreset.support, &coreset.weights);
        assert!((left - coreset.residuals.last().unwrap()).abs() < 1e-7, "{seed}");
    }
}

#[test]
fn with_a_ridge_the_penalised_objective_never_rises() {
    for seed in 0..50 {
        let atoms = Atoms::random(seed, 40, 15);
        let mut before = norm(&atoms.target).powi(2);
        for k in 1..14 {
            let coreset = atoms.solve(&Options { ridge: 3.0, ..exact(k) });
            let penalty = 3.0 * coreset.weights.iter().map(|w| w * w).sum::<f64>();
            let objective = norm(&atoms.rest(&coreset.support, &coreset.weights)).powi(2) + penalty;
            assert!(objective <= before * (1.0 + 1e-12), "{seed} {k}: {objective} {before}");
            before = objective;
        }
    }
}

#[test]
fn weights_are_optimal_on_their_support() {
    let mut dropped = 0;
    for (seed, ridge) in (0..200).zip([0.0, 2.0].into_iter().cycle()) {
        let atoms = Atoms::random(seed, 30, 20);
        let coreset = atoms.solve(&Options { ridge, ..exact(20) });
        let rest = atoms.rest(&coreset.support, &coreset.weights);
        let scale = atoms.problem().correlations.into_iter().fold(0.0, f64::max);
        for (&atom, &weight) in coreset.support.iter().zip(&coreset.weights) {
            let slope: f64 = atoms.row(atom).iter().zip(&rest).map(|(x, r)| x * r).sum();
            assert!(weight >= 0.0 && slope <= ridge * weight + 1e-9 * scale, "{seed}: {slope} at {weight}");
            assert!(weight == 0.0 || slope >= ridge * weight - 1e-9 * scale, "{seed}: {slope} at {weight}");
            dropped += usize::from(weight == 0.0);
        }
    }
    assert!(dropped > 10, "only {dropped} atoms were dropped: too few to show anything");
}

#[test]
fn a_target_within_the_cone_is_matched_by_as_many_atoms_as_there_are() {
    for (seed, n, dim) in (0..40).map(|seed| (seed, 10, 25)).chain((40..80).map(|seed| (seed, 60, 12))) {
        let atoms = Atoms::random(seed, n, dim);
        let coreset = atoms.solve(&exact(n));
        assert!(atoms.relative(&coreset.support, &coreset.weights) < 1e-6, "{seed}: {:?}", coreset.residuals);
    }
}

#[test]
fn keeping_every_independent_candidate_gives_each_its_mass() {
    let coreset = Atoms::random(1, 10, 25).solve(&exact(10));
    assert_eq!(coreset.support.len(), 10);
    assert_near(&coreset.weights, &[1.0; 10], 1e-9);
}

#[test]
fn data_repeated_k_times_scale_the_weights_by_k() {
    let atoms = Atoms::random(5, 40, 15);
    let mut thrice = Atoms::new(atoms.values.repeat(3), 15);
    // Equal to the last bit, as three additions of each row would not be.
    thrice.target = atoms.target.iter().map(|x| 3.0 * x).collect();
    let (once, thrice) = (atoms.solve(&exact(10)), thrice.solve(&exact(10)));
    assert_eq!(once.support, thrice.support);
    assert_near(&once.weights.iter().map(|w| 3.0 * w).collect::<Vec<_>>(), &thrice.weights, 1e-9);
    assert_near(&once.residuals, &thrice.residuals, 1e-9);
}

#[test]
fn permuted_candidates_permute_the_answer() {
    let atoms = Atoms::random(6, 40, 15);
    let order = Draw::new(6).permutation(40);
    let mut permuted = Atoms::new(order.iter().flat_map(|&at| atoms.values[at * 15..][..15].to_vec()).collect(), 15);
    permuted.target = atoms.target.clone();
    let (straight, permuted) = (atoms.solve(&exact(12)), permuted.solve(&exact(12)));
    assert_eq!(permuted.support.iter().map(|&at| order[at]).collect::<Vec<_>>(), straight.support);
    assert_eq!(permuted.weights, straight.weights);
}

#[test]
fn chosen_atoms_match_better_than_the_best_of_a_hundred_random_supports() {
    let (mut pursued, mut drawn) = (0.0, 0.0);
    for seed in 0..20 {
        let atoms = Atoms::random(seed, 100, 40);
        pursued += atoms.solve(&exact(10)).residuals[9];
        let random = |at| atoms.weigh(&Draw::new(seed).at(at).permutation(100)[..10]).1;
        drawn += (0..100).map(random).fold(f64::INFINITY, f64::min);
    }
    assert!(pursued < drawn, "{pursued} {drawn}");
}

#[test]
fn weights_of_a_given_support_are_those_of_the_pursuit_that_chose_it() {
    for seed in 0..30 {
        let atoms = Atoms::random(seed, 30, 20);
        let coreset = atoms.solve(&exact(18));
        let (weights, residual) = atoms.weigh(&coreset.support);
        assert_near(&weights, &coreset.weights, 1e-8);
        assert!((residual - coreset.residuals.last().unwrap()).abs() < 1e-7);
    }
}

#[test]
fn gram_columns_choose_what_explicit_rests_choose() {
    for seed in 0..30 {
        let atoms = Atoms::random(seed, 50, 12);
        let coreset = atoms.solve(&exact(10));
        for size in 0..coreset.support.len() {
            let chosen = &coreset.support[..size];
            let rest = atoms.rest(chosen, &atoms.weigh(chosen).0);
            let products = rows::products(&atoms.values, 12, &rest);
            let left = (0..50).filter(|at| !chosen.contains(at));
            let best = left.max_by(|&a, &b| products[a].total_cmp(&products[b])).unwrap();
            assert_eq!(coreset.support[size], best, "{seed} {size}");
        }
    }
}

#[test]
fn looking_ahead_changes_no_choice() {
    for seed in 0..20 {
        let (n, norms) = (400, seed % 2 == 1);
        let atoms = Atoms::random(seed, n, 60);
        let options = Options {
            ridge: f64::from(u8::from(seed % 3 == 0)),
            norms: norms.then(|| (0..n).map(|at| norm(&atoms.row(at))).collect()),
            ..exact(50)
        };
        let looking = atoms.solve(&options);
        for shortlist in [1, 3, 20, 399] {
            let ahead = atoms.solve(&Options { shortlist, ..options.clone() });
            assert_eq!((&ahead.support, ahead.stop), (&looking.support, looking.stop), "{seed} {shortlist}");
            assert_near(&ahead.weights, &looking.weights, 1e-9);
            assert_near(&ahead.residuals, &looking.residuals, 1e-9);
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let atoms = Atoms::random(7, 5_000, 40);
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| atoms.solve(&exact(30)))
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn a_merged_part_stands_for_the_rows_of_both() {
    let (left, right) = (Atoms::random(8, 60, 20), Atoms::random(9, 60, 20));
    let part = |atoms: &Atoms| {
        let coreset = atoms.solve(&exact(12));
        let rows = coreset.support.iter().map(|&at| atoms.values[at * 20..][..20].to_vec()).collect();
        Part { rows, weights: coreset.weights, target: atoms.target.clone() }
    };
    let (a, b) = (part(&left), part(&right));
    let merged = merge(a.clone(), b.clone());
    let atoms = Atoms { dim: 20, values: merged.rows.concat(), target: merged.target };
    assert_near(&atoms.target, &left.target.iter().zip(&right.target).map(|(a, b)| a + b).collect::<Vec<_>>(), 0.0);
    let all: Vec<usize> = (0..atoms.n()).collect();
    let (carried, best) = (atoms.relative(&all, &merged.weights), atoms.weigh(&all).1);
    assert!(best <= carried && carried < 0.2, "{best} {carried}");
}

#[test]
fn no_atoms_are_chosen_where_none_are_wanted_or_there_are_none() {
    let nothing = |stop| Coreset { support: vec![], weights: vec![], residuals: vec![], stop };
    assert_eq!(Atoms::random(0, 10, 4).solve(&Options::new(0)), nothing(Stop::Full));
    let empty = Problem { correlations: vec![], target_norm2: 0.0 };
    assert_eq!(solve(&empty, &mut Columns::new(0, &|_| unreachable!()), &Options::new(3)), nothing(Stop::Exhausted));
}

#[test]
fn of_identical_candidates_the_lowest_carries_the_mass_of_all() {
    let one = Atoms::new([0.3, -1.2, 0.7].repeat(5), 3).solve(&exact(5));
    assert_eq!(one.support, [0]);
    assert_near(&one.weights, &[5.0], 1e-9);
    let mut pairs = Atoms::random(3, 8, 12).values;
    pairs.extend(pairs.clone());
    let pairs = Atoms::new(pairs, 12).solve(&exact(16));
    assert!(pairs.support.iter().all(|&at| at < 8), "{:?}", pairs.support);
    assert_near(&pairs.weights, &[2.0; 8], 1e-8);
}

#[test]
fn a_candidate_without_gradient_is_never_chosen() {
    let mut values = Atoms::random(4, 12, 5).values;
    values[5 * 3..5 * 4].fill(0.0);
    let atoms = Atoms::new(values, 5);
    let norms = (0..12).map(|at| norm(&atoms.row(at))).collect();
    for options in [exact(12), Options { norms: Some(norms), ..exact(12) }] {
        assert!(!atoms.solve(&options).support.contains(&3));
    }
    let zeros = Atoms::new(vec![0.0; 20], 5).solve(&Options::new(3));
    assert_eq!((zeros.support, zeros.stop), (vec![], Stop::Exhausted));
}

#[test]
fn the_pursuit_ends_when_nothing_left_points_towards_the_target() {
    let mut atoms = Atoms::new(vec![1.0, 0.0, -1.0, 0.0, 0.0, -1.0, 2.0, 0.0], 2);
    atoms.target = vec![3.0, 4.0];
    let coreset = atoms.solve(&Options::new(4));
    assert_eq!((coreset.support, coreset.stop), (vec![3], Stop::Exhausted));
    assert_near(&coreset.residuals, &[0.8], 1e-12);
}

#[test]
fn the_pursuit_ends_at_its_tolerance() {
    let coreset = Atoms::random(2, 100, 10).solve(&Options { tolerance: 0.2, ..Options::new(50) });
    let (last, before) = coreset.residuals.split_last().unwrap();
    assert!(*last <= 0.2 && before.iter().all(|&residual| residual > 0.2));
    assert_eq!(coreset.stop, Stop::Matched);
}

#[test]
fn dependent_candidates_leave_finite_optimal_weights() {
    for seed in 0..30 {
        let base = Atoms::random(seed, 4, 10);
        let mix = Atoms::random(seed + 100, 30, 4);
        let values = (0..30).flat_map(|at| {
            let row = rows::weighted_sum(&base.values, 10, &mix.row(at));
            row.into_iter().map(|x| x as f32)
        });
        let atoms = Atoms::new(values.collect(), 10);
        let coreset = atoms.solve(&exact(30));
        assert!(coreset.weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0));
        assert!(atoms.relative(&coreset.support, &coreset.weights) < 1e-6, "{seed} {:?}", coreset.residuals);
        let all: Vec<usize> = (0..30).collect();
        assert!(atoms.relative(&all, &atoms.weigh(&all).0) < 1e-6, "{seed}");
    }
}

#[test]
fn a_label_of_one_row_keeps_it_at_its_mass() {
    let mut atoms = Atoms::random(1, 1, 6);
    atoms.target.iter_mut().for_each(|x| *x *= 7.0);
    let coreset = atoms.solve(&Options::new(3));
    assert_eq!((coreset.support, coreset.stop), (vec![0], Stop::Matched));
    assert_near(&coreset.weights, &[7.0], 1e-12);
}
