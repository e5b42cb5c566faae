//! Dropout while training, from draws that neither ranks nor resumes change.

mod support;

use std::path::Path;

use domain::manifest::Manifest;
use perennial_learn::checkpoint;
use serde_json::{Value, json};
use support::{Trial, manifest, ranks};

fn run(dropout: bool, more: Value) -> Manifest {
    let mut change = json!({
        "model": {"uri": "file:///m", "sha256": "0".repeat(64)},
        "adapter": {"lora": {"r": 3, "target_modules": ["query", "value"]}},
        "training": {"dropout": dropout},
    });
    change.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    manifest(change)
}

fn trained(manifest: Manifest, base: &Path) -> Trial {
    let mut trial = Trial::based(manifest, base);
    trial.run();
    trial
}

#[test]
fn it_changes_what_is_learned_and_can_be_switched_off() {
    let base = tempfile::tempdir().unwrap();
    support::vit_with_dropout(base.path());
    let [with, without] = [true, false].map(|dropout| trained(run(dropout, json!({})), base.path()));
    assert_ne!(with.hash(), without.hash());
    assert_eq!(with.hash(), trained(run(true, json!({})), base.path()).hash());
    // Scored, nothing is dropped.
    assert_eq!(with.logits(), with.logits());
}

#[test]
fn the_number_of_ranks_changes_no_bit() {
    let base = tempfile::tempdir().unwrap();
    support::vit_with_dropout(base.path());
    let hash = |world| {
        ranks(world, |collective| {
            let mut trial = Trial::based(run(true, json!({})), base.path());
            trial.run_on(collective, None, &mut |_| Ok(()));
            trial.hash()
        })
    };
    let one = hash(1).remove(0);
    assert!(hash(2).into_iter().chain(hash(4)).all(|other| other == one));
}

#[test]
fn a_resumed_update_drops_what_it_would_have_dropped() {
    let (base, saved) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    support::vit_with_dropout(base.path());
    let manifest = run(true, json!({}));
    let precision = manifest.pipeline.training.precision;
    let mut whole = Trial::based(manifest.clone(), base.path());
    whole.run_on(&collective::Solo, None, &mut |moment| match moment.step {
        3 => checkpoint::save(saved.path(), &manifest, precision, moment),
        _ => Ok(()),
    });
    let mut resumed = Trial::based(manifest.clone(), base.path());
    let state = checkpoint::load(saved.path(), &manifest).unwrap();
    resumed.run_on(&collective::Solo, Some(state), &mut |_| Ok(()));
    assert_eq!(resumed.hash(), whole.hash());
}
