//! Published adapters, loaded by the oldest and the newest PEFT that are supported, and adapters that those saved,
//! imported: the same logits.
//!
//! PEFT only warns of names it does not know, so that nothing less than logits would show a wrong one.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use domain::chunk::Row;
use domain::manifest::Manifest;
use perennial_learn::assemble::{Assembled, Sources, assemble};
use perennial_learn::data::Reader;
use perennial_learn::data::images::Preprocess;
use perennial_learn::import::import;
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
        Input::Hidden(_) => unreachable!("no reader runs a model"),
    };
    Tensor::write_safetensors(&tensors, file).unwrap();
}

/// The logits that a script prints under a PEFT.
fn python(peft: &str, script: &str, args: [&Path; 3]) -> Tensor {
    let staged = staged().expect("asked before");
    let mut command = Command::new(staged["python"].as_str().unwrap());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script)).args(args);
    command.env("PYTHONPATH", staged[peft].as_str().unwrap()).env("HF_HUB_OFFLINE", "1");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{peft}: {}", String::from_utf8_lossy(&output.stderr));
    Tensor::from_slice2(&serde_json::from_slice::<Vec<Vec<f64>>>(&output.stdout).unwrap())
}

fn assert_near(peft: &str, theirs: &Tensor, ours: &Tensor) {
    let difference = (theirs - ours).abs().max().double_value(&[]);
    assert!(difference < 1e-5, "{peft} differs by {difference}");
}

/// What Python makes of the version, under each PEFT.
fn compare(base: &Path, version: &Path, (input, logits): (Input, Tensor)) {
    let rows = version.join("rows.safetensors");
    write(&input, &rows);
    for peft in PEFTS {
        assert_near(peft, &python(peft, "peft_logits.py", [base, version, &rows]), &logits);
    }
}

/// What we make of an adapter that each PEFT saved.
fn compare_imported(base: &Path, rows: &[Row]) {
    let run = lora(&["query", "value", "dense"]);
    for peft in PEFTS {
        let home = tempfile::tempdir().unwrap();
        let sources = Sources { base: Some(base), ..support::sources(&run, None) };
        let reader = assemble(sources, &rows[0]).unwrap().reader;
        let all: Vec<i64> = (0..rows.len() as i64).collect();
        let input = reader.apply(reader.decode(rows, "a test", &run.labels).unwrap().take(&all).0);
        let file = home.path().join("rows.safetensors");
        write(&input, &file);
        let theirs = python(peft, "peft_save.py", [base, home.path(), &file]);
        let Assembled { net, .. } = import(sources, home.path()).unwrap();
        let _guard = tch::no_grad_guard();
        assert_near(peft, &theirs, &net.forward(&input));
    }
}

/// The supported ones' ends.
const PEFTS: [&str; 2] = ["oldest", "newest"];

/// A small one's folder.
fn vit(home: &Path) -> PathBuf {
    let base = home.join("base");
    let vit = scratch::build(VIT, IMAGES, &mut layers::drawn(3, Device::Cpu)).unwrap();
    folder::save(&base, vit.as_ref(), &Reader::Images(Preprocess::unit(IMAGES))).unwrap();
    base
}

/// Its folder, and texts for it.
fn minilm() -> (PathBuf, [Row; 3]) {
    let staged: Value = staged().unwrap();
    let text = |text: &str| Row::new("r", domain::chunk::Payload::Text(text.to_owned()), "a");
    let rows = ["How do I activate my new card?", "It was stolen.", "Top-up by bank transfer, please"].map(text);
    (PathBuf::from(staged["minilm"].as_str().unwrap()), rows)
}

#[test]
fn an_adapter_of_a_vit_gives_our_logits_in_python() {
    if skipped() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let (base, version) = (vit(home.path()), home.path().join("version"));
    let run = lora(&["query", "key", "value", "dense"]);
    let found = published(&run, &base, &support::rows(6, 1), &version);
    compare(&base, &version, found);
}

#[test]
fn an_adapter_of_the_top_block_gives_our_logits_in_python() {
    if skipped() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let (base, version) = (home.path().join("base"), home.path().join("version"));
    support::vit_with_dropout(&base);
    let mut run = serde_json::to_value(lora(&["query", "value"])).unwrap();
    run["pipeline"]["adapter"]["lora"]["layers"] = json!("last:1");
    let found = published(&serde_json::from_value(run).unwrap(), &base, &support::rows(6, 1), &version);
    compare(&base, &version, found);
}

#[test]
fn an_adapter_of_minilm_gives_our_logits_in_python() {
    if skipped() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let (base, rows) = minilm();
    let run = lora(&["query", "value", "dense"]);
    let found = published(&run, &base, &rows, home.path());
    compare(&base, home.path(), found);
}

#[test]
fn an_adapter_that_python_saved_for_a_vit_gives_its_logits_here() {
    if skipped() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    compare_imported(&vit(home.path()), &support::rows(6, 1));
}

#[test]
fn an_adapter_that_python_saved_for_minilm_gives_its_logits_here() {
    if skipped() {
        return;
    }
    let (base, rows) = minilm();
    compare_imported(&base, &rows);
}
