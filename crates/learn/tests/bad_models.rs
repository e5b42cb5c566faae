//! What a user reads when a model folder, an adapter or a row is wrong.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use domain::chunk::{Payload, Row};
use domain::pipeline::Pooling;
use perennial_learn::assemble::{Sources, assemble};
use perennial_learn::data::Reader;
use perennial_learn::data::images::Preprocess;
use perennial_learn::model::{folder, layers, scratch};
use serde_json::{Value, json};
use support::{IMAGES, MLP, RESNET, VIT, manifest, rows};
use tch::{Device, Tensor};

/// A whole folder of a small ViT.
fn good(at: &Path) -> PathBuf {
    let model = scratch::build(VIT, IMAGES, &mut layers::drawn(1, Device::Cpu)).unwrap();
    let folder = at.join("model");
    folder::save(&folder, model.as_ref(), &Reader::Images(Preprocess::unit(IMAGES))).unwrap();
    folder
}

fn refused(folder: &Path) -> String {
    folder::load(folder, Pooling::Mean, Device::Cpu).err().unwrap().to_string()
}

/// The folder's weights with one of them changed.
fn rewrite(folder: &Path, name: &str, value: Option<Tensor>) {
    let file = folder.join("model.safetensors");
    let mut tensors = Tensor::read_safetensors(&file).unwrap();
    tensors.retain(|(known, _)| known != name);
    tensors.extend(value.map(|value| (name.to_owned(), value)));
    Tensor::write_safetensors(&tensors, &file).unwrap();
}

#[test]
fn a_folder_comes_back_as_it_was_saved_with_or_without_prefix() {
    let home = tempfile::tempdir().unwrap();
    let folder = good(home.path());
    let original = folder::load(&folder, Pooling::Mean, Device::Cpu).unwrap();
    let file = folder.join("model.safetensors");
    let renamed: Vec<_> = Tensor::read_safetensors(&file)
        .unwrap()
        .into_iter()
        .map(|(name, tensor)| (format!("vit.{name}"), tensor))
        .chain([("classifier.weight".to_owned(), Tensor::from_slice(&[1f32]))])
        .collect();
    Tensor::write_safetensors(&renamed, &file).unwrap();
    let again = folder::load(&folder, Pooling::Mean, Device::Cpu).unwrap();
    for ((name, a), (_, b)) in original.tensors().iter().zip(again.tensors()) {
        assert!(a.equal(&b), "{name}");
    }
    assert_eq!(original.config(), again.config());
}

#[test]
fn the_digest_of_a_folder_changes_with_any_file() {
    let home = tempfile::tempdir().unwrap();
    let folder = good(home.path());
    let before = perennial_learn::folder_digest(&folder).unwrap();
    assert_eq!(before, perennial_learn::folder_digest(&folder).unwrap());
    fs::write(folder.join("notes.txt"), "x").unwrap();
    assert_ne!(before, perennial_learn::folder_digest(&folder).unwrap());
}

#[test]
fn a_missing_file_is_named() {
    for name in ["config.json", "model.safetensors"] {
        let home = tempfile::tempdir().unwrap();
        let folder = good(home.path());
        fs::remove_file(folder.join(name)).unwrap();
        assert_eq!(refused(&folder), format!("`{}` has no `{name}`", folder.display()));
    }
}

