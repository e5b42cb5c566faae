//! Policies that choose among memory and a whole chunk, and the classifier that iCaRL makes of what they keep.

mod support;

use std::collections::BTreeMap;

use domain::buffer::Snapshot;
use perennial_learn::update::Outcome;
use perennial_learn::{Carried, Part, Pool, evaluate};
use serde_json::{Value, json};
use support::{Trial, handles, manifest};
use tch::{Device, Kind, Tensor};

const LOGITS: &str = "memory.logits";

fn policy(name: &str, method: &str) -> Value {
    json!({"method": method, "rehearsal": {"policy": name, "memory_size": 12}})
}

/// A first update, on 45 rows.
fn first(change: Value) -> (Trial, Outcome) {
    let mut trial = Trial::new(manifest(change));
    let outcome = trial.run();
    assert!(outcome.finite);
    (trial, outcome)
}

fn by_label(snapshot: &Snapshot) -> BTreeMap<u32, usize> {
    let mut counts = BTreeMap::new();
    snapshot.slots.iter().for_each(|slot| *counts.entry(slot.label).or_default() += 1);
    counts
}

#[test]
fn herding_and_k_centre_give_each_label_an_equal_share() {
    for name in ["herding", "k-centre"] {
        let (trial, outcome) = first(policy(name, "er"));
        assert_eq!(by_label(&outcome.snapshot).into_values().collect::<Vec<_>>(), [4, 4, 4], "{name}");
        assert_eq!(outcome.snapshot.seen, 45);
        for slot in &outcome.snapshot.slots {
            let position = trial.pool.position(&outcome.snapshot, slot);
            assert_eq!(trial.pool.label(position), slot.label);
        }
    }
}

#[test]
fn a_chunk_that_is_held_out_altogether_brings_nothing_to_choose_from() {
    for name in ["herding", "gmc"] {
        let mut trial = Trial::new(manifest(policy(name, "ft")));
        let rows = support::rows(20, 5);
        let chunks = vec![Part::whole(support::chunk("held-out"), 0), Part::whole(support::chunk("x"), rows.len())];
        trial.pool = Pool::new(chunks, support::dataset(&rows), Vec::new(), None, Device::Cpu);
        let outcome = trial.run();
        assert_eq!((outcome.snapshot.seen, outcome.snapshot.chunks.len()), (20, 1), "{name}");
    }
}

#[test]
fn a_matched_coreset_weighs_what_it_stands_for() {
    let (_, outcome) = first(policy("gmc", "er"));
    let slots = &outcome.snapshot.slots;
    assert!(slots.len() <= 12 && slots.iter().all(|slot| slot.weight >= 0.0));
    let mass: f32 = slots.iter().map(|slot| slot.weight).sum();
    assert!((20.0..70.0).contains(&mass), "45 rows weigh {mass}");
    assert_eq!(outcome.carried.target().unwrap().size(), [10, 3, 13]);
}

#[test]
fn with_room_for_all_a_coreset_is_all_and_weighs_one_each() {
    let mut change = policy("gmc", "ft");
    change["rehearsal"]["memory_size"] = json!(100);
    let (_, outcome) = first(change);
    assert_eq!(outcome.snapshot.slots.len(), 45);
    assert!(outcome.snapshot.slots.iter().all(|slot| slot.weight == 1.0));
}

#[test]
fn a_carried_target_is_the_gradient_of_everything_offered() {
    let run = |carries: bool| {
        let mut change = policy("gmc", "ft");
        change["rehearsal"]["gmc"] = json!({"carries_target": carries, "initialisations": 3});
        let mut trial = Trial::new(manifest(change));
        let first = trial.run();
        (first.carried.target(), first)
    };
    assert!(run(false).0.is_none());
    let (target, first) = run(true);
    let mut change = policy("gmc", "ft");
    change["rehearsal"]["gmc"] = json!({"initialisations": 3});
    // The same chunk once more: twice the gradient.
    let mut again = Trial::new(manifest(change));
    again.snapshot = first.snapshot.clone();
    again.carried = handles(&first.carried);
    let second = again.run().carried.target().unwrap();
    assert!(second.allclose(&(target.unwrap() * 2.0), 1e-4, 1e-4, false));
}

