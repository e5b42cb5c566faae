//! Published adapters, loaded by the oldest and the newest PEFT that are supported: the same logits.
//!
//! PEFT only warns of names it does not know, so that nothing less than logits would show a wrong one.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use domain::chunk::Row;
use domain::manifest::Manifest;
use perennial_learn::data::Reader;
use perennial_learn::data::images::Preprocess;
use perennial_learn::input::Input;
use perennial_learn::model::{folder, layers, scratch};
use serde_json::{Value, json};
use support::{IMAGES, VIT, manifest, published, skipped, staged};
use tch::{Device, Kind, Tensor};

fn lora(targets: &[&str]) -> Manifest {
    manifest(json!({
        "model": {"uri": "file:///m", "sha256": "0".repeat(64)},
        "adapter": {"lora": {"r": 2, "alpha": 6.0, "target_modules": targets}},
    }))
}

fn write(input: &Input, file: &Path) {
    let tensors = match input {
        Input::Pixels(pixels) => vec![("pixel_values", pixels.shallow_clone())],
        Input::Tokens(tokens) => {
            let all = || Tensor::ones(tokens.ids.size(), (Kind::Float, Device::Cpu));
            let mask = tokens.mask.as_ref().map_or_else(all, |mask| mask.to_kind(Kind::Float));
            vec![("input_ids", tokens.ids.to_kind(Kind::Float)), ("attention_mask", mask)]
        }
    };
    Tensor::write_safetensors(&tensors, file).unwrap();
}

/// What Python makes of the version, under each PEFT.
fn compare(base: &Path, version: &Path, (input, logits): (Input, Tensor)) {
    let rows = version.join("rows.safetensors");
    write(&input, &rows);
    let staged = staged().expect("asked before");
    for peft in ["oldest", "newest"] {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peft_logits.py");
        let mut command = Command::new(staged["python"].as_str().unwrap());
        command.arg(script).args([base, version, &rows]);
        command.env("PYTHONPATH", staged[peft].as_str().unwrap()).env("HF_HUB_OFFLINE", "1");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{peft}: {}", String::from_utf8_lossy(&output.stderr));
        let theirs: Vec<Vec<f64>> = serde_json::from_slice(&output.stdout).unwrap();
        let theirs = Tensor::from_slice2(&theirs);
        let difference = (theirs - &logits).abs().max().double_value(&[]);
        assert!(difference < 1e-5, "{peft} differs by {difference}");
    }
}

#[test]
fn an_adapter_of_a_vit_gives_our_logits_in_python() {
    if skipped() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let (base, version) = (home.path().join("base"), home.path().join("version"));
    let vit = scratch::build(VIT, IMAGES, &mut layers::drawn(3, Device::Cpu)).unwrap();
    folder::save(&base, vit.as_ref(), &Reader::Images(Preprocess::unit(IMAGES))).unwrap();
    let run = lora(&["query", "key", "value", "dense"]);
    let found = published(&run, &base, &support::rows(6, 1), &version);
    compare(&base, &version, found);
}

#[test]
fn an_adapter_of_minilm_gives_our_logits_in_python() {
    if skipped() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let staged: Value = staged().unwrap();
    let base = PathBuf::from(staged["minilm"].as_str().unwrap());
    let text = |text: &str| Row {
        id: "r".to_owned(),
        payload: domain::chunk::Payload::Text(text.to_owned()),
        label: "a".to_owned(),
    };
    let rows = ["How do I activate my new card?", "It was stolen.", "Top-up by bank transfer, please"].map(text);
    let run = lora(&["query", "value", "dense"]);
    let found = published(&run, &base, &rows, home.path());
    compare(&base, home.path(), found);
}
