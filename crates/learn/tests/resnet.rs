//! ResNets and their running statistics: against PyTorch and transformers, across ranks, resumes and files, and where a
//! channel has one value.

mod support;

use std::process::Command;

use domain::pipeline::{Adapter, Pooling, Precision, Training};
use perennial_learn::assemble::{Assembled, assemble};
use perennial_learn::evaluate::evaluate;
use perennial_learn::input::Input;
use perennial_learn::method::Learner;
use perennial_learn::model::head::Head;
use perennial_learn::model::layers::Init;
use perennial_learn::model::resnet::{Config, Resnet, Stem};
use perennial_learn::model::{Geometry, Net, folder};
use perennial_learn::{Carried, Error, Flat, checkpoint, optim, peft};
use serde_json::{Value, json};
use support::{RESNET, Trial, manifest, ranks, sample, skipped, sources, staged};
use tch::{Device, Kind, Reduction, Tensor};

/// By `golden/resnet.py`.
const GOLDEN: &str = include_str!("golden/resnet.json");
const STEPS: i64 = 20;
const ROWS: i64 = 8;
const SIDE: i64 = 32;

/// `0.3·sin(1 + 0.7·i² + |name|)`; scales and variances about 1.
fn weight(name: &str, shape: &[i64], _: Init) -> Result<Tensor, Error> {
    let start = 1.0 + name.len() as f64;
    let values: Vec<f64> =
        (0..shape.iter().product::<i64>()).map(|i| 0.3 * (start + (i * i) as f64 * 0.7).sin()).collect();
    let values = Tensor::from_slice(&values).view(shape);
    let shifted = name.ends_with("normalization.weight") || name.ends_with("running_var");
    Ok(if shifted { values + 1.0 } else { values })
}

fn drawn(name: &str, shape: &[i64]) -> Tensor {
    weight(name, shape, Init::Zeros).unwrap()
}

fn small(stem: Stem, continual_groups: Option<i64>) -> (Net, Flat) {
    let config = Config { continual_groups, ..Config::resnet18(stem, 4, Geometry { channels: 3, side: SIDE }) };
    let body = Resnet::new(config, &mut weight).unwrap();
    let head = Head { weight: drawn("head.weight", &[3, 32]), bias: drawn("head.bias", &[3]) };
    let mut net = Net { body: Box::new(body), head, frozen: 0, means: None, heads: None };
    let trained = peft::attach(&mut net, &Adapter::Full, 0, Kind::Float).unwrap();
    (net, Flat::over(trained))
}

fn close(found: &Tensor, golden: &Value, what: &str) {
    let rows =
        golden.as_array().unwrap().iter().flat_map(|row| row.as_array().map_or(vec![row], |row| row.iter().collect()));
    let golden: Vec<f64> = rows.map(|value| value.as_f64().unwrap()).collect();
    let found: Vec<f64> = found.flatten(0, -1).try_into().unwrap();
    assert_eq!(found.len(), golden.len());
    for (a, b) in found.iter().zip(&golden) {
        assert!((a - b).abs() < 1e-6 * (1.0 + b.abs()), "{what}: {a} {b}");
    }
}

#[test]
fn pytorch_s_features_and_running_statistics_before_and_after_twenty_steps() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let (pixels, labels) = (
        drawn("pixels", &[STEPS + ROWS, 3, SIDE, SIDE]),
        Tensor::arange(STEPS + ROWS, (Kind::Int64, Device::Cpu)).remainder(3),
    );
    for (name, stem, groups) in
        [("imagenet", Stem::Imagenet, None), ("cifar", Stem::Cifar, None), ("continual", Stem::Cifar, Some(2))]
    {
        let (net, mut weights) = small(stem, groups);
        let seen = Input::Pixels(pixels.narrow(0, 0, 3));
        close(&net.features(&seen).detach(), &golden[name]["before"], name);
        let training: Training = serde_json::from_value(json!({"optimizer": "sgd", "learning_rate": 0.01})).unwrap();
        let mut optimizer = optim::build(&training, &weights.values);
        for step in 0..STEPS {
            let learner = Learner::new(&net, &weights, None);
            let logits = learner.forward(&Input::Pixels(pixels.narrow(0, step, ROWS)));
            let labels = labels.narrow(0, step, ROWS);
            let loss = logits.cross_entropy_loss(&labels, None::<&Tensor>, Reduction::Mean, -100, 0.0);
            let (gradient, _) = weights.slope(&weights.partial(&loss, &learner.measured()));
            let (mut values, along) = (weights.descending(&weights.values), weights.descending(&gradient));
            optimizer.step(&mut values, &along, step as u64, 0.01);
            weights.follow(&gradient);
        }
        close(&net.features(&seen).detach(), &golden[name]["after"], name);
        let running = |part: &str| {
            let path = format!("encoder.stages.3.layers.1.layer.1.normalization.running_{part}");
            weights.named().iter().find(|(leaf, _)| *leaf == path).unwrap().1.shallow_clone()
        };
        close(&running("mean"), &golden[name]["mean"], name);
        close(&running("var"), &golden[name]["variance"], name);
    }
}

