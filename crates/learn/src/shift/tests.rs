use super::*;
use serde_json::Value;
use tch::Device;

fn normal(rows: i64, width: i64, mean: f64, draw: Draw) -> Tensor {
    let values: Vec<f64> = (0..(rows * width) as u64).map(|at| mean + draw.at(at).normal()).collect();
    Tensor::from_slice(&values).view([rows, width])
}

/// The largest distance of the values' distribution from the uniform one.
fn from_uniform(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let all = values.len() as f64;
    let gap = |(at, p): (usize, &f64)| (p - at as f64 / all).max((at + 1) as f64 / all - p);
    values.iter().enumerate().map(gap).fold(0.0, f64::max)
}

/// That of 500 uniform values is larger once in a thousand times (Kolmogorov: 1.95/√n), and p-values have steps.
const UNIFORM: f64 = 1.95 / 22.36 + 0.01;

#[test]
fn p_values_of_mmd_are_uniform_if_nothing_changed() {
    let p = (0..500).map(|at| {
        let draw = Draw::new(1).at(at);
        mmd(&normal(30, 2, 0.0, draw.at(0)), &normal(20, 2, 0.0, draw.at(1)), 199, draw.at(2)).unwrap().found.p
    });
    let apart = from_uniform(p.collect());
    assert!(apart < UNIFORM, "{apart}");
}

#[test]
fn p_values_of_ks_are_uniform_if_nothing_changed() {
    let p = (0..500).map(|at| {
        let draw = Draw::new(2).at(at);
        ks(&columns(&normal(211, 1, 0.0, draw.at(0))), &columns(&normal(190, 1, 0.0, draw.at(1)))).unwrap().0.p
    });
    let apart = from_uniform(p.collect());
    assert!(apart < UNIFORM, "{apart}");
}

#[test]
fn p_values_of_concept_shift_are_uniform_if_nothing_changed() {
    let p = (0..500).map(|at| {
        let draw = Draw::new(3).at(at);
        let losses = |rows, draw: Draw| -> Vec<f64> { (0..rows).map(|at| -draw.at(at).unit().ln()).collect() };
        let of = |draw: Draw| Losses { reference: losses(40, draw.at(0)), fresh: losses(30, draw.at(1)) };
        concept(&[of(draw.at(3)), of(draw.at(4))], 199, draw.at(2)).unwrap().p
    });
    let apart = from_uniform(p.collect());
    assert!(apart < UNIFORM, "{apart}");
}

#[test]
fn a_shift_of_the_mean_by_one_deviation_is_found_every_time_in_200_rows() {
    for at in 0..20 {
        let draw = Draw::new(4).at(at);
        let (before, now) = (normal(200, 4, 0.0, draw.at(0)), normal(200, 4, 1.0, draw.at(1)));
        assert!(mmd(&before, &now, 199, draw.at(2)).unwrap().found.p <= 0.005);
        assert!(ks(&columns(&before), &columns(&now)).unwrap().0.p < 1e-6);
    }
}

#[test]
fn distances_and_p_values_are_those_of_scipy() {
    let golden: Value = serde_json::from_str(include_str!("../../tests/golden/shift.json")).unwrap();
    let matrix = |value: &Value| {
        let rows: Vec<Vec<f64>> = serde_json::from_value(value.clone()).unwrap();
        Tensor::from_slice2(&rows)
    };
    let near = |found: f64, wanted: &Value| {
        let wanted = wanted.as_f64().unwrap();
        assert!((found - wanted).abs() <= 1e-9 * wanted.abs().max(1e-3), "{found} for {wanted}");
    };
    for case in golden["samples"].as_array().unwrap() {
        let (before, now) = (matrix(&case["before"]), matrix(&case["now"]));
        let (before_columns, now_columns) = (columns(&before), columns(&now));
        for at in 0..3 {
            let (found, distances) = ks(&before_columns[at..=at], &now_columns[at..=at]).unwrap();
            near(distances[0], &case["distances"][at]);
            near(found.p, &case["p"][at]);
        }
        let Mmd { found, bandwidth } = mmd(&before, &now, 9, Draw::new(0)).unwrap();
        near(bandwidth, &case["bandwidth"]);
        near(found.statistic, &case["discrepancy"]);
        near(mmd::discrepancy(&before, &now, bandwidth).unwrap(), &case["discrepancy"]);
    }
    for case in golden["tables"].as_array().unwrap() {
        let side = |at: usize| -> BTreeMap<String, u64> {
            let counts = case["table"][at].as_array().unwrap().iter().enumerate();
            counts.map(|(label, count)| (label.to_string(), count.as_u64().unwrap())).collect()
        };
        let (found, _) = labels(&side(0), &side(1)).unwrap();
        near(found.statistic, &case["statistic"]);
        near(found.p, &case["p"]);
    }
}

