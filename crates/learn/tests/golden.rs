//! Numbers from references written straight from the definitions (`golden/vit.py`, `golden/bert.py`, `golden/adamw.py`).

use domain::pipeline::{Pooling, Training};
use perennial_learn::Error;
use perennial_learn::input::{Input, Tokens};
use perennial_learn::model::Model;
use perennial_learn::model::bert::{self, Bert};
use perennial_learn::model::layers::Init;
use perennial_learn::model::vit::{Config, Vit};
use perennial_learn::optim;
use serde_json::{Value, json};
use tch::{Kind, Tensor};

const VIT: &str = include_str!("golden/vit.json");
const BERT: &str = include_str!("golden/bert.json");

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

fn golden(text: &str, name: &str) -> Vec<f64> {
    fn flat(value: &Value, into: &mut Vec<f64>) {
        match value {
            Value::Array(values) => values.iter().for_each(|value| flat(value, into)),
            number => into.push(number.as_f64().unwrap()),
        }
    }
    let mut values = Vec::new();
    flat(&serde_json::from_str::<Value>(text).unwrap()[name], &mut values);
    values
}

fn close(found: &Tensor, text: &str, name: &str) {
    let found: Vec<f64> = found.flatten(0, -1).to_kind(Kind::Double).try_into().unwrap();
    let golden = golden(text, name);
    assert_eq!(found.len(), golden.len());
    let difference = found.iter().zip(&golden).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(difference < 2e-5, "{name} differs by {difference}");
}

#[test]
fn a_vision_transformer_gives_the_reference_s_features() {
    let mut model = Vit::new(config(), &mut weight).unwrap();
    let pixels = Input::Pixels(weight("pixels", &[2, 3, 8, 8], Init::Zeros).unwrap());
    close(&model.embed(&pixels).x, VIT, "embedded");
    close(&model.encode(model.embed(&pixels)), VIT, "features");
    model.freeze(Kind::Float);
    close(&model.encode(model.embed(&pixels)), VIT, "features");
}

#[test]
fn a_bert_gives_the_reference_s_features_whatever_is_padded() {
    let config = || bert::Config {
        vocab_size: 11,
        hidden_size: 12,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        intermediate_size: 20,
        max_position_embeddings: 6,
        layer_norm_eps: 1e-6,
        ..bert::Config::default()
    };
    let ids = Tensor::from_slice(&[1i64, 5, 9, 2, 1, 7, 0, 0]).view([2, 4]);
    let mask = ids.not_equal(0);
    let padded = Input::Tokens(Tokens { ids: ids.shallow_clone(), mask: Some(mask) });
    let alone = Input::Tokens(Tokens { ids: ids.narrow(0, 1, 1).narrow(1, 0, 2), mask: None });
    for (pooling, name) in [(Pooling::Mean, "mean"), (Pooling::Cls, "cls")] {
        let mut model = Bert::new(config(), pooling, &mut weight).unwrap();
        for _ in 0..2 {
            let features = model.encode(model.embed(&padded));
            close(&features, BERT, name);
            let unpadded = model.encode(model.embed(&alone));
            assert!((features.narrow(0, 1, 1) - unpadded).abs().max().double_value(&[]) < 1e-6);
            model.freeze(Kind::Float);
        }
    }
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
