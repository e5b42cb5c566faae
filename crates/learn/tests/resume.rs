//! A run that was interrupted ends where it would have ended.

mod support;

use std::fs;

use domain::pipeline::Precision;
use perennial_learn::{Error, checkpoint};
use serde_json::{Value, json};
use support::{Trial, VIT, lora, manifest, ranks};

fn settings() -> Vec<Value> {
    let mut all = Vec::new();
    for update in ["online", "chunk"] {
        for optimizer in ["sgd", "adamw"] {
            all.push(json!({
                "rehearsal": {"update": update},
                "training": {"optimizer": optimizer, "epochs": 2, "weight_decay": 0.01},
            }));
        }
    }
    all
}

/// What `change` leaves, saving every third step, and what it leaves from each checkpoint.
#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    for change in settings() {
        let folder = tempfile::tempdir().unwrap();
        let mut whole = Trial::with_memory(manifest(change.clone()), 15);
        let run = whole.manifest.clone();
        let outcome = whole.run_on(&collective::Solo, None, &mut |moment| match moment.step % 3 {
            0 => checkpoint::save(&folder.path().join(moment.step.to_string()), &run, Precision::F32, moment),
            _ => Ok(()),
        });
        for step in [3, 9] {
            let saved = checkpoint::load(&folder.path().join(step.to_string()), &run).unwrap();
            let mut resumed = Trial::with_memory(manifest(change.clone()), 15);
            let again = resumed.run_on(&collective::Solo, Some(saved), &mut |moment| {
                assert!(moment.step > step);
                Ok(())
            });
            assert_eq!(resumed.hash(), whole.hash(), "{change}");
            assert_eq!(again.snapshot, outcome.snapshot);
        }
    }
}

#[test]
fn another_number_of_ranks_may_resume() {
    let folder = tempfile::tempdir().unwrap();
    let saved_to = folder.path().join("4");
    let change = lora(VIT);
    let hashes = ranks(1, |collective| {
        let mut trial = Trial::with_memory(manifest(change.clone()), 15);
        let run = trial.manifest.clone();
        trial.run_on(collective, None, &mut |moment| match moment.step {
            4 => checkpoint::save(&saved_to, &run, Precision::F32, moment),
            _ => Ok(()),
        });
        trial.hash()
    });
    let resumed = ranks(2, |collective| {
        let mut trial = Trial::with_memory(manifest(change.clone()), 15);
        let saved = checkpoint::load(&saved_to, &trial.manifest).unwrap();
        trial.run_on(collective, Some(saved), &mut |_| Ok(()));
        trial.hash()
    });
    assert!(resumed.iter().all(|hash| *hash == hashes[0]));
}

#[test]
fn torn_changed_and_foreign_checkpoints_are_not_loaded() {
    let folder = tempfile::tempdir().unwrap();
    // 45 rows in batches of 8: six steps.
    let mut trial = Trial::new(manifest(json!({"method": "ft"})));
    let run = trial.manifest.clone();
    trial.run_on(&collective::Solo, None, &mut |moment| {
        checkpoint::save(&folder.path().join(moment.step.to_string()), &run, Precision::F32, moment)
    });
    let at = |step: u64, name: &str| folder.path().join(step.to_string()).join(name);
    assert!(checkpoint::newest(folder.path(), &run).unwrap().ends_with("6"));

    fs::remove_file(at(6, "MANIFEST.json")).unwrap();
    assert!(matches!(checkpoint::load(&folder.path().join("6"), &run), Err(Error::NoFile { .. })));
    let state = fs::read(at(5, "state.safetensors")).unwrap();
    fs::write(at(5, "state.safetensors"), &state[..state.len() - 1]).unwrap();
    assert!(matches!(checkpoint::load(&folder.path().join("5"), &run), Err(Error::Damaged { .. })));
    assert!(checkpoint::newest(folder.path(), &run).unwrap().ends_with("4"));

    let other = manifest(json!({"method": "ft", "seed": 12}));
    let foreign = checkpoint::load(&folder.path().join("4"), &other);
    assert!(matches!(foreign, Err(Error::ForeignCheckpoint { .. })));
}