#[test]
fn bonferroni_multiplies_by_the_number_of_features_and_stops_at_1() {
    let (before, now) = (normal(30, 1, 0.0, Draw::new(5)), normal(30, 1, 0.6, Draw::new(6)));
    let alone = ks(&columns(&before), &columns(&now)).unwrap().0.p;
    let wide = |times: i64| ks(&columns(&before.repeat([1, times])), &columns(&now.repeat([1, times]))).unwrap().0.p;
    assert!((wide(3) - 3.0 * alone).abs() < 1e-12 && wide(100_000 / 60) == 1.0, "{alone}");
}

#[test]
fn what_says_nothing_is_no_shift() {
    let one = normal(1, 3, 0.0, Draw::new(7));
    let some = normal(9, 3, 0.0, Draw::new(8));
    let broken = &some * f64::NAN;
    for (a, b) in [(&one, &some), (&some, &one), (&some, &broken)] {
        assert!(mmd(a, b, 9, Draw::new(0)).is_none() && ks(&columns(a), &columns(b)).is_none());
    }
    let same = Tensor::ones([6, 3], (Kind::Double, Device::Cpu));
    let found = mmd(&same, &same, 99, Draw::new(0)).unwrap().found;
    assert_eq!((found.statistic, found.p), (0.0, 1.0));
    assert_eq!(ks(&columns(&same), &columns(&same)).unwrap().0, Found { statistic: 0.0, p: 1.0 });
    let ham: BTreeMap<String, u64> = [("ham".to_owned(), 3)].into();
    assert_eq!(labels(&ham, &ham).unwrap().0, Found { statistic: 0.0, p: 1.0 });
    assert!(labels(&ham, &BTreeMap::new()).is_none());
    let losses = |reference: &[f64], fresh: &[f64]| [Losses { reference: reference.to_vec(), fresh: fresh.to_vec() }];
    assert!(concept(&losses(&[1.0], &[1.0, 2.0]), 9, Draw::new(0)).is_none());
    assert!(concept(&losses(&[1.0, f64::INFINITY], &[1.0, 2.0]), 9, Draw::new(0)).is_none());
}

#[test]
fn proportions_of_unlabelled_rows_are_told_by_answers_that_are_often_wrong() {
    // Of each label (columns), how it is answered (rows); the labels were equally frequent.
    let answers = Tensor::from_slice2(&[[0.8, 0.2, 0.1], [0.1, 0.7, 0.2], [0.1, 0.1, 0.7]]);
    let now = Tensor::from_slice(&[0.1, 0.3, 0.6]);
    let found = bbse(&(&answers / 3.0), &answers.matmul(&now)).unwrap();
    assert!(found.iter().zip([0.1, 0.3, 0.6]).all(|(found, now)| (found - now).abs() < 1e-9), "{found:?}");
    let blind = Tensor::from_slice2(&[[0.2, 0.2], [0.3, 0.3]]);
    assert_eq!(bbse(&blind, &Tensor::from_slice(&[0.4, 0.6])), None);
    assert_eq!(
        bbse(&(&answers / 3.0), &Tensor::from_slice(&[0.0, 0.0, 0.0])),
        None,
        "none is of a label that it knows"
    );
}