#[test]
fn an_unknown_type_lists_the_known_ones() {
    let home = tempfile::tempdir().unwrap();
    let folder = good(home.path());
    fs::write(folder.join("config.json"), r#"{"model_type": "llama"}"#).unwrap();
    assert!(
        refused(&folder)
            .ends_with("has model_type `llama`; supported: bert, vit, resnet, perennial_resnet, perennial_mlp")
    );
}

#[test]
fn fields_that_cannot_be_are_named() {
    let home = tempfile::tempdir().unwrap();
    let folder = good(home.path());
    let mut config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    config["num_attention_heads"] = json!(5);
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    assert!(refused(&folder).ends_with("num_attention_heads is 5; it must divide the hidden size, 16"));
    config["num_attention_heads"] = json!(2);
    config["hidden_dropout_prob"] = json!(1.0);
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    assert!(refused(&folder).ends_with("hidden_dropout_prob is 1; it must be from 0 to below 1"));
}

/// What a folder's `preprocessor_config.json` with this change makes of bytes, or why it is refused.
fn preprocess(change: Value) -> Result<Preprocess, String> {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("preprocessor_config.json");
    Preprocess { geometry: IMAGES, mean: vec![0.5], std: vec![0.25] }.save(&file).unwrap();
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    for (key, value) in change.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(&file, config.to_string()).unwrap();
    let read = Preprocess::load(&file, Some(IMAGES)).map_err(|error| error.to_string());
    read.map(|found| found.expect("there is a file"))
}

#[test]
fn a_preprocessor_that_asks_for_what_is_not_done_is_refused() {
    let cases = [
        (json!({"resample": 3}), "resample is 3; images are resized bilinearly; if that will do, set it to 2"),
        (
            json!({"do_center_crop": true, "crop_size": 7}),
            "do_center_crop is true; images are resized and not cropped (crop_size is 7)",
        ),
        (json!({"crop_pct": 0.875}), "crop_pct is 0.875; smaller images than 384 × 384 would be resized and cropped"),
        (json!({"size": {"shortest_edge": 8}}), "size is {\"shortest_edge\":8}; images are resized to a square"),
        (json!({"size": {"height": 8, "width": 9}}), "images are resized to a square"),
        (json!({"size": 224}), "size is 224; the model takes images of 8 × 8 pixels"),
        (json!({"rescale_factor": -1.0}), "rescale_factor is -1.0; expected a positive number"),
        (json!({"image_mean": null}), "do_normalize is true; then image_mean and image_std have to be lists"),
        (json!({"image_std": [0.0]}), "expected 1 positive deviations and as many means"),
    ];
    for (change, words) in cases {
        let found = preprocess(change).unwrap_err();
        assert!(found.contains("preprocessor_config.json`: ") && found.contains(words), "{found}");
    }
}

#[test]
fn a_preprocessor_that_scales_otherwise_is_followed() {
    let pixels = Tensor::from_slice(&[0u8, 51, 255]).view([1, 1, 1, 3]);
    let numbers =
        |change: Value| Vec::<f32>::try_from(preprocess(change).unwrap().apply(&pixels).flatten(0, -1)).unwrap();
    let near = |change: Value, expected: [f32; 3]| {
        let found = numbers(change.clone());
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4), "{change}: {found:?}");
    };
    near(json!({}), [-2.0, -1.2, 2.0]);
    near(json!({"do_center_crop": true, "crop_size": {"height": 8, "width": 8}}), [-2.0, -1.2, 2.0]);
    near(json!({"rescale_factor": 2.0 / 255.0}), [-2.0, -0.4, 6.0]);
    near(json!({"do_rescale": false}), [-2.0, 202.0, 1018.0]);
    near(json!({"do_rescale": false, "do_normalize": false, "image_mean": null}), [0.0, 51.0, 255.0]);
    near(json!({"do_normalize": false}), [0.0, 0.2, 1.0]);
}

#[test]
fn a_tensor_that_is_absent_misshapen_or_not_finite_is_named() {
    let name = "encoder.layer.1.attention.attention.query.bias";
    let nan = Tensor::from_slice(&[f32::NAN; 16]);
    let cases = [
        (None, format!("has no tensor `{name}`")),
        (Some(Tensor::from_slice(&[0f32; 15])), format!("tensor `{name}` has shape [15], expected [16]")),
        (Some(nan), format!("tensor `{name}` holds NaN or infinite values")),
    ];
    for (value, message) in cases {
        let home = tempfile::tempdir().unwrap();
        let folder = good(home.path());
        rewrite(&folder, name, value);
        let found = refused(&folder);
        assert!(found.ends_with(&message) && found.contains("model.safetensors"), "{found}");
    }
}

#[test]
fn a_truncated_file_is_damaged() {
    let home = tempfile::tempdir().unwrap();
    let folder = good(home.path());
    let file = folder.join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    assert!(refused(&folder).starts_with(&format!("`{}` is damaged", file.display())));
}

fn adapter(r: u32, targets: &[&str]) -> String {
    let lora = json!({"adapter": {"lora": {"r": r, "target_modules": targets}}, "model": VIT});
    assemble(support::sources(&manifest(lora), None), &support::sample()).err().unwrap().to_string()
}

#[test]
fn an_adapter_that_does_not_fit_is_explained() {
    assert_eq!(
        adapter(17, &["query"]),
        "adapter rank 17 is larger than layer `encoder.layer.0.attention.attention.query` (16 × 16) allows: at most 16"
    );
    assert_eq!(
        adapter(2, &["quary"]),
        "no linear layer is called `quary`; did you mean `query`?; the model has: dense, key, query, value"
    );
}

