//! What each method is, beside the others and beside its paper.

mod support;

use domain::buffer::Snapshot;
use domain::draw::Draw;
use domain::pipeline::Method;
use perennial_learn::Carried;
use perennial_learn::method::{self, Batch, Learner, Start, State};
use perennial_learn::model::layers::Init;
use perennial_learn::update::Outcome;
use serde_json::{Value, json};
use support::updates::{LOGITS, hash, updated, with};
use support::{Trial, handles, manifest};
use tch::Tensor;

/// Fine-tuning on the batches of new rows that a replaying method sees: four of eight.
fn fine_tuned() -> String {
    hash(json!({"method": "ft", "training": {"batch_size": 4, "replay": {"fraction": 0.0}}}))
}

#[test]
fn replay_without_weight_is_fine_tuning_on_the_same_batches() {
    for (method, parameters) in [
        ("er", json!({"alpha": 0.0})),
        ("der", json!({"alpha": 0.0})),
        ("der++", json!({"alpha": 0.0, "beta": 0.0})),
        ("pod-er", json!({"alpha": 0.0})),
    ] {
        assert_eq!(hash(with(method, parameters)), fine_tuned(), "{method}");
    }
    let mut copies = with("cls-er", json!({"alpha": 0.0, "beta": 0.0}));
    copies["loss"]["deploys"] = json!("working");
    assert_eq!(hash(copies), fine_tuned());
}

#[test]
fn dark_replay_without_logits_is_experience_replay() {
    let dark = hash(with("der++", json!({"alpha": 0.0, "beta": 0.7})));
    assert_eq!(dark, hash(with("er", json!({"alpha": 0.7}))));
    assert_ne!(dark, hash(with("er", json!({"alpha": 0.6}))));
}

#[test]
fn dark_replay_without_labels_is_its_first_form() {
    let first = hash(with("der", json!({"alpha": 0.3})));
    assert_eq!(hash(with("der++", json!({"alpha": 0.3, "beta": 0.0}))), first);
    assert_ne!(hash(with("der++", json!({"alpha": 0.3, "beta": 0.5}))), first);
}

#[test]
fn dark_replay_draws_twice_unless_told_otherwise() {
    let drawn = |draws: &str| {
        let mut change = with("der++", json!({"alpha": 0.3, "beta": 0.5}));
        change["loss"]["replay_draws"] = json!(draws);
        hash(change)
    };
    assert_ne!(drawn("independent"), drawn("shared"));
}

#[test]
fn a_sum_over_its_weights_is_a_smaller_step() {
    let step = |normalization: &str, rate: f64| {
        let mut change = with("er", json!({"alpha": 1.0}));
        change["loss"]["normalization"] = json!(normalization);
        change["training"] = json!({"optimizer": "sgd", "learning_rate": rate});
        updated(change).0.weights.values
    };
    assert!(step("sum", 0.2).allclose(&step("none", 0.1), 1e-5, 1e-7, false));
}

#[test]
fn without_memory_replay_and_its_kin_are_fine_tuning() {
    let first = |method: &str| {
        let change = json!({"method": method, "rehearsal": {"update": "chunk"}});
        let mut trial = Trial::new(manifest(change));
        trial.run();
        trial.hash()
    };
    let fine_tuned = first("ft");
    for method in ["er", "offline-er", "der", "der++", "ewc", "online-ewc", "lwf", "joint"] {
        assert_eq!(first(method), fine_tuned, "{method}");
    }
}

#[test]
fn offline_replay_weighs_terms_by_the_rows_they_stand_for() {
    // 30 rows before, 45 new: a = 0.6.
    let mut er = with("er", json!({"alpha": 0.4 / 0.6}));
    er["rehearsal"] = json!({"update": "chunk"});
    er["training"] = json!({"optimizer": "sgd", "learning_rate": 0.06});
    let (trial, _) = updated(json!({"method": "offline-er", "training": {"optimizer": "sgd", "learning_rate": 0.1}}));
    assert!(trial.weights.values.allclose(&updated(er).0.weights.values, 1e-5, 1e-6, false));
}

#[test]
fn training_on_a_memory_that_holds_everything_is_joint_training() {
    let large = |method: &str| {
        let mut trial = Trial::new(manifest(json!({"method": method, "rehearsal": {"memory_size": 100}})));
        trial.run();
        trial.hash()
    };
    assert_eq!(large("gdumb"), large("joint"));
}

