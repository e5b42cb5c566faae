//! The Python lines of a version's README.md, run as they stand by the oldest and the newest transformers that are
//! supported: the same logits, the same labels.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use domain::chunk::{Payload, Row};
use domain::draw::Draw;
use image::{DynamicImage, ImageFormat, RgbImage};
use perennial_learn::data::Reader;
use perennial_learn::data::images::Preprocess;
use perennial_learn::input::Input;
use perennial_learn::model::{Geometry, folder, layers, scratch};
use serde_json::{Value, json};
use support::{IMAGES, MLP, SIDE, VIT, manifest, published, skipped, staged};
use tch::{Device, Tensor};

const LABELS: [&str; 3] = ["a", "b", "c"];

fn lora() -> Value {
    json!({"lora": {"r": 2, "alpha": 6.0, "target_modules": ["query", "value", "dense"]}})
}

/// Versions in folders of their own, and what they make of their rows.
struct Versions {
    home: tempfile::TempDir,
    all: Vec<(PathBuf, Tensor)>,
}

impl Versions {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap(), all: Vec::new() }
    }

    fn publish(&mut self, base: &Path, change: Value, rows: &[Row]) {
        let mut spec = json!({"model": {"uri": format!("file://{}", base.display()), "sha256": "0".repeat(64)}});
        spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let folder = self.home.path().join(self.all.len().to_string());
        let (input, logits) = published(&manifest(spec), base, rows, &folder);
        let mut given = given_to_python(rows, &folder);
        if let Input::Pixels(pixels) = input {
            given["pixels"] = json!(folder.join("pixels.safetensors"));
            Tensor::write_safetensors(&[("pixels", pixels)], folder.join("pixels.safetensors")).unwrap();
        }
        std::fs::write(folder.join("given.json"), given.to_string()).unwrap();
        self.all.push((folder, logits));
    }

    /// What each version's README.md makes of its rows is what we do.
    fn compare(&self) {
        for transformers in ["oldest", "newest"] {
            let found = run(transformers, self.all.iter().map(|(folder, _)| folder.as_path()));
            assert_eq!(found.len(), self.all.len());
            for ((folder, ours), theirs) in self.all.iter().zip(found) {
                let logits: Vec<Vec<f64>> = serde_json::from_value(theirs["logits"].clone()).unwrap();
                let difference = (Tensor::from_slice2(&logits) - ours).abs().max().double_value(&[]);
                let size = ours.abs().max().double_value(&[]).max(1.0);
                assert!(difference < 1e-5 * size, "{transformers}: {}: differs by {difference}", folder.display());
                let best: Vec<i64> = Vec::try_from(ours.argmax(-1, false)).unwrap();
                let labels: Vec<String> = best.iter().map(|&at| format!("'{}'", LABELS[at as usize])).collect();
                assert_eq!(theirs["printed"], format!("[{}]\n", labels.join(", ")), "{transformers}");
            }
        }
    }
}

/// `texts`, or `images` as files and `pixels` as our reader makes them of those.
fn given_to_python(rows: &[Row], folder: &Path) -> Value {
    let one = |(position, row): (usize, &Row)| match &row.payload {
        Payload::Text(text) => json!(text),
        Payload::Image(bytes) => {
            let file = folder.join(format!("{position}.png"));
            std::fs::write(&file, bytes).unwrap();
            json!(file)
        }
    };
    let kind = if matches!(rows[0].payload, Payload::Text(_)) { "texts" } else { "images" };
    let given: Vec<Value> = rows.iter().enumerate().map(one).collect();
    json!({ kind: given })
}

/// `logits` and what was `printed`, version by version.
fn run<'a>(transformers: &str, versions: impl Iterator<Item = &'a Path>) -> Vec<Value> {
    let staged = staged().expect("asked before");
    let mut command = Command::new(staged["python"].as_str().unwrap());
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/card.py")).args(versions);
    command.env("PYTHONPATH", staged[transformers].as_str().unwrap()).env("HF_HUB_OFFLINE", "1");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{transformers}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn row(payload: Payload) -> Row {
    Row::new("r", payload, "a")
}

#[test]
fn the_lines_of_a_text_version_give_our_logits() {
    if skipped() {
        return;
    }
    let base = PathBuf::from(staged().unwrap()["minilm"].as_str().unwrap());
    let texts = ["How do I activate my new card?", "It was stolen.", "Top-up by bank transfer, please"];
    let rows = texts.map(|text| row(Payload::Text(text.to_owned())));
    let mut versions = Versions::new();
    for pooling in ["mean", "cls"] {
        // So few tokens that some of the texts are cut.
        let input = json!({"pooling": pooling, "max_length": 7});
        versions.publish(&base, json!({"adapter": lora(), "input": input}), &rows);
        versions.publish(&base, json!({"input": input}), &rows);
    }
    versions.compare();
}

/// A base of its own kind of images, which standardises them by other numbers for each channel.
fn base(spec: &str, geometry: Geometry, folder: &Path) {
    let model = scratch::build(spec, geometry, &mut layers::drawn(3, Device::Cpu)).unwrap();
    let channels = geometry.channels as usize;
    let (mean, std) = (vec![0.4, 0.5, 0.6][..channels].to_vec(), vec![0.2, 0.3, 0.25][..channels].to_vec());
    folder::save(folder, model.as_ref(), &Reader::Images(Preprocess { geometry, mean, std })).unwrap();
}

fn colours(count: u64) -> Vec<Row> {
    let one = |number| {
        let draw = Draw::new(8).at(number);
        let image = RgbImage::from_fn(SIDE, SIDE, |x, y| {
            image::Rgb([0, 1, 2].map(|c| draw.at(c).at(u64::from(y * SIDE + x)).below(256) as u8))
        });
        let mut bytes = std::io::Cursor::new(Vec::new());
        DynamicImage::from(image).write_to(&mut bytes, ImageFormat::Png).unwrap();
        row(Payload::Image(bytes.into_inner()))
    };
    (0..count).map(one).collect()
}

#[test]
fn the_lines_of_an_image_version_give_our_logits() {
    if skipped() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let (grey, colour) = (home.path().join("grey"), home.path().join("colour"));
    base(VIT, IMAGES, &grey);
    base(VIT, Geometry { channels: 3, ..IMAGES }, &colour);
    let mut versions = Versions::new();
    for change in [json!({"adapter": lora()}), json!({})] {
        versions.publish(&grey, change.clone(), &support::rows(5, 1));
        versions.publish(&colour, change.clone(), &colours(5));
        // A model of colours is shown grey images, too.
        versions.publish(&colour, change, &support::rows(3, 2));
    }
    versions.compare();
}

#[test]
fn the_lines_of_a_resnet_and_of_what_transformers_has_no_class_for_give_our_logits() {
    if skipped() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let mut versions = Versions::new();
    let forms =
        ["imagenet,nf=4", "slim,nf=4", "imagenet,nf=4,norm=continual,groups=2"].map(|form| format!("resnet18:{form}"));
    for (at, spec) in forms.iter().map(String::as_str).chain([MLP]).enumerate() {
        let [grey, colour] = ["grey", "colour"].map(|name| home.path().join(format!("{name}-{at}")));
        base(spec, IMAGES, &grey);
        base(spec, Geometry { channels: 3, ..IMAGES }, &colour);
        versions.publish(&grey, json!({}), &support::rows(5, 1));
        versions.publish(&colour, json!({}), &colours(5));
    }
    versions.compare();
}
