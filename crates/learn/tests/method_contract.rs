//! What holds between methods.

mod support;

use domain::draw::Draw;
use domain::pipeline::Method;
use perennial_learn::method::{self, Batch, Learner, Reads, Start, State};
use perennial_learn::model::layers;
use serde_json::json;
use support::{Trial, manifest};

#[test]
fn replay_from_an_empty_buffer_is_fine_tuning_on_the_same_batches() {
    let replay = json!({"rehearsal": {"update": "chunk"}, "training": {"batch_size": 16, "replay": {"fraction": 0.5}}});
    let mut er = Trial::new(manifest(replay));
    let mut ft = Trial::new(manifest(json!({"method": "ft", "training": {"batch_size": 16}})));
    er.run();
    ft.run();
    assert_eq!(er.hash(), ft.hash());
}

#[test]
fn joint_without_memory_is_fine_tuning() {
    let mut joint = Trial::new(manifest(json!({"method": "joint"})));
    let mut ft = Trial::new(manifest(json!({"method": "ft"})));
    joint.run();
    ft.run();
    assert_eq!(joint.hash(), ft.hash());
}

#[test]
fn joint_goes_through_memory_as_well() {
    let steps = |method: &str| Trial::with_memory(manifest(json!({"method": method})), 30).run().steps;
    // 45 new and 30 remembered rows in batches of 8.
    assert_eq!((steps("joint"), steps("ft")), (10, 6));
}

#[test]
fn a_step_is_the_sum_of_its_micro_batches() {
    for method in Method::ALL {
        let trial = Trial::with_memory(manifest(json!({"method": method.name()})), 12);
        let mut built = method::build(&trial.manifest.pipeline);
        let start =
            Start { weights: &trial.weights, fresh: 45, seen: &[4, 4, 4], labels: &[0, 1, 2], draw: Draw::new(1) };
        built.begin(&start, State::new());
        // Features of both layers, then logits.
        let keeps = built.keeps();
        let columns = if keeps.features.is_some() { 16 + 12 } else { 0 } + if keeps.logits { 3 } else { 0 };
        let kept = layers::Init::Normal(1.0).draw(3, "kept", &[57, columns]);
        let batch = |start: i64, rows: i64, of: f64| {
            let (bytes, labels) = trial.pool.data.take(&support::span(start, rows));
            let (inputs, kept) = (trial.reader.apply(bytes), Some(kept.narrow(0, start, rows)));
            Batch { inputs, labels, kept, weights: None, of, absent: None }
        };
        let replays = method::phases(method)[0].reads == Reads::Replay;
        let draws = if replays { built.draws() as i64 } else { 0 };
        // Six rows of each replay batch in two parts.
        let partial = |fresh: Batch, start: i64, rows: i64| {
            let learner = Learner::new(&trial.net, &trial.weights, None);
            let memory: Vec<Batch> = (0..draws).map(|draw| batch(20 + 10 * draw + start, rows, 6.0)).collect();
            trial.weights.partial(&built.loss(&learner, &fresh, &memory).loss, &[])
        };
        let whole = partial(batch(0, 8, 8.0), 0, 6);
        let parts = partial(batch(0, 3, 8.0), 0, 4) + partial(batch(3, 5, 8.0), 4, 2);
        let difference = (whole - parts).abs().max().double_value(&[]);
        assert!(difference < 2e-6, "{method:?} {difference}");
    }
}

#[test]
fn replay_draws_from_memory() {
    let mut with = Trial::with_memory(manifest(json!({})), 30);
    let mut without = Trial::new(manifest(json!({})));
    with.run();
    without.run();
    assert_ne!(with.hash(), without.hash());
}

#[test]
fn each_row_is_offered_once_an_update_whatever_the_epochs() {
    for update in ["online", "chunk"] {
        let change = json!({"rehearsal": {"update": update, "memory_size": 100}, "training": {"epochs": 3}});
        let outcome = Trial::new(manifest(change)).run();
        assert_eq!(outcome.snapshot.seen, 45);
        let mut held: Vec<_> = outcome.snapshot.slots.iter().map(|slot| (slot.chunk, slot.row)).collect();
        held.sort_unstable();
        held.dedup();
        assert_eq!(held.len(), 45);
    }
}

#[test]
fn the_seconds_of_rehearsal_are_those_of_draws_and_offers() {
    let seconds = |update: &str| {
        let change = json!({"rehearsal": {"update": update}, "training": {"epochs": 2, "replay": {"batch": 8}}});
        let outcome = Trial::new(manifest(change)).run();
        assert_eq!(outcome.steps, 12);
        outcome.rehearsal_seconds
    };
    // Each draw or offer takes one tick: twelve draws, then one offer of all rows, or one after each step of the first epoch.
    assert_eq!((seconds("chunk"), seconds("online")), (13.0, 18.0));
}

#[test]
fn training_on_stripes_learns_them() {
    let change = json!({"training": {"epochs": 40, "optimizer": "sgd", "learning_rate": 0.1, "schedule": "cosine"}});
    let mut trial = Trial::new(manifest(change));
    let outcome = trial.run();
    assert!(outcome.finite && outcome.loss.unwrap() < 0.1, "{:?}", outcome.loss);
    let unseen = support::dataset(&support::rows(100, 12345));
    let scored = perennial_learn::evaluate::evaluate(&trial.net, &unseen, &trial.reader, 32, &mut |_| ());
    assert!(scored.correct > 90, "{scored:?}");
    let other = perennial_learn::evaluate::evaluate(&trial.net, &unseen, &trial.reader, 7, &mut |_| ());
    assert_eq!((scored.items, scored.correct), (other.items, other.correct));
    assert!((scored.loss - other.loss).abs() < 1e-5);
}

#[test]
fn a_diverging_run_stops_and_says_so() {
    let change = json!({"training": {"optimizer": "sgd", "learning_rate": 1e30, "epochs": 5}});
    let outcome = Trial::new(manifest(change)).run();
    assert!(!outcome.finite && outcome.steps < 30, "{}", outcome.steps);
}
