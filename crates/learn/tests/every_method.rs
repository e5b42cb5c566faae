//! What holds of every method and policy: the number of ranks, a resume and the way through files change no bit.

mod support;

use domain::pipeline::Method;
use perennial_learn::model::layers::Init;
use perennial_learn::update::Outcome;
use perennial_learn::{Carried, checkpoint};
use serde_json::{Value, json};
use support::{RESNET, Trial, handles, manifest, ranks};

const LOGITS: &str = "memory.logits";

/// Weights, snapshot and what is carried, as text.
fn everything(trial: &Trial, outcome: &Outcome) -> String {
    let tensors = outcome.carried.0.iter();
    let bits: Vec<_> = tensors
        .map(|(name, tensor)| {
            let values = Vec::<f32>::try_from(tensor.reshape([-1])).unwrap();
            (name, values.into_iter().map(f32::to_bits).collect::<Vec<_>>())
        })
        .collect();
    format!("{} {:?} {bits:?}", trial.hash(), outcome.snapshot)
}

/// With half of the new rows' logits known.
fn trial(change: &Value) -> Trial {
    let mut trial = Trial::with_memory(manifest(change.clone()), 30);
    let logits = Init::Normal(1.0).draw(9, "logits", &[trial.snapshot.slots.len() as i64, 2]);
    trial.carried = Carried([(LOGITS.to_owned(), logits)].into());
    trial
}

/// Each method on a model without and with running statistics, and a replaying one with each policy and with what else
/// changes an update.
fn all_methods() -> impl Iterator<Item = Value> {
    let methods = Method::ALL.into_iter().flat_map(|method| {
        let method = method.name();
        [json!({"method": method}), json!({"method": method, "model": RESNET})]
    });
    let policies = ["class-balanced", "greedy", "window", "herding", "k-centre", "gmc"];
    let policies = policies.map(|policy| json!({"method": "der++", "rehearsal": {"policy": policy}}));
    let rules = ["random", "sb-fixed", "sb-history", "gradient-matching"].map(|rule| {
        // Four new rows to a micro-batch.
        json!({"method": "er", "training": {"batch_size": 32, "selection": {"rule": rule}}})
    });
    let validation = json!({"fraction": 0.2, "patience": 1, "metric": "accuracy"});
    let others = [
        json!({"method": "super-er", "rehearsal": {"refresh_decay": 0.9}}),
        json!({"method": "der++", "rehearsal": {"refresh_decay": 0.9, "update": "chunk"},
            "training": {"batch_size": 32, "selection": {"rule": "random"}}}),
        json!({"method": "er", "training": {"epochs": 3, "validation": validation}}),
        json!({"method": "rd", "training": {"epochs": 2, "validation": {"fraction": 0.2}}}),
        json!({"method": "der", "input": {"augment": ["random_crop", "hflip", "rotate", "colour_jitter"]}}),
        json!({"method": "er", "training": {"reinitialize": {"shrink": 0.9}}, "loss": {"mask_absent_classes": true}}),
    ];
    let coresets = [json!({"rows": "uniform"}), json!({"projection": 32, "initialisations": 2})]
        .map(|gmc| json!({"method": "er", "rehearsal": {"policy": "gmc", "gmc": gmc, "measure_residual": true}}));
    methods.chain(policies).chain(rules).chain(others).chain(coresets)
}

#[test]
fn every_method_ends_with_the_same_bits_at_any_number_of_ranks() {
    for change in all_methods() {
        let ended = |world| {
            ranks(world, |collective| {
                let mut trial = trial(&change);
                let outcome = trial.run_on(collective, None, &mut |_| Ok(()));
                everything(&trial, &outcome)
            })
        };
        let alone = ended(1).remove(0);
        for world in [2, 4] {
            assert!(ended(world).iter().all(|rank| *rank == alone), "{world} ranks, {change}");
        }
    }
}

#[test]
fn every_method_resumes_where_it_was() {
    for change in all_methods() {
        let folder = tempfile::tempdir().unwrap();
        let mut whole = trial(&change);
        let run = whole.manifest.clone();
        let outcome = whole.run_on(&collective::Solo, None, &mut |moment| {
            let at = folder.path().join(moment.step.to_string());
            checkpoint::save(&at, &run, domain::pipeline::Precision::F32, moment)
        });
        let expected = everything(&whole, &outcome);
        for step in [1, outcome.steps / 2, outcome.steps - 1] {
            let saved = checkpoint::load(&folder.path().join(step.to_string()), &run).unwrap();
            let mut resumed = trial(&change);
            let again = resumed.run_on(&collective::Solo, Some(saved), &mut |_| Ok(()));
            assert_eq!(everything(&resumed, &again), expected, "{change} at step {step}");
        }
    }
}

#[test]
fn what_an_update_leaves_is_what_the_next_one_reads() {
    for change in all_methods() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = trial(&change);
        let outcome = first.run();
        first.publish(folder.path(), &outcome);
        let next = |carried: Carried| {
            let mut next = trial(&change);
            next.carried = carried;
            let outcome = next.run();
            everything(&next, &outcome)
        };
        let read = next(Carried::load(folder.path()).unwrap());
        assert_eq!(read, next(handles(&outcome.carried)), "{change}");
    }
}
