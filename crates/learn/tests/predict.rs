//! A prediction is the row's own: who stands beside it, and in which order, does not change it.

mod support;

use domain::chunk::{Payload, Row};
use perennial_learn::assemble::{Assembled, Sources, assemble};
use perennial_learn::predict::{Unreadable, predict};
use perennial_learn::{Flat, model::layers};
use serde_json::json;
use support::{MLP, Trial, manifest, text_model};
use tch::Device;

fn text(text: &str) -> Row {
    Row::new(text, Payload::Text(text.to_owned()), "")
}

/// Texts of one to nine words.
fn texts() -> Vec<Row> {
    let words = ["red", "green", "blue", "paint"];
    (0..23).map(|n| text(&(0..=n % 9).map(|k| words[(n + k * k) % 4]).collect::<Vec<_>>().join(" "))).collect()
}

#[test]
fn neither_windows_nor_batches_nor_order_change_a_prediction() {
    let home = tempfile::tempdir().unwrap();
    let base = text_model(home.path());
    let run = manifest(json!({
        "model": {"uri": "file:///m", "sha256": "0".repeat(64)},
        "adapter": {"lora": {"r": 2, "target_modules": ["query", "value"]}},
    }));
    let rows = texts();
    let sources = Sources { base: Some(&base), ..support::sources(&run, None) };
    let Assembled { net, trained, reader } = assemble(sources, &rows[0]).unwrap();
    let mut flat = Flat::over(trained);
    {
        let _guard = tch::no_grad_guard();
        flat.values += layers::Init::Normal(0.5).draw(1, "elsewhere", &flat.values.size());
    }
    let predicted = |rows: &[Row], batch| predict(&net, &reader, rows, None, batch, Device::Cpu).unwrap();
    let whole = predicted(&rows, 128);
    let distinct: std::collections::BTreeSet<String> = whole.iter().map(|row| format!("{row:?}")).collect();
    assert!(distinct.len() > 9, "a model that answers always the same would show nothing");
    let reversed: Vec<Row> = rows.iter().rev().cloned().collect();
    let mut backwards = predicted(&reversed, 4);
    backwards.reverse();
    let mut others = vec![backwards];
    for (window, batch) in [(1, 1), (2, 128), (7, 3), (23, 5)] {
        others.push(rows.chunks(window).flat_map(|window| predicted(window, batch)).collect());
    }
    for other in others {
        for (row, (a, b)) in whole.iter().flatten().zip(other.iter().flatten()).enumerate() {
            assert!((a - b).abs() < 1e-5, "{row}: {a} and {b}");
        }
    }
    assert!(whole.iter().all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-5));
}

#[test]
fn a_row_of_the_wrong_kind_is_named_by_its_position() {
    let trial = Trial::new(manifest(json!({"model": MLP})));
    let rows = [support::sample(), support::sample(), support::sample(), text("red")];
    for batch in [1, 2, 8] {
        let refused = predict(&trial.net, &trial.reader, &rows, None, batch, Device::Cpu).unwrap_err();
        let reason = "it is text, and the model takes images".to_owned();
        assert_eq!(refused, Unreadable { position: 3, reason });
    }
}