fn sample(means: [f64; 2], losses: [f64; 2], counts: [usize; 2], draw: Draw) -> Sample {
    let side = |at: usize| normal(counts[at] as i64, 3, means[at], draw.at(at as u64));
    let each = |at: usize| vec![at; counts[at]];
    let places = [each(0), each(1)].concat();
    Sample {
        answers: vec![None; places.len()],
        features: Tensor::cat(&[side(0), side(1)], 0),
        labels: places.iter().map(|&at| Some(["ham", "spam"][at].to_owned())).collect(),
        losses: places
            .iter()
            .enumerate()
            .map(|(row, &at)| Some(losses[at] + draw.at(9).at(row as u64).unit()))
            .collect(),
    }
}

#[test]
fn each_test_names_the_class_that_moved() {
    let before = sample([0.0, 5.0], [0.1, 0.1], [60, 60], Draw::new(10));
    let named = |now: &Sample, detector: Detector| {
        let found = compare(&before, now, Draw::new(12));
        let tested = found.into_iter().find(|tested| tested.detector == detector).unwrap();
        (tested.p_value, tested.moved[0].name.clone())
    };
    let moved = sample([0.0, 7.0], [0.1, 0.1], [60, 60], Draw::new(11));
    let (p, name) = named(&moved, Detector::Mmd);
    assert!(p < 0.002 && name == "spam", "{p} {name}");
    let rarer = sample([0.0, 5.0], [0.1, 0.1], [90, 20], Draw::new(11));
    assert!(named(&rarer, Detector::Labels).0 < 1e-4);
    let relabelled = sample([0.0, 5.0], [0.1, 2.0], [60, 60], Draw::new(11));
    let (p, name) = named(&relabelled, Detector::Concept);
    assert!(p < 0.002 && name == "spam", "{p} {name}");
    let same = sample([0.0, 5.0], [0.1, 0.1], [60, 60], Draw::new(13));
    let found = compare(&before, &same, Draw::new(12));
    assert!(found.iter().all(|tested| tested.p_value > 0.01), "{found:?}");
}

#[test]
fn rows_without_labels_count_for_what_they_look_like() {
    let before = sample([0.0, 5.0], [0.1, 0.1], [60, 60], Draw::new(10));
    let mut now = sample([3.0, 9.0], [0.1, 0.1], [60, 60], Draw::new(11));
    (now.labels, now.losses) = (vec![None; 120], vec![None; 120]);
    let found: Vec<Detector> = compare(&before, &now, Draw::new(12)).iter().map(|tested| tested.detector).collect();
    assert_eq!(found, [Detector::Mmd, Detector::Ks]);
}

#[test]
fn labels_that_nobody_gave_are_told_by_answers() {
    // One row in five is answered with the other label.
    let answering = |sample: Sample| {
        let other = |label: &str| if label == "ham" { "spam" } else { "ham" };
        let answer = |(at, label): (usize, &Option<String>)| {
            label.as_ref().map(|label| if at % 5 == 0 { other(label) } else { label }.to_owned())
        };
        Sample { answers: sample.labels.iter().enumerate().map(answer).collect(), ..sample }
    };
    let before = answering(sample([0.0, 5.0], [0.1, 0.1], [100, 100], Draw::new(10)));
    let mut now = answering(sample([0.0, 5.0], [0.1, 0.1], [180, 20], Draw::new(11)));
    now.labels = vec![None; 200];
    let found = proportions(&before, &now).unwrap();
    assert!(found.p_value < 1e-6 && found.detector == Detector::Labels, "{found:?}");
    assert!(found.moved.iter().all(|moved| (moved.by.abs() - 0.4).abs() < 1e-9), "{found:?}");
    now.answers = vec![None; 200];
    assert_eq!(proportions(&before, &now), None);
}

#[test]
fn hard_labels_that_become_frequent_are_no_other_concept() {
    let before = sample([0.0, 5.0], [0.1, 2.0], [100, 100], Draw::new(10));
    let now = sample([0.0, 5.0], [0.1, 2.0], [20, 180], Draw::new(11));
    let found = compare(&before, &now, Draw::new(12));
    let p = |detector| found.iter().find(|tested: &&Tested| tested.detector == detector).unwrap().p_value;
    assert!(p(Detector::Labels) < 1e-6 && p(Detector::Concept) > 0.01, "{found:?}");
}