#[test]
fn what_starts_anew_forgets_the_parents_weights() {
    for method in ["gdumb", "rd"] {
        let trained = |shift: f64| {
            let mut trial = Trial::with_memory(manifest(json!({"method": method})), 30);
            let known = Init::Normal(1.0).draw(9, "logits", &[trial.snapshot.slots.len() as i64, 3]);
            trial.carried = Carried([(LOGITS.to_owned(), known)].into());
            tch::no_grad(|| trial.weights.values += shift);
            trial.run();
            trial.hash()
        };
        assert_eq!(trained(0.0), trained(0.5), "{method}");
    }
}

#[test]
fn online_memory_keeps_the_logits_of_the_step_that_saw_a_row() {
    let change = json!({"method": "der", "rehearsal": {"memory_size": 100, "update": "online"}});
    let mut trial = Trial::new(manifest(change));
    let before = trial.net.forward(&trial.reader.apply(trial.pool.data.take(&support::span(0, 45)).0)).detach();
    let outcome = trial.run();
    let stored = &outcome.carried.0[LOGITS];
    // The first step's rows: half a batch.
    for slot in 0..4 {
        let position = trial.pool.position(&outcome.snapshot, &outcome.snapshot.slots[slot]) as i64;
        assert!(stored.get(slot as i64).allclose(&before.get(position), 1e-5, 1e-6, false));
    }
    let after = trial.net.forward(&trial.reader.apply(trial.pool.data.take(&support::span(0, 45)).0)).detach();
    assert!(!stored.get(0).allclose(&after.get(0), 1e-5, 1e-6, false));
}

/// The logits that the trained net gives the rows of a snapshot, slot by slot.
fn answers(trial: &Trial, snapshot: &Snapshot) -> Tensor {
    let slots = snapshot.slots.iter();
    let positions: Vec<i64> = slots.map(|slot| trial.pool.position(snapshot, slot) as i64).collect();
    trial.net.forward(&trial.reader.apply(trial.pool.data.take(&positions).0)).detach()
}

#[test]
fn memory_filled_after_training_keeps_the_trained_nets_logits() {
    let change = json!({"method": "der", "rehearsal": {"memory_size": 20, "update": "chunk"}});
    let mut trial = Trial::new(manifest(change));
    let outcome = trial.run();
    assert!(outcome.carried.0[LOGITS].allclose(&answers(&trial, &outcome.snapshot), 1e-5, 1e-6, false));
}

#[test]
fn repeated_distillation_rewrites_every_logit() {
    let (trial, outcome) = updated(json!({"method": "rd", "training": {"epochs": 2}}));
    assert!(outcome.carried.0[LOGITS].allclose(&answers(&trial, &outcome.snapshot), 1e-5, 1e-6, false));
    assert_eq!(outcome.steps, 2 * 2 * 6);
}

/// A method's loss on 8 new rows, and 8 remembered ones with these logits.
fn loss(change: Value, logits: &Tensor) -> f64 {
    let trial = Trial::with_memory(manifest(change), 12);
    let mut built = method::build(&trial.manifest.pipeline);
    let start = Start { weights: &trial.weights, fresh: 45, seen: &[4, 4, 4], labels: &[0, 1, 2], draw: Draw::new(1) };
    built.begin(&start, State::new());
    let batch = |start: i64, logits: Option<Tensor>| {
        let (bytes, labels) = trial.pool.data.take(&support::span(start, 8));
        Batch { inputs: trial.reader.apply(bytes), labels, kept: logits, weights: None, of: 8.0, absent: None }
    };
    let memory = || batch(45, Some(logits.shallow_clone()));
    let learner = Learner::new(&trial.net, &trial.weights, None);
    let step = match trial.manifest.pipeline.method {
        Method::Rd => built.loss(&learner, &memory(), &[]),
        _ => built.loss(&learner, &batch(0, None), &[memory()]),
    };
    step.loss.double_value(&[])
}

#[test]
fn repeated_distillation_ignores_what_is_added_to_all_of_a_rows_logits() {
    let logits = Init::Normal(1.0).draw(2, "logits", &[8, 3]);
    let shifted = &logits + Init::Normal(5.0).draw(3, "shift", &[8, 1]);
    let (plain, moved) = (loss(json!({"method": "rd"}), &logits), loss(json!({"method": "rd"}), &shifted));
    assert!((plain - moved).abs() < 1e-5 && plain > 0.1, "{plain} {moved}");
    let der = json!({"method": "der"});
    assert!((loss(der.clone(), &logits) - loss(der, &shifted)).abs() > 1.0);
}

