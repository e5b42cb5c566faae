//! Gradients against finite differences.

mod support;

use perennial_learn::Flat;
use perennial_learn::assemble::assemble;
use perennial_learn::input::Input;
use perennial_learn::method::{self, Batch, Learner};
use perennial_learn::model::layers::Init;
use serde_json::json;
use support::{MLP, RESNET, Trial, VIT, lora, manifest, sample, sources, span};
use tch::{Kind, Tensor};

fn batch(trial: &Trial, start: i64, rows: i64) -> Batch {
    let (bytes, labels) = trial.pool.data.take(&span(start, rows));
    let pixels = trial.reader.apply(bytes).pixels().to_kind(trial.weights.values.kind());
    Batch { inputs: Input::Pixels(pixels), labels, kept: None, weights: None, of: rows as f64, absent: None }
}

fn direction(trial: &Trial, seed: u64) -> Tensor {
    Init::Normal(1.0).draw(seed, "direction", &trial.weights.values.size())
}

/// Along random directions: `(L(θ+εd) − L(θ−εd)) / 2ε` against `g·d`.
fn check(mut trial: Trial, step: f64, tolerance: f64) {
    let er = method::build(&trial.manifest.pipeline);
    let (fresh, memory) = (batch(&trial, 0, 6), [batch(&trial, 6, 9)]);
    {
        // Away from B = 0, where half of the gradient is zero.
        let _guard = tch::no_grad_guard();
        let mut trained = trial.weights.descending(&trial.weights.values);
        trained += trial.weights.descending(&direction(&trial, 1)) * 0.1;
    }
    let loss = |trial: &Trial| er.loss(&Learner::new(&trial.net, &trial.weights, None), &fresh, &memory).loss;
    let values = trial.weights.values.numel() as i64;
    let gradient = trial.weights.partial(&loss(&trial), &[]).narrow(0, 0, values);
    for seed in 2..8 {
        let along = direction(&trial, seed);
        let expected = (&gradient * &along).sum(Kind::Double).double_value(&[]);
        let _guard = tch::no_grad_guard();
        trial.weights.values += &along * step;
        let above = loss(&trial).double_value(&[]);
        trial.weights.values -= &along * (2.0 * step);
        let below = loss(&trial).double_value(&[]);
        trial.weights.values += &along * step;
        let found = (above - below) / (2.0 * step);
        assert!((found - expected).abs() < tolerance * (1.0 + expected.abs()), "{found} {expected}");
    }
}

/// With every parameter in f64, where a step can be too small to cross a kink of ReLU.
fn double(model: &str) -> Trial {
    let mut trial = Trial::new(manifest(json!({"model": model})));
    let assembled = assemble(sources(&trial.manifest, None), &sample()).unwrap();
    let widened = assembled.trained.into_iter().map(|(name, mut leaf)| {
        leaf.set_data(&leaf.to_kind(Kind::Double));
        (name, leaf)
    });
    trial.weights = Flat::over(widened.collect());
    trial.net = assembled.net;
    trial
}

#[test]
fn every_parameter_of_a_perceptron() {
    check(double(MLP), 1e-7, 1e-6);
}

#[test]
fn every_parameter_of_a_transformer() {
    check(double(VIT), 1e-5, 1e-6);
}

#[test]
fn every_parameter_of_a_resnet() {
    check(double(RESNET), 1e-7, 1e-5);
}

#[test]
fn every_parameter_of_a_resnet_with_continual_normalisation() {
    check(double(&format!("{RESNET},norm=continual,groups=2")), 1e-9, 1e-4);
}

#[test]
fn adapters_and_head_of_a_transformer() {
    check(Trial::new(manifest(lora(VIT))), 2e-3, 5e-3);
}
