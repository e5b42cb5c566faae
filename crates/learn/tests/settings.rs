//! What settings of an update do, whatever its method.

mod support;

use domain::chunk::{Payload, Row};
use domain::pipeline::Rule;
use image::{DynamicImage, GrayImage, ImageFormat};
use perennial_learn::model::layers::Init;
use perennial_learn::update::Outcome;
use perennial_learn::{Part, Pool};
use serde_json::{Value, json};
use support::{SIDE, Trial, chunk, dataset, manifest};
use tch::{Device, Tensor};

fn trained(change: Value) -> (Trial, Outcome) {
    let mut trial = Trial::with_memory(manifest(change), 30);
    let outcome = trial.run();
    (trial, outcome)
}

#[test]
fn with_all_rows_kept_every_rule_is_plain_training_to_the_last_bit() {
    let selecting = |selection: Value| {
        let training = json!({"batch_size": 32, "selection": selection});
        trained(json!({"method": "er", "training": training})).0.hash()
    };
    let plain = selecting(json!({}));
    for rule in &Rule::ALL[1..] {
        assert_eq!(selecting(json!({"rule": rule.name(), "keep": 1.0})), plain, "{}", rule.name());
    }
    let chosen: Vec<String> = Rule::ALL.map(|rule| selecting(json!({"rule": rule.name()}))).into();
    let different: std::collections::BTreeSet<&String> = chosen.iter().collect();
    assert_eq!((different.len(), &chosen[0]), (6, &plain));
}

#[test]
fn a_chosen_rows_loss_counts_for_those_that_were_not() {
    // Equal rows: half of them give the whole batch's mean gradient.
    let step = |selection: Value| {
        let training = json!({"batch_size": 16, "micro_batches": 2, "optimizer": "sgd", "replay": {"fraction": 0.0},
            "selection": selection});
        let mut trial = Trial::new(manifest(json!({"method": "ft", "training": training})));
        trial.pool = Pool::new(
            vec![Part::whole(chunk("x"), 16)],
            dataset(&vec![support::sample(); 16]),
            vec![],
            None,
            Device::Cpu,
        );
        trial.run();
        trial.weights.values
    };
    let whole = step(json!({}));
    for rule in ["random", "top-loss", "sb-fixed", "gradient-matching"] {
        assert!(step(json!({"rule": rule, "keep": 0.3})).allclose(&whole, 1e-5, 1e-6, false), "{rule}");
    }
}

/// Replay of rows that are black but for a stripe, and for two spots on one row in which weights that nobody trained are huge.
fn spotted(count: usize, spot: impl Fn(usize) -> bool) -> Trial {
    let training = json!({"epochs": 2, "optimizer": "sgd", "replay": {"batch": 8}});
    let rehearsal = json!({"update": "chunk", "memory_size": 100});
    spotted_for(json!({"method": "er", "training": training, "rehearsal": rehearsal}), count, spot)
}