fn change() -> Value {
    json!({"model": RESNET, "training": {"optimizer": "sgd", "learning_rate": 0.1, "epochs": 2}})
}

/// The running statistics of a net.
fn running(trial: &Trial) -> Tensor {
    trial.weights.running(&trial.weights.values).copy()
}

#[test]
fn one_two_three_and_four_ranks_end_with_the_same_bits_and_so_does_a_resume() {
    let folder = tempfile::tempdir().unwrap();
    let alone = ranks(1, |collective| {
        let mut trial = Trial::with_memory(manifest(change()), 15);
        let (run, before) = (trial.manifest.clone(), running(&trial));
        trial.run_on(collective, None, &mut |moment| {
            checkpoint::save(&folder.path().join(moment.step.to_string()), &run, Precision::F32, moment)
        });
        assert!(!running(&trial).equal(&before));
        trial.hash()
    });
    for world in 1..=4 {
        for from in [None, Some("3")] {
            let all = ranks(world, |collective| {
                let mut trial = Trial::with_memory(manifest(change()), 15);
                let load = |step| checkpoint::load(&folder.path().join(step), &trial.manifest).unwrap();
                let saved = from.map(load);
                trial.run_on(collective, saved, &mut |_| Ok(()));
                trial.hash()
            });
            assert!(all.iter().all(|hash| *hash == alone[0]), "{world} ranks, from {from:?}");
        }
    }
}

#[test]
fn the_hash_covers_running_statistics() {
    let trial = Trial::new(manifest(change()));
    let before = trial.hash();
    let _ = trial.weights.running(&trial.weights.values).g_add_scalar_(0.5);
    assert_ne!(trial.hash(), before);
}

/// The next update of a version in files.
fn continued(folder: &std::path::Path) -> Trial {
    let mut next = Trial::with_memory(manifest(change()), 15);
    let Assembled { net, trained, .. } = assemble(sources(&next.manifest, Some(folder)), &sample()).unwrap();
    (next.net, next.weights) = (net, Flat::over(trained));
    next.carried = Carried::load(folder).unwrap();
    next
}

#[test]
fn a_version_in_files_answers_and_goes_on_as_the_net_that_left_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut trial = Trial::with_memory(manifest(change()), 15);
    let outcome = trial.run();
    trial.publish(folder.path(), &outcome);
    let mut next = continued(folder.path());
    assert_eq!(next.logits(), trial.logits());
    assert_eq!(next.hash(), trial.hash());
    next.run();
    let kept = std::mem::replace(&mut trial.carried, Carried::load(folder.path()).unwrap());
    assert!(kept.0.is_empty());
    trial.run();
    assert_eq!(next.hash(), trial.hash());
}

#[test]
fn no_row_s_answer_depends_on_the_rows_beside_it() {
    for norm in ["batch", "continual,groups=4"] {
        let mut trial =
            Trial::new(manifest(json!({"model": format!("{RESNET},norm={norm}"), "training": {"epochs": 3}})));
        trial.run();
        let _guard = tch::no_grad_guard();
        let (inputs, together) = (trial.inputs(), trial.logits());
        for row in 0..inputs.rows() {
            let alone = trial.net.forward(&inputs.narrow(row, 1));
            let difference = (together.narrow(0, row, 1) - alone).abs().max().double_value(&[]);
            assert!(difference < 1e-5 * (1.0 + together.abs().max().double_value(&[])), "{difference}");
        }
        let scored = |batch| evaluate(&trial.net, &trial.pool.data, &trial.reader, None, batch, &mut |_| ()).correct;
        assert_eq!(scored(45), scored(1));
    }
}

