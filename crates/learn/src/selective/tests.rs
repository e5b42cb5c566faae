use super::*;
use crate::model::layers::Init;
use serde_json::Value;

fn selector(rule: &str, keep: f64) -> Selector {
    selector_with(serde_json::json!({"rule": rule, "keep": keep}), 5)
}

fn selector_with(selection: Value, seed: u64) -> Selector {
    Selector::new(serde_json::from_value(selection).unwrap(), Draw::new(seed), Vec::new())
}

/// A softmax head on features that are never below 0, with labels that it drew itself.
fn toy(rows: i64, classes: i64, width: i64) -> Sight {
    let features = Init::Normal(1.0).draw(1, "features", &[rows, width]).relu();
    let logits = features.matmul(&Init::Normal(0.3).draw(2, "weight", &[width, classes]));
    let chances = logits.softmax(-1, Kind::Double).cumsum(1, Kind::Double);
    let at: Vec<f64> = (0..rows as u64).map(|row| Draw::new(3).at(row).unit()).collect();
    let labels =
        chances.lt_tensor(&Tensor::from_slice(&at).unsqueeze(1)).sum_dim_intlist(&[1i64][..], false, Kind::Int64);
    Sight { features, logits, labels: labels.clamp_max(classes - 1) }
}

fn standing(rows: usize) -> Vec<i64> {
    (100..100 + rows as i64).collect()
}

/// Of each row, by the last layer's weight and bias: (rows, gradient).
fn gradients(sight: &Sight) -> Tensor {
    let delta = sight.logits.softmax(-1, Kind::Double) - sight.labels.one_hot(sight.logits.size()[1]);
    let ones = Tensor::ones([sight.features.size()[0], 1], tch::kind::DOUBLE_CPU);
    let phi = Tensor::cat(&[sight.features.to_kind(Kind::Double), ones], 1);
    (delta.unsqueeze(2) * phi.unsqueeze(1)).flatten(1, -1)
}

/// What a choice makes of the mean gradient.
fn estimated(gradients: &Tensor, chosen: &Chosen) -> Tensor {
    let index = Tensor::from_slice(&chosen.rows.iter().map(|&row| row as i64).collect::<Vec<_>>());
    let rows = gradients.index_select(0, &index);
    let sum = match &chosen.weights {
        Some(weights) => {
            (rows * Tensor::from_slice(weights).unsqueeze(1)).sum_dim_intlist(&[0i64][..], false, Kind::Double)
        }
        None => rows.sum_dim_intlist(&[0i64][..], false, Kind::Double),
    };
    sum / (gradients.size()[0] as f64 * chosen.share)
}

fn error(gradients: &Tensor, estimate: &Tensor) -> f64 {
    let mean = gradients.mean_dim(&[0i64][..], false, Kind::Double);
    ((estimate - &mean).norm() / mean.norm()).double_value(&[])
}

fn golden() -> (Sight, Value) {
    let golden: Value = serde_json::from_str(include_str!("../../tests/golden/selective.json")).unwrap();
    let table = |name: &str| {
        let rows: Vec<Vec<f32>> = serde_json::from_value(golden[name].clone()).unwrap();
        Tensor::from_slice(&rows.concat()).view([rows.len() as i64, -1])
    };
    let labels: Vec<i64> = serde_json::from_value(golden["labels"].clone()).unwrap();
    let sight = Sight { features: table("features"), logits: table("logits"), labels: Tensor::from_slice(&labels) };
    (sight, golden)
}

#[test]
fn rows_and_weights_are_those_of_numpy_and_scipy() {
    let (sight, golden) = golden();
    let rows = sight.labels.numel();
    let (count, all) = (golden["count"].as_u64().unwrap() as f64, gradients(&sight));
    for (rule, name) in [("gradient-matching", "matched"), ("top-loss", "top")] {
        for (weights, expected) in [("matched", &golden[name]["weights"]), ("equal", &Value::Null)] {
            let selection = serde_json::json!({"rule": rule, "keep": count / rows as f64, "weights": weights});
            let chosen = selector_with(selection, 1).choose(0, &standing(rows), Some(&sight));
            assert_eq!(serde_json::json!(chosen.rows), golden[name]["rows"], "{rule}");
            let expected: Option<Vec<f64>> = serde_json::from_value(expected.clone()).unwrap();
            let ours = chosen.weights.as_ref().map(|own| own.iter().map(|w| f64::from(*w) / rows as f64));
            for (own, theirs) in ours.into_iter().flatten().zip(expected.into_iter().flatten()) {
                assert!((own - theirs).abs() < 1e-5, "{rule}: {own} {theirs}");
            }
            if (rule == "top-loss") == (weights == "equal") {
                let expected = golden[name]["error"].as_f64().unwrap();
                assert!((error(&all, &estimated(&all, &chosen)) - expected).abs() < 1e-4, "{rule} {expected}");
            }
        }
    }
}

