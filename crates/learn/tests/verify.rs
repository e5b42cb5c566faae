//! What was written down is known again, and whatever else lies in its place is not.

mod support;

use std::path::Path;

use domain::chunk::ObjectRef;
use domain::manifest::{Candidate, Cost, Manifest, SnapshotMeta};
use domain::pipeline::Precision;
use perennial_learn::assemble::{Assembled, assemble_version};
use perennial_learn::publish::weights_sha256;
use perennial_learn::verify::{Flaw, golden, verify};
use serde_json::{Value, json};
use support::{MLP, RESNET, Trial, VIT, lora, manifest, sources};
use tch::Tensor;

/// What a trainer would say of weights it trained for some steps.
fn candidate(trained: &[(String, Tensor)], golden: Vec<Vec<Option<f32>>>) -> Candidate {
    let object = ObjectRef { path: String::new(), sha256: String::new(), bytes: 0 };
    Candidate {
        files: Vec::new(),
        weights_sha256: weights_sha256(trained),
        finite: true,
        preprocessing: None,
        golden,
        snapshot: SnapshotMeta { object, chunks: Vec::new(), items: 0, seen: 0 },
        cost: Cost { steps: 6, ..Cost::default() },
    }
}

/// Trains, writes the version into `folder`, and says what was trained.
fn trained(manifest: Manifest, folder: &Path) -> Candidate {
    let mut trial = Trial::new(manifest);
    let outcome = trial.run();
    trial.publish(folder, &outcome);
    candidate(trial.weights.named(), golden(&trial.net, &trial.reader))
}

fn load(manifest: &Manifest, folder: &Path) -> Assembled {
    assemble_version(sources(manifest, Some(folder))).unwrap()
}

#[test]
fn a_version_of_every_kind_is_known_again_and_another_is_not() {
    let resnet = json!({"model": RESNET});
    for change in [lora(MLP), lora(VIT), json!({"model": MLP}), json!({"model": VIT}), resnet] {
        let [one, two] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let own = manifest(change.clone());
        let first = trained(own.clone(), one.path());
        let mut faster = change.clone();
        faster["training"] = json!({"learning_rate": 0.02});
        trained(manifest(faster), two.path());
        assert_eq!(first.golden.len(), 3, "{change}");
        assert_eq!(verify(&load(&own, one.path()), Precision::F32, &first), Ok(()), "{change}");
        let swapped = verify(&load(&own, two.path()), Precision::F32, &first).unwrap_err();
        assert!(matches!(swapped, Flaw::Weights { .. }) && !swapped.is_trained(), "{change}: {swapped}");
    }
}

#[test]
fn a_text_version_is_known_again_and_one_on_another_base_is_not() {
    let home = tempfile::tempdir().unwrap();
    let base = support::text_model(home.path());
    let mut change = lora(VIT);
    change["model"] = json!({"uri": "file:///m", "sha256": "0".repeat(64)});
    let run = manifest(change);
    let folder = home.path().join("version");
    let rows = ["red", "green paint"]
        .map(|text| domain::chunk::Row::new(text, domain::chunk::Payload::Text(text.to_owned()), "a"));
    let _ = support::published(&run, &base, &rows, &folder);
    let on = |base: &Path| {
        let sources = perennial_learn::assemble::Sources { base: Some(base), ..sources(&run, Some(&folder)) };
        assemble_version(sources).unwrap()
    };
    let loaded = on(&base);
    let known = candidate(&loaded.trained, golden(&loaded.net, &loaded.reader));
    assert_eq!(verify(&on(&base), Precision::F32, &known), Ok(()));
    // The adapter is the same bit by bit: only the whole net's answers tell.
    let weights = base.join("model.safetensors");
    let noise =
        |(name, tensor): (String, Tensor)| (name, tensor.shallow_clone() + tensor.std(false) * tensor.randn_like());
    let tensors: Vec<_> = Tensor::read_safetensors(&weights).unwrap().into_iter().map(noise).collect();
    Tensor::write_safetensors(&tensors, &weights).unwrap();
    let flaw = verify(&on(&base), Precision::F32, &known).unwrap_err();
    assert!(matches!(flaw, Flaw::Golden { .. }) && !flaw.is_trained(), "{flaw}");
}

/// The file's JSON, changed.
fn edit(file: &Path, change: impl FnOnce(&mut Value)) {
    let mut json = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(file, json.to_string()).unwrap();
}

#[test]
fn what_reads_pixels_otherwise_answers_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let run = manifest(lora(VIT));
    let known = trained(run.clone(), folder.path());
    edit(&folder.path().join("preprocessor_config.json"), |config| {
        config["do_normalize"] = json!(true);
        (config["image_mean"], config["image_std"]) = (json!([0.5]), json!([0.1]));
    });
    let flaw = verify(&load(&run, folder.path()), Precision::F32, &known).unwrap_err();
    assert!(matches!(&flaw, Flaw::Golden { row: 0, .. }), "{flaw}");
    assert!(flaw.to_string().starts_with("of golden row 0 it answers ["), "{flaw}");
}

#[test]
fn an_adapter_that_changes_nothing_did_not_train_unless_it_made_no_step() {
    let folder = tempfile::tempdir().unwrap();
    let run = manifest(lora(VIT));
    let trial = Trial::new(run.clone());
    let untouched = perennial_learn::update::Outcome::untrained(trial.snapshot.clone(), Default::default());
    trial.publish(folder.path(), &untouched);
    let mut known = candidate(trial.weights.named(), golden(&trial.net, &trial.reader));
    let flaw = verify(&load(&run, folder.path()), Precision::F32, &known).unwrap_err();
    assert_eq!(flaw, Flaw::Untrained { steps: 6 });
    assert!(flaw.is_trained(), "it is what was trained: another attempt would leave the same");
    known.cost.steps = 0;
    assert_eq!(verify(&load(&run, folder.path()), Precision::F32, &known), Ok(()));
}

#[test]
fn candidates_from_before_answers_were_recorded_are_known_by_their_weights() {
    let folder = tempfile::tempdir().unwrap();
    let run = manifest(lora(MLP));
    let mut known = trained(run.clone(), folder.path());
    known.golden.clear();
    let json = serde_json::to_value(&known).unwrap();
    assert!(json.get("golden").is_none());
    let known: Candidate = serde_json::from_value(json).unwrap();
    assert_eq!(verify(&load(&run, folder.path()), Precision::F32, &known), Ok(()));
}

#[test]
fn answers_may_differ_by_rounding_and_by_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let run = manifest(lora(VIT));
    let mut known = trained(run.clone(), folder.path());
    let loaded = load(&run, folder.path());
    let largest = known.golden.iter().flatten().flatten().fold(0.0_f32, |max, logit| max.max(logit.abs()));
    let first = known.golden[1][2].unwrap();
    let mut moved = |by: f32, precision| {
        known.golden[1][2] = Some(first + by * largest);
        verify(&loaded, precision, &known).is_ok()
    };
    assert!(moved(0.009, Precision::F32) && !moved(0.02, Precision::F32));
    assert!(moved(0.09, Precision::Bf16) && !moved(0.2, Precision::Bf16));
    known.golden[1][2] = None;
    assert!(verify(&loaded, Precision::Bf16, &known).is_err(), "a number where there was none");
}