#[test]
fn chosen_rows_leave_less_than_weighed_ones_and_those_less_than_unweighed_ones() {
    let residual = |rehearsal: Value| {
        let mut change =
            json!({"method": "ft", "rehearsal": {"memory_size": 12, "update": "chunk", "measure_residual": true}});
        for (key, value) in rehearsal.as_object().unwrap() {
            change["rehearsal"][key] = value.clone();
        }
        // Two chunks, the second of rows that the first did not have.
        let mut trial = Trial::new(manifest(change.clone()));
        let first = trial.run();
        let mut next = Trial::new(manifest(change));
        next.snapshot = first.snapshot.clone();
        next.carried = handles(&first.carried);
        let second = next.run().memory_residual.unwrap();
        (first.memory_residual.unwrap(), second)
    };
    let matched = residual(json!({"policy": "gmc"}));
    let weighed = residual(json!({"policy": "gmc", "gmc": {"rows": "uniform"}}));
    let plain = residual(json!({"policy": "reservoir"}));
    assert!(matched.0 < weighed.0 && weighed.0 < plain.0, "{matched:?} {weighed:?} {plain:?}");
    assert!(matched.1 < weighed.1 && weighed.1 < plain.1, "{matched:?} {weighed:?} {plain:?}");
}

#[test]
fn projected_gradients_of_all_weights_choose_rows_too() {
    let chosen = |gmc: Value| {
        let mut change = policy("gmc", "ft");
        change["rehearsal"]["gmc"] = gmc;
        change["rehearsal"]["measure_residual"] = json!(true);
        let (_, outcome) = first(change);
        assert!(outcome.snapshot.slots.len() <= 12 && outcome.memory_residual.unwrap() < 0.5);
        (
            outcome.snapshot.slots.iter().map(|slot| slot.row).collect::<Vec<_>>(),
            outcome.carried.target().unwrap().size(),
        )
    };
    let (rows, size) = chosen(json!({"projection": 64, "initialisations": 2}));
    assert_eq!(size, [2, 1, 64]);
    assert_ne!(rows, chosen(json!({"initialisations": 2})).0);
}

#[test]
fn weights_change_the_replay_loss_unless_told_otherwise() {
    let hash = |uses: &str| {
        let mut change = policy("reservoir", "er");
        change["rehearsal"]["weights"] = json!(uses);
        change["rehearsal"]["update"] = json!("chunk");
        let mut trial = Trial::with_memory(manifest(change), 12);
        trial.snapshot.slots.iter_mut().zip(1u8..).for_each(|(slot, n)| slot.weight = f32::from(n));
        trial.run();
        trial.hash()
    };
    let (loss, unit, sampling) = (hash("loss"), hash("unit"), hash("sampling"));
    assert!(loss != unit && sampling != unit && loss != sampling);
    let mut plain = policy("reservoir", "er");
    plain["rehearsal"]["update"] = json!("chunk");
    let mut trial = Trial::with_memory(manifest(plain), 12);
    trial.run();
    assert_eq!(trial.hash(), unit);
}

#[test]
fn new_rows_of_a_selection_keep_the_trained_nets_logits() {
    let (trial, outcome) = first(policy("herding", "der"));
    let positions: Vec<i64> =
        outcome.snapshot.slots.iter().map(|slot| trial.pool.position(&outcome.snapshot, slot) as i64).collect();
    let now = trial.net.forward(&trial.reader.apply(trial.pool.data.take(&positions).0)).detach();
    assert!(outcome.carried.0[LOGITS].allclose(&now, 1e-5, 1e-6, false));
}

/// Logits that tell each row of memory from the others.
fn marked(trial: &mut Trial) {
    let rows = trial.snapshot.slots.len() as i64;
    let marks = Tensor::arange(rows, tch::kind::FLOAT_CPU).unsqueeze(1).repeat([1, 3]);
    trial.carried = Carried([(LOGITS.to_owned(), marks)].into());
}

#[test]
fn logits_follow_their_rows_when_a_selection_moves_them() {
    let change = json!({"method": "der", "rehearsal": {"policy": "herding", "memory_size": 30}});
    let mut trial = Trial::new(manifest(change));
    let old = Trial::with_memory(manifest(json!({"rehearsal": {"memory_size": 30}})), 24);
    (trial.snapshot, trial.pool) = (old.snapshot, old.pool);
    trial.snapshot.policy = domain::pipeline::Policy::Herding;
    let before = trial.snapshot.clone();
    marked(&mut trial);
    let outcome = trial.run();
    let stored = &outcome.carried.0[LOGITS];
    let mut kept = 0;
    for (slot, row) in outcome.snapshot.slots.iter().enumerate() {
        if outcome.snapshot.chunks[row.chunk as usize].0 == "old" {
            let from = before.slots.iter().position(|old| old.row == row.row).unwrap();
            assert_eq!(stored.double_value(&[slot as i64, 0]), from as f64);
            kept += 1;
        }
    }
    assert!(kept > 3, "{kept}");
}