fn spotted_for(change: Value, count: usize, spot: impl Fn(usize) -> bool) -> Trial {
    let rows: Vec<Row> = (0..count)
        .map(|number| {
            let bright = |x, y| (y == number as u32 % 3) || (spot(number) && y == SIDE - 1 && x > SIDE - 3);
            let image = GrayImage::from_fn(SIDE, SIDE, |x, y| image::Luma([if bright(x, y) { 255 } else { 0 }]));
            let mut bytes = Vec::new();
            DynamicImage::from(image).write_to(&mut std::io::Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
            Row::new(number.to_string(), Payload::Image(bytes), ["a", "b", "c"][number % 3])
        })
        .collect();
    let mut trial = Trial::new(manifest(change));
    trial.pool = Pool::new(vec![Part::whole(chunk("x"), count)], dataset(&rows), vec![], None, Device::Cpu);
    let first = trial.weights.named().iter().find(|(name, _)| name.contains("fc1.weight")).unwrap().1.detach();
    let _ = first.narrow(1, i64::from(SIDE * SIDE) - 2, 2).fill_(3e38);
    trial
}

#[test]
fn a_row_whose_loss_is_no_number_is_dropped_and_counted() {
    let mut trial = spotted(40, |row| row == 10);
    let outcome = trial.run();
    assert!(outcome.finite && outcome.loss.is_some_and(f64::is_finite));
    assert_eq!((outcome.dropped_rows, outcome.steps), (2, 10));
    let before = spotted(40, |_| false).weights.values;
    assert!(!trial.weights.values.allclose(&before, 1e-6, 1e-7, false), "the others train");
}

#[test]
fn a_dropped_row_does_not_enter_a_memory_that_takes_the_chunk_whole() {
    for (method, policy) in [("er", "reservoir"), ("er", "herding"), ("er", "gmc"), ("gdumb", "class-balanced")] {
        let rehearsal = match method {
            "er" => json!({"update": "chunk", "policy": policy, "memory_size": 100}),
            _ => json!({"policy": policy, "memory_size": 100}),
        };
        let change = json!({"method": method, "training": {"epochs": 2, "optimizer": "sgd"}, "rehearsal": rehearsal});
        let outcome = spotted_for(change, 40, |row| row == 10).run();
        let rows: Vec<u32> = outcome.snapshot.slots.iter().map(|slot| slot.row).collect();
        assert!(outcome.finite && rows.len() == 39 && !rows.contains(&10), "{method}, {policy}: {rows:?}");
    }
}

#[test]
fn a_batch_of_nothing_but_a_dropped_row_is_passed_over() {
    // 41 rows in batches of 8: the last batch of an epoch is one row, which comes at another place each time.
    for broken in 0..41 {
        let outcome = spotted(41, |row| row == broken).run();
        assert!(outcome.finite && outcome.dropped_rows == 2 && outcome.steps == 12, "{broken}");
    }
}

#[test]
fn rows_set_aside_stay_out_of_a_memory_that_chooses() {
    for policy in ["herding", "k-centre", "gmc"] {
        let training = json!({"validation": {"fraction": 0.4}});
        let rehearsal = json!({"policy": policy, "memory_size": 12});
        let mut trial = Trial::new(manifest(json!({"method": "der++", "training": training, "rehearsal": rehearsal})));
        let outcome = trial.run();
        let aside = trial.pool.validation();
        assert!(!outcome.snapshot.slots.is_empty());
        for slot in &outcome.snapshot.slots {
            let position = trial.pool.position(&outcome.snapshot, slot);
            assert_eq!(trial.pool.label(position), slot.label, "{policy}");
            assert!(!aside.contains(&(position as i64)), "{policy}");
        }
    }
}

#[test]
fn a_net_that_diverges_is_not_the_rows_fault() {
    for count in [1e30, 1e38] {
        let training = json!({"optimizer": "sgd", "learning_rate": count, "epochs": 3});
        let outcome = Trial::new(manifest(json!({"method": "ft", "training": training}))).run();
        assert!(!outcome.finite && outcome.steps < 18, "{count}");
    }
}

#[test]
fn where_no_row_has_a_loss_nothing_is_learnt_and_nothing_comes_of_it() {
    let mut trial = spotted(40, |_| true);
    let before = trial.hash();
    let outcome = trial.run();
    assert!(!outcome.finite && outcome.steps == 0 && outcome.dropped_rows == 0);
    assert_eq!(trial.hash(), before);
}

#[test]
fn the_best_epoch_is_kept_and_rows_set_aside_are_neither_trained_on_nor_remembered() {
    let validation = json!({"fraction": 0.25, "patience": 2});
    // A rate at which later epochs get worse.
    let training = json!({"epochs": 12, "optimizer": "sgd", "learning_rate": 6.0, "validation": validation});
    let mut trial = Trial::new(manifest(json!({"method": "er", "training": training})));
    let aside: Vec<i64> = trial.pool.validation();
    assert_eq!(aside.len(), 11);
    let mut after = Vec::new();
    let outcome = trial.run_on(&collective::Solo, None, &mut |moment| {
        after.push(moment.values.copy());
        Ok(())
    });
    // 34 rows train, 8 to a step: 5 steps an epoch.
    let best = outcome.best_epoch.unwrap();
    assert!(outcome.finite && best < 10, "{best}");
    assert_eq!(outcome.steps, 5 * (best + 2), "it ends two epochs later");
    assert_eq!(trial.weights.values, after[5 * best as usize - 1]);
    let slots = outcome.snapshot.slots.iter();
    let remembered: Vec<i64> = slots.map(|slot| trial.pool.position(&outcome.snapshot, slot) as i64).collect();
    assert!(remembered.iter().all(|row| !aside.contains(row)));
    assert_eq!(outcome.snapshot.seen, 34);
}

#[test]
fn images_are_varied_for_training_and_kept_as_they_are() {
    let der = |augment: Value| {
        let change = json!({"method": "der", "input": {"augment": augment}, "rehearsal": {"update": "chunk"}});
        trained(change)
    };
    let (varied, outcome) = der(json!(["random_crop", "hflip"]));
    assert_ne!(varied.hash(), der(json!([])).0.hash());
    let slots: Vec<usize> = (0..outcome.snapshot.slots.len()).collect();
    let new: Vec<usize> = slots
        .into_iter()
        .filter(|&slot| outcome.snapshot.chunks[outcome.snapshot.slots[slot].chunk as usize] != chunk("old"))
        .collect();
    let positions: Vec<i64> =
        new.iter().map(|&slot| varied.pool.position(&outcome.snapshot, &outcome.snapshot.slots[slot]) as i64).collect();
    let raw = varied.net.forward(&varied.reader.apply(varied.pool.data.take(&positions).0)).detach();
    let index = Tensor::from_slice(&new.iter().map(|&slot| slot as i64).collect::<Vec<_>>());
    assert!(outcome.carried.0["memory.logits"].index_select(0, &index).allclose(&raw, 1e-5, 1e-6, false));
}

#[test]
fn classes_that_nobody_reads_are_left_alone_if_asked() {
    let head = |mask: bool| {
        let mut manifest = manifest(json!({"method": "ft", "loss": {"mask_absent_classes": mask}}));
        manifest.labels.push("nobody".to_owned());
        let mut trial = Trial::new(manifest);
        trial.run();
        let rows = trial.weights.split(&(&trial.weights.values - &trial.base));
        // The head's weight and bias have a row for each of four labels.
        let moved = rows.into_iter().filter(|(_, rows)| rows.size()[0] == 4).map(|(_, rows)| rows.get(3));
        moved.map(|row| row.abs().max().double_value(&[])).fold(0.0, f64::max)
    };
    assert_eq!(head(true), 0.0);
    assert!(head(false) > 0.0);
}

#[test]
fn weights_shrink_and_are_perturbed_before_the_first_step() {
    let begun = |shrink: f64, sigma: f64| {
        let training = json!({"learning_rate": 1e-12, "optimizer": "sgd",
            "reinitialize": {"shrink": shrink, "sigma": sigma}});
        trained(json!({"method": "er", "training": training})).0
    };
    let shrunk = begun(0.5, 0.0);
    assert!(shrunk.weights.values.allclose(&(&shrunk.base * 0.5), 1e-5, 1e-7, false));
    let noise = begun(1.0, 0.3);
    let deviation = (&noise.weights.values - &noise.base).std(true).double_value(&[]);
    assert!((deviation - 0.3).abs() < 0.02, "{deviation}");
}

#[test]
fn what_is_kept_of_replayed_rows_follows_the_net_if_asked() {
    let change = |decay: f64| json!({"method": "der", "rehearsal": {"refresh_decay": decay, "update": "chunk"}});
    let stored = |decay: f64| {
        let mut trial = Trial::with_memory(manifest(change(decay)), 12);
        let rows = trial.snapshot.slots.len() as i64;
        let known = Init::Normal(50.0).draw(9, "logits", &[rows, 3]);
        trial.carried = perennial_learn::Carried([("memory.logits".to_owned(), known.shallow_clone())].into());
        let mut last = known.shallow_clone();
        trial.run_on(&collective::Solo, None, &mut |moment| {
            last = moment.carried().0["memory.logits"].copy();
            Ok(())
        });
        (&last - &known).abs().amax(1, false)
    };
    assert_eq!(stored(1.0).max().double_value(&[]), 0.0);
    // Four rows a step for eleven steps: most of twelve are met, and lose most of what they were.
    assert!(stored(0.01).gt(5.0).sum(tch::Kind::Int64).int64_value(&[]) > 6);
}