/// Each row is a micro-batch.
fn one_by_one() -> Value {
    let training = json!({"batch_size": 4, "micro_batches": 4, "replay": {"batch": 4}});
    json!({"model": RESNET, "method": "ft", "training": training})
}

/// Of the last normalisation, whose maps have one pixel here.
fn last(trial: &Trial) -> Tensor {
    let all = running(trial);
    all.narrow(0, all.numel() as i64 - 64, 64)
}

#[test]
fn a_micro_batch_of_one_row_has_running_statistics_where_a_map_has_one_pixel() {
    let mut trial = Trial::new(manifest(one_by_one()));
    let (before, first) = (last(&trial), running(&trial));
    assert!(trial.run().finite);
    assert_eq!(last(&trial), before);
    // Larger maps have statistics of their own.
    let moved = running(&trial).ne_tensor(&first).sum(Kind::Int64).int64_value(&[]);
    assert!(moved > 100, "{moved}");
}

#[test]
fn a_chunk_of_one_row_trains() {
    for method in ["ft", "er", "joint"] {
        let mut trial = Trial::of(manifest(json!({"model": RESNET, "method": method})), 1);
        let before = trial.hash();
        let outcome = trial.run();
        assert!(outcome.finite && outcome.steps == 1 && trial.hash() != before, "{method}");
    }
}

#[test]
fn a_method_that_starts_anew_starts_from_the_base_s_statistics() {
    let trained = |shift: f64| {
        let mut trial = Trial::with_memory(manifest(json!({"model": RESNET, "method": "gdumb"})), 15);
        let _ = trial.weights.running(&trial.weights.values).g_add_scalar_(shift);
        trial.run();
        trial.hash()
    };
    assert_eq!(trained(0.0), trained(0.7));
}

#[test]
fn statistics_without_bounds_are_not_finite() {
    let mut trial = Trial::new(manifest(one_by_one()));
    // What one row cannot measure stays; divided by, it gives 0.
    let _ = last_of(&trial).fill_(f64::INFINITY);
    let outcome = trial.run();
    assert!(!outcome.finite);
}

/// The variances of the last normalisation, not a copy.
fn last_of(trial: &Trial) -> Tensor {
    let all = trial.weights.running(&trial.weights.values);
    all.narrow(0, all.numel() as i64 - 32, 32)
}

#[test]
fn a_teacher_s_statistics_are_its_own_and_it_leaves_none() {
    let trial = Trial::new(manifest(change()));
    let parent = trial.weights.values.copy();
    let theirs = trial.logits();
    let _ = trial.weights.running(&trial.weights.values).g_add_scalar_(0.5);
    let learner = Learner::new(&trial.net, &trial.weights, None);
    assert_eq!(learner.asked(&parent, &trial.inputs()), theirs);
    assert_ne!(trial.logits(), theirs);
    assert!(learner.measured().is_empty());
}

#[test]
fn a_resnet_that_python_saved_gives_its_features_here() {
    if skipped() {
        return;
    }
    let (staged, home) = (staged().unwrap(), tempfile::tempdir().unwrap());
    for transformers in ["oldest", "newest"] {
        let mut command = Command::new(staged["python"].as_str().unwrap());
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/resnet_save.py")).arg(home.path());
        command.env("PYTHONPATH", staged[transformers].as_str().unwrap()).env("HF_HUB_OFFLINE", "1");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{transformers}: {}", String::from_utf8_lossy(&output.stderr));
        let theirs: Vec<Vec<f64>> = serde_json::from_slice(&output.stdout).unwrap();
        let model = folder::load(home.path(), Pooling::Mean, Device::Cpu).unwrap();
        let (_, pixels) = Tensor::read_safetensors(home.path().join("rows.safetensors")).unwrap().remove(0);
        let ours = model.encode(model.embed(&Input::Pixels(pixels)));
        let difference = (Tensor::from_slice2(&theirs) - ours).abs().max().double_value(&[]);
        assert!(difference < 1e-5, "{transformers} differs by {difference}");
    }
}