#[test]
fn a_resnet_that_cannot_be_is_explained() {
    let home = tempfile::tempdir().unwrap();
    let model = scratch::build("resnet18:imagenet,nf=4", IMAGES, &mut layers::drawn(1, Device::Cpu)).unwrap();
    folder::save(home.path(), model.as_ref(), &Reader::Images(Preprocess::unit(IMAGES))).unwrap();
    let file = home.path().join("config.json");
    let config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    for (change, words) in [
        (json!({"layer_type": "bottleneck"}), "layer_type is bottleneck; only `basic` is supported"),
        (json!({"layer_type": null}), "layer_type is bottleneck; only `basic` is supported"),
        (json!({"hidden_act": "gelu"}), "hidden_act is gelu; only `relu` is supported"),
        (json!({"depths": [2, 2]}), "depths is [2, 2]; expected 4 numbers of at least 1, one a stage"),
        (json!({"continual_groups": 3}), "continual_groups is 3; it must divide the channels of every layer"),
    ] {
        let mut changed = config.clone();
        changed.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        changed.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        fs::write(&file, changed.to_string()).unwrap();
        let found = refused(home.path());
        assert!(found.contains(words), "{found}");
    }
}

#[test]
fn an_adapter_for_a_model_without_linear_layers_is_refused() {
    let lora = json!({"adapter": {"lora": {"r": 2, "target_modules": ["query"]}}, "model": RESNET});
    let error = assemble(support::sources(&manifest(lora), None), &support::sample()).err().unwrap().to_string();
    assert_eq!(error, "`adapter.lora` is set, and the model has no linear layers: use `adapter: full`");
}

#[test]
fn a_model_line_that_says_nothing_is_explained() {
    let build =
        |spec: &str| scratch::build(spec, IMAGES, &mut layers::drawn(1, Device::Cpu)).err().unwrap().to_string();
    assert!(build("resnet").contains("expected `mlp:<widths>`, `vit:<settings>` or `resnet18:<form>`"));
    assert_eq!(build("mlp:100,x"), "`model` is `mlp:100,x`: hidden width `x` is not a whole number from 1 to 65536");
    assert!(build("vit:depth=3").contains("unknown setting `depth`; known: d, layers, heads, patch, mlp"));
    assert!(build("vit:patch=3").contains("patch_size is 3: it must divide the image size, 8"));
    for (settings, words) in [
        ("", "unknown form ``; known: imagenet, cifar, slim"),
        ("nf=4", "unknown form `nf=4`; known: imagenet, cifar, slim"),
        ("slim,d=4", "unknown setting `d`; known: nf, norm, groups"),
        ("slim,nf=0", "nf `0` is not a whole number from 1 to 65536"),
        ("slim,norm=layer", "unknown norm `layer`; known: batch, continual"),
        ("slim,groups=4", "groups is 4: batch normalisation has none; leave it out, or say norm=continual"),
        (
            "slim,norm=continual",
            "groups is 32: it must divide the channels of every layer, and one has 20; 20 would do",
        ),
    ] {
        assert_eq!(build(&format!("resnet18:{settings}")), format!("`model` is `resnet18:{settings}`: {words}"));
    }
    assert!(scratch::build("resnet18:cifar,norm=continual", IMAGES, &mut layers::drawn(1, Device::Cpu)).is_ok());
}

#[test]
fn a_folder_that_was_not_fetched_is_said() {
    let model = json!({"model": {"uri": "file:///models/m", "sha256": "0".repeat(64)}});
    let manifest = manifest(model);
    let sources = Sources { base: None, ..support::sources(&manifest, None) };
    let error = assemble(sources, &support::sample()).err().unwrap().to_string();
    assert_eq!(error, "`model` is `file:///models/m`: its folder was not fetched");
}

fn decoded(row: Row) -> String {
    let labels = ["a", "b", "c"].map(str::to_owned);
    Reader::Images(Preprocess::unit(IMAGES)).decode(&[row], "chunk 1", &labels).err().unwrap().to_string()
}

#[test]
fn a_row_that_cannot_be_used_is_named() {
    let good = rows(1, 0).remove(0);
    let unknown = Row { label: "zebra".to_owned(), ..good.clone() };
    assert_eq!(decoded(unknown), "row `r0` of chunk 1: label `zebra` is not among the run's labels");
    let text = Row { payload: Payload::Text("hello".to_owned()), ..good.clone() };
    assert_eq!(decoded(text), "row `r0` of chunk 1: it is text, and the model takes images");
    let torn = Row { payload: Payload::Image(vec![1, 2, 3]), ..good };
    assert!(decoded(torn).starts_with("row `r0` of chunk 1: not a readable image: "));
}

#[test]
fn labels_may_only_be_appended() {
    let home = tempfile::tempdir().unwrap();
    let mut trial = support::Trial::new(manifest(json!({"model": MLP})));
    let outcome = trial.run();
    trial.publish(home.path(), &outcome);
    let mut other = manifest(json!({"model": MLP}));
    other.labels.swap(0, 1);
    let error = assemble(support::sources(&other, Some(home.path())), &support::sample()).err().unwrap().to_string();
    assert!(error.ends_with("lists label 0 as `a`, the run has `b`: labels may only be appended"), "{error}");
}
