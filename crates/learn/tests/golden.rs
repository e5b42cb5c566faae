//! Numbers from a reference written straight from the definition (`golden/vit.py`).

use perennial_learn::Error;
use perennial_learn::model::Model;
use perennial_learn::model::layers::Init;
use perennial_learn::model::vit::{Config, Vit};
use serde_json::Value;
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
