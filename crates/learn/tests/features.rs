//! Methods that replay features: POD-ER, and Super-ER, which has every term.

mod support;

use serde_json::{Value, json};
use support::updates::{LOGITS, hash, updated, with};
use support::{Trial, manifest};

/// Super-ER with these weights, from the parent's weights as they are.
fn super_er(parameters: Value) -> Value {
    let mut change = with("super-er", parameters);
    change["training"] = json!({"reinitialize": {"shrink": 1.0, "sigma": 0.0}});
    change
}

#[test]
fn every_term_of_super_er_is_its_own_methods() {
    let none = json!({"alpha": 0.0, "beta": 0.0, "cls": 0.0, "pod": 0.0});
    let alone = json!({"method": "ft", "training": {"batch_size": 4, "replay": {"fraction": 0.0}}});
    assert_eq!(hash(super_er(none.clone())), hash(alone));
    let only = |terms: &[(&str, f64)]| {
        let mut parameters = none.clone();
        terms.iter().for_each(|(name, weight)| parameters[*name] = json!(weight));
        super_er(parameters)
    };
    let mut copies = with("cls-er", json!({"alpha": 0.5, "beta": 0.3}));
    copies["loss"]["deploys"] = json!("working");
    for (terms, own) in [
        (only(&[("alpha", 0.4)]), with("der", json!({"alpha": 0.4}))),
        (only(&[("alpha", 0.4), ("beta", 0.7)]), with("der++", json!({"alpha": 0.4, "beta": 0.7}))),
        (only(&[("beta", 0.5), ("cls", 0.3)]), copies),
        (only(&[("pod", 0.6)]), with("pod-er", json!({"alpha": 0.6}))),
    ] {
        assert!(same(&terms, &own), "{terms} {own}");
    }
    assert!(!same(&only(&[("pod", 0.6)]), &with("er", json!({"alpha": 0.6}))));
}

fn same(one: &Value, other: &Value) -> bool {
    let [one, other] = [one, other].map(|change| updated(change.clone()).0.weights.values);
    one.allclose(&other, 1e-4, 1e-6, false)
}

#[test]
fn features_that_have_not_moved_pull_at_nothing() {
    // Before the first step memory's features are the net's own: what is left is the new rows' cross-entropy.
    let (_, outcome) = updated(with("pod-er", json!({})));
    let kept = &outcome.carried.0["memory.features"];
    assert_eq!(kept.size(), [outcome.snapshot.slots.len() as i64, 16 + 12]);
    assert!(!outcome.carried.0.contains_key(LOGITS));
    let first = |alpha: f64| {
        let mut trial = Trial::with_memory(manifest(with("pod-er", json!({"alpha": alpha}))), 12);
        let mut losses = Vec::new();
        trial.run_on(&collective::Solo, None, &mut |moment| {
            losses.push(moment.loss);
            Ok(())
        });
        losses
    };
    let (with, without) = (first(5.0), first(0.0));
    assert!((with[0] - without[0]).abs() < 1e-5 && with[3] > without[3] + 1e-3, "{with:?} {without:?}");
}
