//! Chunks and memories of sizes that nobody plans for: every method gets through them.

mod support;

use domain::pipeline::{Method, Policy};
use perennial_learn::update::Outcome;
use perennial_learn::{Part, Pool};
use serde_json::{Value, json};
use support::{Trial, chunk, dataset, manifest, rows};
use tch::Device;

/// Each method by its own policy, and a replaying one by each.
fn all() -> impl Iterator<Item = Value> {
    let methods = Method::ALL.map(|method| json!({"method": method.name()}));
    let policies = Policy::ALL.map(|policy| json!({"method": "der++", "rehearsal": {"policy": policy.name()}}));
    methods.into_iter().chain(policies)
}

/// Two updates, each on a chunk of so many rows.
fn twice(mut change: Value, count: usize, memory: u32) -> [Outcome; 2] {
    change["rehearsal"]["memory_size"] = json!(memory);
    let pool = |name: &str, seed| {
        Pool::new(vec![Part::whole(chunk(name), count)], dataset(&rows(count, seed)), vec![], None, Device::Cpu)
    };
    let mut first = Trial::new(manifest(change.clone()));
    first.pool = pool("x", 1);
    let one = first.run();
    let mut next = Trial::new(manifest(change));
    // The same rows again, so that memory's are at hand.
    next.pool = pool("x", 1);
    tch::no_grad(|| next.weights.values.copy_(&first.weights.values));
    next.snapshot = one.snapshot.clone();
    next.carried = support::handles(&one.carried);
    let two = next.run();
    [one, two]
}

#[test]
fn a_chunk_of_one_row_is_trained_on_and_remembered() {
    for change in all() {
        for outcome in twice(change.clone(), 1, 20) {
            assert!(outcome.finite && outcome.steps >= 1, "{change}");
            assert!(!outcome.snapshot.slots.is_empty(), "{change}");
        }
    }
}

#[test]
fn a_chunk_smaller_than_a_batch_is_one_step() {
    for change in all() {
        let [one, two] = twice(change.clone(), 3, 20);
        assert!(one.finite && two.finite && one.steps <= 2, "{change} {}", one.steps);
    }
}

#[test]
fn a_memory_larger_than_everything_holds_everything() {
    for change in all() {
        let [one, _] = twice(change.clone(), 10, 1000);
        // iCaRL's herding and the coreset keep what they have room for as well.
        assert_eq!(one.snapshot.slots.len(), 10, "{change}");
    }
}

#[test]
fn a_memory_of_one_row_is_enough() {
    for change in all().filter(|change| change["method"] != "joint" && change["rehearsal"]["policy"] != "infinite") {
        for outcome in twice(change.clone(), 12, 1) {
            assert!(outcome.finite && outcome.snapshot.slots.len() == 1, "{change}");
        }
    }
}

#[test]
fn a_class_that_nobody_has_seen_changes_nothing_for_the_others() {
    for change in all() {
        let mut manifest = manifest(change.clone());
        manifest.labels.push("nobody".to_owned());
        let mut trial = Trial::new(manifest);
        let outcome = trial.run();
        assert!(outcome.finite, "{change}");
        assert!(outcome.snapshot.slots.iter().all(|slot| slot.label < 3), "{change}");
    }
}
