//! The number of ranks does not change a bit.

mod support;

use serde_json::json;
use support::{MLP, Trial, VIT, lora, manifest, ranks};

/// Weights, snapshot and loss of every rank.
fn trained(world: usize, change: &serde_json::Value) -> Vec<(String, String)> {
    ranks(world, |collective| {
        let mut trial = Trial::with_memory(manifest(change.clone()), 15);
        let outcome = trial.run_on(collective, None, &mut |_| Ok(()));
        assert!(outcome.finite);
        (trial.hash(), format!("{:?} {:?}", outcome.snapshot, outcome.loss))
    })
}

#[test]
fn one_two_three_and_four_ranks_end_with_the_same_bits() {
    let mut vit = lora(VIT);
    vit["rehearsal"] = json!({"update": "online"});
    let sgd = json!({"model": MLP, "training": {"optimizer": "sgd", "epochs": 2}});
    for change in [vit, sgd, json!({"method": "joint"})] {
        let alone = trained(1, &change).remove(0);
        for world in 2..=4 {
            let all = trained(world, &change);
            assert!(all.iter().all(|rank| *rank == alone), "{world} ranks, {change}");
        }
    }
}

#[test]
fn the_fast_reduction_agrees_to_rounding() {
    let values = |world, reduction: &str| {
        let change = json!({"training": {"reduction": reduction, "optimizer": "sgd"}});
        let run = ranks(world, |collective| {
            let mut trial = Trial::with_memory(manifest(change.clone()), 15);
            trial.run_on(collective, None, &mut |_| Ok(()));
            Vec::<f32>::try_from(&trial.weights.values).unwrap()
        });
        run.into_iter().next().unwrap()
    };
    let (fast, ordered) = (values(2, "fast"), values(1, "ordered"));
    let difference = fast.iter().zip(&ordered).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference < 1e-5, "{difference}");
}
