//! What holds between methods.

mod support;

use domain::draw::Draw;
use domain::pipeline::Method;
use perennial_learn::method::{self, Batch, Learner, Reads, Start, State};
use perennial_learn::model::layers;
use serde_json::json;
use support::{Trial, manifest};
use tch::Kind;

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
fn a_rows_weight_multiplies_every_term_of_its_loss() {
    for method in Method::ALL {
        let trial = Trial::with_memory(manifest(json!({"method": method.name()})), 12);
        let mut built = method::build(&trial.manifest.pipeline);
        let start =
            Start { weights: &trial.weights, fresh: 45, seen: &[4, 4, 0], labels: &[0, 1, 2], draw: Draw::new(1) };
        built.begin(&start, State::new());
        let loss = |weight: Option<f64>| {
            let (bytes, labels) = trial.pool.data.take(&support::span(0, 8));
            let weights = weight.map(|weight| tch::Tensor::full([8], weight, tch::kind::FLOAT_CPU));
            let batch = Batch { inputs: trial.reader.apply(bytes), labels, kept: None, weights, of: 8.0, absent: None };
            built.loss(&Learner::new(&trial.net, &trial.weights, None), &batch, &[]).loss.double_value(&[])
        };
        assert!((loss(Some(3.0)) - 3.0 * loss(None)).abs() < 1e-4, "{method:?}");
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
    let scored = perennial_learn::evaluate::evaluate(&trial.net, &unseen, &trial.reader, None, 32, &mut |_| ());
    assert!(scored.correct > 90, "{scored:?}");
    let other = perennial_learn::evaluate::evaluate(&trial.net, &unseen, &trial.reader, None, 7, &mut |_| ());
    assert_eq!((scored.items, scored.correct, &scored.right), (other.items, other.correct, &other.right));
    assert!((scored.loss - other.loss).abs() < 1e-5);
    let [brier, again] = [&scored, &other].map(|scored| scored.calibration.as_ref().unwrap().brier_score().unwrap());
    assert!((brier - again).abs() < 1e-6 && scored.calibration.unwrap().items == 100, "{brier} {again}");
}

#[test]
fn each_item_is_judged_in_its_own_place() {
    let trial = Trial::new(manifest(json!({})));
    let unseen = support::dataset(&support::rows(30, 12345));
    let scored = perennial_learn::evaluate::evaluate(&trial.net, &unseen, &trial.reader, None, 7, &mut |_| ());
    let positions: Vec<i64> = (0..30).collect();
    let _guard = tch::no_grad_guard();
    let probabilities = trial.net.answer(&trial.reader.apply(unseen.take(&positions).0)).softmax(-1, Kind::Double);
    let labels = unseen.labels(&positions);
    let right = Vec::<bool>::try_from(probabilities.argmax(-1, false).eq_tensor(&labels)).unwrap();
    assert_eq!(scored.right, right);
    assert!(scored.correct > 0 && scored.correct < 30, "{scored:?}");
    let truth = labels.one_hot(3).to_kind(Kind::Double);
    let brier = (&probabilities - truth).square().sum(Kind::Double).double_value(&[]) / 30.0;
    let calibration = scored.calibration.unwrap();
    assert!((calibration.brier_score().unwrap() - brier).abs() < 1e-6);
    let sure = probabilities.amax([-1i64], false).mean(Kind::Double).double_value(&[]);
    let gap = (sure - scored.correct as f64 / 30.0).abs();
    assert!(calibration.expected_error().unwrap() > gap - 1e-6, "no smaller than the gap of the means");
}

#[test]
fn what_would_be_deployed_can_be_asked_at_any_step_and_nothing_moves() {
    for (method, deploys) in [("er", "stable"), ("cls-er", "stable"), ("cls-er", "working")] {
        let mut change = json!({"method": method, "training": {"epochs": 2, "optimizer": "sgd", "learning_rate": 0.1}});
        if method == "cls-er" {
            change["loss"] = json!({"deploys": deploys});
        }
        let mut untouched = Trial::new(manifest(change.clone()));
        untouched.run();
        let (mut trial, mut last) = (Trial::new(manifest(change)), None);
        trial.run_on(&collective::Solo, None, &mut |moment| {
            let before = moment.values.copy();
            last = Some(moment.deployed(|| moment.values.copy()));
            assert_eq!(moment.values, &before);
            Ok(())
        });
        assert_eq!(trial.hash(), untouched.hash(), "{method} {deploys}");
        assert_eq!(last.unwrap(), trial.weights.values, "{method} {deploys}: after the last step it is the version");
    }
}

#[test]
fn a_diverging_run_stops_and_says_so() {
    let change = json!({"training": {"optimizer": "sgd", "learning_rate": 1e30, "epochs": 5}});
    let outcome = Trial::new(manifest(change)).run();
    assert!(!outcome.finite && outcome.steps < 30, "{}", outcome.steps);
}
