//! Numbers from references written straight from the definitions (`golden/vit.py`, `golden/adamw.py`).

use domain::pipeline::Training;
use perennial_learn::Error;
use perennial_learn::model::Model;
use perennial_learn::model::layers::Init;
use perennial_learn::model::vit::{Config, Vit};
use perennial_learn::optim;
use serde_json::{Value, json};
use tch::{Kind, Tensor};

/// `0.3·sin(1 + 0.7·i + |name|)`
fn weight(name: &str, shape: &[i64], _: Init) -> Result<Tensor, Error> {
    let start = 1.0 + name.len() as f64;
    let values: Vec<f32> =
        (0..shape.iter().product::<i64>()).map(|i| (0.3 * (start + i as f64 * 0.7).sin()) as f32).collect();
    Ok(Tensor::from_slice(&values).view(shape))
}

fn config() -> Config {
    Config {
        hidden_size: 12,
        num_hidden_layers: 3,
        num_attention_heads: 3,
        intermediate_size: 20,
        image_size: 8,
        patch_size: 4,
        num_channels: 3,
        layer_norm_eps: 1e-6,
        ..Config::default()
    }
}

fn golden(name: &str) -> Vec<f64> {
    fn flat(value: &Value, into: &mut Vec<f64>) {
        match value {
            Value::Array(values) => values.iter().for_each(|value| flat(value, into)),
            number => into.push(number.as_f64().unwrap()),
        }
    }
    let text = include_str!("golden/vit.json");
    let mut values = Vec::new();
    flat(&serde_json::from_str::<Value>(text).unwrap()[name], &mut values);
    values
}

fn close(found: &Tensor, name: &str) {
    let found: Vec<f64> = found.flatten(0, -1).to_kind(Kind::Double).try_into().unwrap();
    let golden = golden(name);
    assert_eq!(found.len(), golden.len());
    let difference = found.iter().zip(&golden).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(difference < 2e-5, "{name} differs by {difference}");
}

#[test]
fn a_vision_transformer_gives_the_reference_s_features() {
    let mut model = Vit::new(config(), &mut weight).unwrap();
    let pixels = weight("pixels", &[2, 3, 8, 8], Init::Zeros).unwrap();
    close(&model.embed(&pixels), "embedded");
    close(&model.encode(model.embed(&pixels)), "features");
    model.freeze(Kind::Float);
    close(&model.encode(model.embed(&pixels)), "features");
}

#[test]
fn adamw_with_decay_under_a_cosine_gives_the_reference_s_values() {
    let settings = json!({"optimizer": "adamw", "learning_rate": 0.1, "weight_decay": 0.2, "schedule": "cosine"});
    let training: Training = serde_json::from_value(settings).unwrap();
    let gradients = [[0.3f32, -0.1, 0.0], [-0.2, 0.4, 1.0], [0.5, 0.05, -2.0]];
    let golden = [[0.88, -1.86, 0.49], [0.855961, -1.8740628, 0.4268397], [0.8370911, -1.8773498, 0.4325627]];
    let mut values = Tensor::from_slice(&[1.0f32, -2.0, 0.5]);
    let mut optimizer = optim::build(&training, &values);
    for (step, (gradient, golden)) in (0..3).zip(gradients.iter().zip(golden)) {
        optimizer.step(&mut values, &Tensor::from_slice(gradient), step, optim::rate(&training, step, 3));
        let found = Vec::<f32>::try_from(&values).unwrap();
        let near = found.iter().zip(golden).all(|(a, b)| (f64::from(*a) - b).abs() < 2e-6);
        assert!(near, "step {step}: {found:?}, expected {golden:?}");
    }
}