#[test]
fn stored_logits_are_compared_on_the_classes_known_then() {
    let logits = Init::Normal(1.0).draw(2, "logits", &[8, 3]);
    let narrow = logits.copy();
    let _ = narrow.narrow(1, 2, 1).fill_(f64::NAN);
    let own =
        |logits: &Tensor| loss(json!({"method": "der"}), logits) - loss(json!({"method": "der"}), &(logits * f64::NAN));
    // By hand, over two columns and over three.
    let trial = Trial::with_memory(manifest(json!({})), 12);
    let z = trial.net.forward(&trial.reader.apply(trial.pool.data.take(&support::span(45, 8)).0)).detach();
    let by_hand = |columns: i64| {
        let difference = (&z - &logits).narrow(1, 0, columns);
        (difference.square().mean(tch::Kind::Double)).double_value(&[])
    };
    assert!((own(&narrow) - by_hand(2)).abs() < 1e-5);
    assert!((own(&logits) - by_hand(3)).abs() < 1e-5);
}

#[test]
fn the_parents_answers_hold_back_the_student() {
    let distance = |alpha: f64| {
        let mut change = with("lwf", json!({"alpha": alpha}));
        change["training"] = json!({"optimizer": "sgd", "learning_rate": 0.1, "epochs": 5});
        let (trial, _) = updated(change);
        (&trial.weights.values - &trial.base).norm().double_value(&[])
    };
    assert_eq!(hash(with("lwf", json!({"alpha": 0.0}))), hash(json!({"method": "ft"})));
    assert!(distance(10.0) < 0.7 * distance(0.0), "{} {}", distance(10.0), distance(0.0));
}

#[test]
fn distillation_from_oneself_has_the_teachers_entropy() {
    // Student and teacher are the same before the first step: KD = H(softmax(z/T)), over the three classes.
    let unknown = Tensor::zeros([8, 3], tch::kind::FLOAT_CPU);
    let temperature = |t: f64| loss(with("lwf", json!({"alpha": 1.0, "temperature": t})), &unknown);
    let plain = loss(with("lwf", json!({"alpha": 0.0})), &unknown);
    let trial = Trial::with_memory(manifest(json!({})), 12);
    let z = trial.net.forward(&trial.reader.apply(trial.pool.data.take(&support::span(0, 8)).0)).detach() / 2.0;
    let entropy =
        -(z.softmax(-1, tch::Kind::Double) * z.log_softmax(-1, tch::Kind::Double)).sum(tch::Kind::Double) / 8.0;
    assert!((temperature(2.0) - plain - entropy.double_value(&[])).abs() < 1e-5);
}

#[test]
fn a_penalty_pulls_towards_the_last_weights_and_none_does_nothing() {
    let second = |method: &str, lambda: f64| {
        let change = with(method, json!({"lambda": lambda}));
        let (first, outcome) = updated(change.clone());
        let mut next = Trial::with_memory(manifest(change), 30);
        tch::no_grad(|| next.weights.values.copy_(&first.weights.values));
        next.carried = handles(&outcome.carried);
        next.run();
        (&next.weights.values - &first.weights.values).norm().double_value(&[])
    };
    let free = second("ewc", 0.0);
    for method in ["ewc", "online-ewc"] {
        assert_eq!(second(method, 0.0), free);
        assert!(second(method, 1e4) < 0.5 * free, "{method} {} {free}", second(method, 1e4));
    }
}

#[test]
fn the_penalty_is_the_papers() {
    let trial = Trial::new(manifest(with("ewc", json!({"lambda": 3.0}))));
    let values = &trial.weights.values;
    let draw = |seed| Init::Uniform(1.0).draw(seed, "tensor", &values.size());
    let (fisher, anchor) = (draw(1).abs(), draw(2));
    let mut built = method::build(&trial.manifest.pipeline);
    let start = Start { weights: &trial.weights, fresh: 45, seen: &[], labels: &[0, 1, 2], draw: Draw::new(1) };
    let state = [("fisher.0", &fisher), ("anchor.0", &anchor)];
    built.begin(&start, state.map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone())).into());
    let (gradient, value) = built.pull(values).unwrap();
    let away = values - &anchor;
    assert!(gradient.allclose(&(3.0 * &fisher * &away), 1e-5, 1e-7, false));
    let by_hand = 1.5 * (&fisher * away.square()).sum(tch::Kind::Double).double_value(&[]);
    assert!((value - by_hand).abs() < 1e-3 * by_hand, "{value} {by_hand}");
}

