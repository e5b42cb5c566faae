//! A published version is read back as it was, by us and by the names others look for.

mod support;

use std::collections::BTreeSet;
use std::fs;

use perennial_learn::assemble::{Assembled, Sources, assemble};
use perennial_learn::data::Reader;
use perennial_learn::data::images::Preprocess;
use serde_json::{Value, json};
use support::{IMAGES, MLP, Trial, VIT, lora, manifest, preprocess, sample, sources, span};
use tch::Tensor;

#[test]
fn a_version_gives_the_logits_that_were_trained() {
    for change in [lora(MLP), lora(VIT), json!({"model": MLP}), json!({"model": VIT})] {
        let folder = tempfile::tempdir().unwrap();
        let mut trial = Trial::with_memory(manifest(change.clone()), 10);
        let outcome = trial.run();
        let files = trial.publish(folder.path(), &outcome);
        let on_disk: BTreeSet<String> =
            fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(files.into_iter().collect::<BTreeSet<_>>(), on_disk);

        let next = manifest(change.clone());
        let Assembled { net, reader, .. } = assemble(sources(&next, Some(folder.path())), &sample()).unwrap();
        let _guard = tch::no_grad_guard();
        assert!(net.forward(&trial.inputs()).equal(&trial.logits()), "{change}");
        assert_eq!(preprocess(&reader), trial.preprocess());
    }
}

#[test]
fn an_adapter_carries_the_names_of_both_transformers() {
    let folder = tempfile::tempdir().unwrap();
    let mut trial = Trial::new(manifest(lora(VIT)));
    let outcome = trial.run();
    trial.publish(folder.path(), &outcome);
    let stored = Tensor::read_safetensors(folder.path().join("adapter_model.safetensors")).unwrap();
    let names: BTreeSet<&str> = stored.iter().map(|(name, _)| name.as_str()).collect();
    for module in ["encoder.layer.1.attention.attention.query", "layers.1.attention.q_proj"] {
        assert!(names.contains(format!("base_model.model.{module}.lora_A.weight").as_str()), "{names:?}");
        assert!(names.contains(format!("base_model.model.{module}.lora_B.weight").as_str()), "{names:?}");
    }
    assert_eq!(names.len(), 2 * 2 * 2 * 2); // layers, targets, A and B, namings
    let config: Value = serde_json::from_slice(&fs::read(folder.path().join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!(config["target_modules"], json!(["q_proj", "query", "v_proj", "value"]));
    assert_eq!((&config["r"], &config["lora_alpha"], &config["task_type"]), (&json!(3), &json!(6), &Value::Null));
    let head = Tensor::read_safetensors(folder.path().join("head.safetensors")).unwrap();
    assert!(head.iter().any(|(name, tensor)| name == "weight" && tensor.size() == [3, 16]));
}

#[test]
fn a_smaller_part_trains_when_the_weights_are_those_of_another_rank() {
    let folder = tempfile::tempdir().unwrap();
    let mut trial = Trial::new(manifest(lora(VIT)));
    let outcome = trial.run();
    trial.publish(folder.path(), &outcome);
    let mut change = lora(VIT);
    change["adapter"]["lora"]["r"] = json!(2);
    let other = manifest(change);
    let error = assemble(sources(&other, Some(folder.path())), &sample()).err().unwrap().to_string();
    assert!(error.contains("has shape [3, 16], expected [2, 16]"), "{error}");
}

#[test]
fn standardised_pixels_have_mean_zero_and_deviation_one_and_the_next_update_reuses_the_numbers() {
    let data = support::dataset(&support::rows(64, 3));
    let standard = Preprocess::standard(IMAGES, &data, 64);
    let pixels = standard.apply(data.take(&span(0, 64)).0.pixels());
    let (mean, deviation) = (pixels.mean(None).double_value(&[]), pixels.std(false).double_value(&[]));
    assert!(mean.abs() < 1e-5 && (deviation - 1.0).abs() < 1e-5, "{mean} {deviation}");

    for change in [lora(VIT), json!({"model": MLP})] {
        let folder = tempfile::tempdir().unwrap();
        let mut change = change.clone();
        change["input"] = json!({"normalize": "dataset"});
        let mut trial = Trial::new(manifest(change.clone()));
        trial.reader = Reader::Images(standard.clone());
        let outcome = trial.run();
        trial.publish(folder.path(), &outcome);
        let next = manifest(change);
        let chosen = |sources| preprocess(&assemble(sources, &sample()).unwrap().reader).clone();
        assert_eq!(chosen(sources(&next, Some(folder.path()))), standard);
        // The base has no numbers of its own; it is given the version's.
        let file = folder.path().join("preprocessor_config.json");
        let base = Sources { preprocessor: Some(&file), ..sources(&next, None) };
        assert_eq!(chosen(base), standard);
        assert_ne!(chosen(sources(&next, None)), standard);
    }
}

#[test]
fn colour_is_planar_and_other_sizes_are_resized() {
    let mut bytes = Vec::new();
    let red = image::RgbImage::from_pixel(5, 3, image::Rgb([200, 10, 0]));
    red.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
    let row = |bytes| domain::chunk::Row::new("r", domain::chunk::Payload::Image(bytes), "a");
    let geometry = perennial_learn::model::Geometry { channels: 3, side: 4 };
    let reader = Reader::Images(Preprocess::unit(geometry));
    let data = reader.decode(&[row(bytes)], "a test", &["a".to_owned()]).unwrap();
    let (bytes, _) = data.take(&[0]);
    let pixels = bytes.pixels();
    assert_eq!(pixels.size(), [1, 3, 4, 4]);
    let of = |channel: i64| pixels.select(1, channel).to_kind(tch::Kind::Float).mean(None).double_value(&[]);
    assert_eq!([of(0), of(1), of(2)], [200.0, 10.0, 0.0]);
}