#[test]
fn logits_follow_their_rows_into_a_smaller_memory() {
    let mut trial = Trial::with_memory(manifest(policy("reservoir", "der")), 12);
    marked(&mut trial);
    let before = trial.snapshot.clone();
    let after = buffer::adopt(before.clone(), before.policy, 5);
    trial.carried.follow(&before, &after);
    for (slot, row) in after.slots.iter().enumerate() {
        let from = before.slots.iter().position(|old| old.row == row.row).unwrap();
        assert_eq!(trial.carried.0[LOGITS].double_value(&[slot as i64, 0]), from as f64);
    }
}

#[test]
fn a_classifier_by_means_knows_no_label_that_came_since() {
    let (trial, outcome) = first(json!({"method": "icarl"}));
    let folder = tempfile::tempdir().unwrap();
    trial.publish(folder.path(), &outcome);
    let mut grown = manifest(json!({"method": "er", "labels": ["a", "b", "c", "d"]}));
    grown.labels.push("d".to_owned());
    let sources = support::sources(&grown, Some(folder.path()));
    let read = perennial_learn::assemble::assemble(sources, &support::sample()).unwrap();
    let answer = read.net.answer(&trial.inputs());
    assert_eq!(answer.size(), [12, 4]);
    assert!(answer.select(1, 3).isinf().all().int64_value(&[]) == 1);
}

#[test]
fn the_nearest_class_mean_decides() {
    let change = json!({"method": "icarl", "rehearsal": {"memory_size": 30},
        "training": {"epochs": 30, "optimizer": "sgd", "learning_rate": 0.5}});
    let (mut trial, outcome) = first(change);
    let means = outcome.means.as_ref().unwrap();
    let norms = means.square().sum_dim_intlist(&[1i64][..], false, Kind::Float);
    assert!(norms.allclose(&norms.ones_like(), 1e-5, 1e-5, false));

    let folder = tempfile::tempdir().unwrap();
    let names = trial.publish(folder.path(), &outcome);
    assert!(names.contains(&"class_means.safetensors".to_owned()));
    let card = std::fs::read_to_string(folder.path().join("README.md")).unwrap();
    assert!(card.contains("nearest to the features"));
    let sources = support::sources(&trial.manifest, Some(folder.path()));
    let read = perennial_learn::assemble::assemble(sources, &support::sample()).unwrap();
    let unseen = support::dataset(&support::rows(100, 12345));
    let scored = evaluate::evaluate(&read.net, &unseen, &trial.reader, None, 32, &mut |_| ());
    assert!(scored.correct > 85, "{scored:?}");
    // By hand: the class whose mean has the largest cosine.
    let input = trial.inputs();
    let features = perennial_learn::model::normalised(&read.net.features(&input));
    let by_hand = features.matmul(&means.transpose(0, 1)).argmax(-1, false);
    assert_eq!(read.net.answer(&input).argmax(-1, false), by_hand);

    // A class without a row in memory is never answered.
    let _ = means.get(1).fill_(f64::NAN);
    trial.net.means = Some(means.shallow_clone());
    let answers = trial.net.answer(&input).argmax(-1, false);
    assert_eq!(answers.eq(1.0).sum(Kind::Int64).int64_value(&[]), 0);
}

#[test]
fn what_icarl_keeps_of_old_classes_is_the_parents_answer() {
    // At the parent's weights the gradient of the old classes' terms is zero: only the new class pulls.
    let change = json!({"method": "icarl", "training": {"optimizer": "sgd", "learning_rate": 0.1}});
    let mut trial = Trial::with_memory(manifest(change), 12);
    trial.snapshot.seen_by_label = vec![4, 4, 4];
    let before = trial.hash();
    let outcome = trial.run();
    assert!(outcome.finite);
    assert_eq!(trial.hash(), before, "all classes are known, and the student is the teacher");
}