#[test]
fn fisher_information_is_the_mean_of_squared_gradients_and_decays() {
    let (trial, outcome) = updated(with("online-ewc", json!({"gamma": 0.5})));
    let fisher = |outcome: &Outcome, method: &str| outcome.carried.state(&trial.weights).remove(method).unwrap();
    let one = fisher(&outcome, "fisher.0");
    let mut sum = one.zeros_like();
    for row in 0..45 {
        let (bytes, label) = trial.pool.data.take(&[row]);
        let logits = trial.net.forward(&trial.reader.apply(bytes));
        sum += trial
            .weights
            .partial(&logits.cross_entropy_for_logits(&label), &[])
            .narrow(0, 0, one.numel() as i64)
            .square();
    }
    assert!(one.allclose(&(sum / 45.0), 1e-3, 1e-7, false));
    let mut next = Trial::with_memory(manifest(with("online-ewc", json!({"gamma": 0.5, "lambda": 0.0}))), 30);
    next.carried = handles(&outcome.carried);
    let again = fisher(&next.run(), "fisher.0");
    assert!((again - &one * 0.5).min().double_value(&[]) >= -1e-7);
}

#[test]
fn averages_of_weights_follow_their_closed_form() {
    let parameters = json!({"plastic_frequency": 1.0, "plastic_decay": 0.6, "stable_frequency": 0.5});
    let mut trial = Trial::with_memory(manifest(with("cls-er", parameters)), 30);
    let mut average = trial.weights.values.copy();
    let mut steps = 0.0;
    let outcome = trial.run_on(&collective::Solo, None, &mut |moment| {
        steps += 1.0;
        let decay = f64::min(1.0 - 1.0 / (steps + 1.0), 0.6);
        average = &average * decay + moment.values * (1.0 - decay);
        Ok(())
    });
    let state = outcome.carried.state(&trial.weights);
    assert!(state["plastic"].allclose(&average, 1e-5, 1e-7, false));
    assert_eq!(state["steps"].double_value(&[]), steps);
    // The slow copy is what is deployed; the working weights wait for the next update.
    assert_eq!(state["stable"], trial.weights.values);
    assert_ne!(state["working"], trial.weights.values);
}

#[test]
fn an_average_without_memory_of_itself_is_the_model() {
    let parameters = json!({"plastic_frequency": 1.0, "plastic_decay": 0.0});
    let mut change = with("cls-er", parameters);
    change["loss"]["deploys"] = json!("working");
    let (trial, outcome) = updated(change);
    assert_eq!(outcome.carried.state(&trial.weights)["plastic"], trial.weights.values);
}

#[test]
fn one_running_penalty_takes_in_all_that_others_left() {
    let (trial, outcome) = updated(with("ewc", json!({})));
    let mut twice = Trial::with_memory(manifest(with("ewc", json!({}))), 30);
    twice.carried = handles(&outcome.carried);
    let two = twice.run();
    assert!(two.carried.state(&trial.weights).contains_key("fisher.1"));
    let mut online = Trial::with_memory(manifest(with("online-ewc", json!({}))), 30);
    online.carried = handles(&two.carried);
    let state = online.run().carried.state(&trial.weights);
    assert!(state.contains_key("fisher.0") && !state.contains_key("fisher.1"));
}

#[test]
fn what_another_method_remembered_is_rehearsed_by_the_parents_logits() {
    for method in ["der", "rd"] {
        let mut trial = Trial::with_memory(manifest(json!({"method": method, "training": {"epochs": 3}})), 12);
        let parent = answers(&trial, &trial.snapshot);
        let mut first = None;
        trial.run_on(&collective::Solo, None, &mut |moment| {
            first.get_or_insert_with(|| moment.carried().0[LOGITS].narrow(0, 0, 12));
            Ok(())
        });
        assert!(first.unwrap().allclose(&parent, 1e-5, 1e-6, false), "{method}");
    }
}