#[test]
fn with_all_rows_kept_every_rule_is_plain_training() {
    let sight = toy(32, 5, 8);
    for rule in Rule::ALL {
        let selector = selector(rule.name(), 1.0);
        assert!(selector.is_all() && !selector.looks() && !selector.remembers());
        assert_eq!(selector.choose(0, &standing(32), Some(&sight)), Chosen::all(32), "{}", rule.name());
    }
}

#[test]
fn random_rows_are_right_on_average() {
    let sight = toy(16, 3, 4);
    let (all, selector) = (gradients(&sight), selector("random", 0.25));
    let draws = 10_000;
    let estimates: Vec<Tensor> =
        (0..draws).map(|step| estimated(&all, &selector.choose(step, &standing(16), None))).collect();
    let estimates = Tensor::stack(&estimates, 0);
    let mean = all.mean_dim(&[0i64][..], false, Kind::Double);
    let away = estimates.mean_dim(&[0i64][..], false, Kind::Double) - mean;
    let deviation = estimates.std_dim(&[0i64][..], true, false) / (draws as f64).sqrt();
    // 15 coordinates within three deviations of their means, or nearly.
    let beyond = away.abs().gt_tensor(&(deviation * 3.5 + 1e-12)).sum(Kind::Int64).int64_value(&[]);
    assert_eq!(beyond, 0);
}

#[test]
fn rules_by_loss_are_biased_and_matching_is_nearer_than_any_of_them() {
    let sight = toy(128, 10, 64);
    let all = gradients(&sight);
    let run = |rule: &str, draws: u64| {
        let selector = selector(rule, 0.25);
        let estimates = (0..draws).map(|step| estimated(&all, &selector.choose(step, &standing(128), Some(&sight))));
        let estimates: Vec<Tensor> = estimates.collect();
        let single = estimates.iter().map(|one| error(&all, one)).sum::<f64>() / draws as f64;
        let mean = Tensor::stack(&estimates, 0).mean_dim(&[0i64][..], false, Kind::Double);
        (single, error(&all, &mean))
    };
    let (random, unbiased) = run("random", 2000);
    let (top, _) = run("top-loss", 1);
    let (fixed, biased) = run("sb-fixed", 500);
    let (matched, _) = run("gradient-matching", 1);
    assert!(unbiased < 0.1 && biased > 10.0 * unbiased, "{unbiased} {biased}");
    assert!(matched < 0.6 * random && top > random && fixed > random, "{matched} {random} {top} {fixed}");
}

#[test]
fn matching_comes_nearer_with_every_row_and_all_the_way_with_all() {
    let sight = toy(24, 4, 6);
    let all = gradients(&sight);
    let errors: Vec<f64> = (1..24)
        .map(|count| {
            let selector = selector("gradient-matching", f64::from(count) / 24.0);
            error(&all, &estimated(&all, &selector.choose(0, &standing(24), Some(&sight))))
        })
        .collect();
    assert!(errors.windows(2).all(|pair| pair[1] <= pair[0] + 1e-7), "{errors:?}");
    assert!(errors[22] < 0.05, "{}", errors[22]);
    let whole = selector("gradient-matching", 1.0).choose(0, &standing(24), Some(&sight));
    assert!(error(&all, &estimated(&all, &whole)) < 1e-12);
}

#[test]
fn products_are_those_of_the_last_layers_gradients() {
    let sight = toy(10, 3, 4);
    let weight = Init::Normal(0.3).draw(2, "weight", &[4, 3]).transpose(0, 1).contiguous().set_requires_grad(true);
    let bias = Tensor::zeros([3], tch::kind::FLOAT_CPU).set_requires_grad(true);
    let rows = (0..10).map(|row| {
        let logits = sight.features.narrow(0, row, 1).linear(&weight, Some(&bias));
        let loss = logits.cross_entropy_for_logits(&sight.labels.narrow(0, row, 1));
        let by = Tensor::run_backward(&[loss], &[&weight, &bias], false, false);
        Tensor::cat(&[by[0].reshape([-1]), by[1].reshape([-1])], 0)
    });
    let rows = Tensor::stack(&rows.collect::<Vec<_>>(), 0).to_kind(Kind::Double);
    assert!(sight.gram().allclose(&rows.matmul(&rows.transpose(0, 1)), 1e-4, 1e-6, false));
}

#[test]
fn by_history_a_share_of_exchangeable_losses_is_kept() {
    for keep in [0.5, 0.25] {
        let mut selector = selector("sb-history", keep);
        let (mut kept, steps) = (0, 400);
        for step in 0..steps {
            let logits = Init::Normal(1.0).draw(step, "logits", &[32, 4]);
            let labels = Tensor::zeros([32], tch::kind::INT64_CPU);
            let sight = Sight { features: Tensor::zeros([32, 2], tch::kind::FLOAT_CPU), logits, labels };
            let chosen = selector.choose(step, &standing(32), Some(&sight));
            assert_eq!(chosen.share, keep);
            kept += chosen.rows.len();
            selector.remember(&numbers(&sight.losses()));
        }
        assert_eq!(selector.history().len(), HISTORY);
        let rate = kept as f64 / (32 * steps) as f64;
        assert!((rate - keep).abs() < 0.02, "{rate} {keep}");
    }
}

#[test]
fn the_order_of_a_micro_batch_changes_nothing() {
    let sight = toy(20, 3, 5);
    let order: Vec<i64> = Draw::new(4).permutation(20).into_iter().map(|row| row as i64).collect();
    let index = Tensor::from_slice(&order);
    let of = |tensor: &Tensor| tensor.index_select(0, &index);
    let turned = Sight { features: of(&sight.features), logits: of(&sight.logits), labels: of(&sight.labels) };
    let positions = standing(20);
    let moved: Vec<i64> = order.iter().map(|&row| positions[row as usize]).collect();
    for rule in Rule::ALL {
        let selector = selector(rule.name(), 0.3);
        let here = |chosen: &Chosen, positions: &[i64]| {
            let mut rows: Vec<i64> = chosen.rows.iter().map(|&row| positions[row]).collect();
            rows.sort_unstable();
            rows
        };
        let (before, after) = (selector.choose(2, &positions, Some(&sight)), selector.choose(2, &moved, Some(&turned)));
        assert_eq!(here(&before, &positions), here(&after, &moved), "{}", rule.name());
    }
}

#[test]
fn equal_losses_are_chosen_among_at_random() {
    let sight = Sight {
        features: Tensor::zeros([40, 2], tch::kind::FLOAT_CPU),
        logits: Tensor::zeros([40, 3], tch::kind::FLOAT_CPU),
        labels: Tensor::zeros([40], tch::kind::INT64_CPU),
    };
    let selector = selector("top-loss", 0.25);
    let at = |step| selector.choose(step, &standing(40), Some(&sight)).rows;
    assert_ne!(at(0), at(1));
    assert_ne!(at(0), (30..40).collect::<Vec<_>>());
    assert_eq!(at(0).len(), 10);
}

#[test]
fn where_no_gradient_points_anywhere_any_rows_are_taken() {
    // Sure and right about every row, in f64 too.
    let logits = Tensor::from_slice(&[2000f32, 0.0]).expand([12, 2], false).contiguous();
    let (features, labels) = (Tensor::ones([12, 2], tch::kind::FLOAT_CPU), Tensor::zeros([12], tch::kind::INT64_CPU));
    let chosen = selector("gradient-matching", 0.5).choose(0, &standing(12), Some(&Sight { features, logits, labels }));
    assert_eq!((chosen.rows.len(), chosen.weights, chosen.share), (6, None, 0.5));
}

#[test]
fn a_row_whose_loss_is_no_number_is_brought_up() {
    let sight = toy(8, 3, 4);
    let _ = sight.logits.get(5).fill_(f64::NAN);
    for rule in ["top-loss", "sb-fixed", "sb-history", "gradient-matching"] {
        assert_eq!(selector(rule, 0.25).choose(0, &standing(8), Some(&sight)).rows, [5], "{rule}");
    }
}
