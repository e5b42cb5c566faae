//! Laws of low-rank adaptation.

mod support;

use domain::pipeline::Spec;
use perennial_learn::assemble::{Assembled, assemble};
use perennial_learn::model::head::Head;
use serde_json::json;
use support::{MLP, Trial, VIT, lora, manifest, sample, sources};
use tch::{Kind, Tensor};

fn largest(difference: Tensor) -> f64 {
    difference.abs().max().double_value(&[])
}

/// `(A, B, path)` of every adapted layer.
fn deltas(trial: &Trial) -> Vec<(Tensor, Tensor, String)> {
    let named = trial.weights.named();
    let find = |name: &str| named.iter().find(|(known, _)| known == name).unwrap().1.detach();
    let paths = named.iter().filter_map(|(name, _)| name.strip_suffix(".lora_A.weight"));
    paths
        .map(|path| (find(&format!("{path}.lora_A.weight")), find(&format!("{path}.lora_B.weight")), path.to_owned()))
        .collect()
}

#[test]
fn before_the_first_step_the_net_is_its_base() {
    for model in [MLP, VIT] {
        let adapted = Trial::new(manifest(lora(model)));
        let mut base = Trial::new(manifest(json!({"model": model})));
        base.net.body.freeze(Kind::Float);
        assert!(adapted.logits().equal(&base.logits()), "{model}");
    }
}

#[test]
fn training_leaves_frozen_tensors_alone_and_adds_at_most_rank_r() {
    for model in [MLP, VIT] {
        let mut trial = Trial::with_memory(manifest(lora(model)), 10);
        let before: Vec<_> = trial.net.body.tensors().into_iter().map(|(name, t)| (name, t.copy())).collect();
        let start = trial.hash();
        trial.run();
        assert_ne!(trial.hash(), start);
        for ((name, old), (_, new)) in before.iter().zip(trial.net.body.tensors()) {
            assert!(old.equal(&new), "{name}");
        }
        for (a, b, path) in deltas(&trial) {
            let rank = b.matmul(&a).linalg_matrix_rank(1e-6, false).int64_value(&[]);
            assert!((1..=3).contains(&rank), "{path} has rank {rank}");
        }
    }
}

#[test]
fn merging_the_adapters_gives_the_same_logits() {
    for model in [MLP, VIT] {
        let mut trial = Trial::new(manifest(lora(model)));
        trial.run();
        let adapted = trial.logits();
        let mut merged = Trial::new(manifest(json!({"model": model})));
        for (a, b, path) in deltas(&trial) {
            let sites = merged.net.body.sites();
            let linear = sites.into_iter().find(|site| site.path == path).unwrap().linear;
            linear.weight = (&linear.weight + b.matmul(&a) * 2.0).detach(); // alpha / r = 6 / 3
        }
        merged.net.head = Head { weight: trial.net.head.weight.copy(), bias: trial.net.head.bias.copy() };
        let difference = largest(adapted - merged.logits());
        assert!(difference < 1e-5, "{model} {difference}");
    }
}

#[test]
fn rank_stabilised_adapters_scale_by_the_root() {
    let mut change = lora(MLP);
    change["adapter"]["lora"]["use_rslora"] = json!(true);
    let spec: Spec = manifest(change).pipeline.into();
    let domain::pipeline::Adapter::Lora(lora) = spec.adapter else { panic!() };
    assert!((lora.scale() - 6.0 / 3f64.sqrt()).abs() < 1e-12);
}

#[test]
fn bf16_layers_stay_close_to_f32_and_what_trains_is_f32() {
    let mut change = lora(VIT);
    change["training"] = json!({"precision": "bf16"});
    let mut half = Trial::new(manifest(change));
    let mut full = Trial::new(manifest(lora(VIT)));
    let kinds = |trial: &mut Trial| -> Vec<Kind> {
        trial.net.body.sites().into_iter().map(|site| site.linear.weight.kind()).collect()
    };
    assert!(kinds(&mut half).iter().all(|kind| *kind == Kind::BFloat16));
    assert!(kinds(&mut full).iter().all(|kind| *kind == Kind::Float));
    let apart = |half: &Trial, full: &Trial| largest(half.logits() - full.logits());
    let before = apart(&half, &full);
    assert!(before > 0.0 && before < 0.05, "{before}");
    half.run();
    full.run();
    assert!(half.weights.values.kind() == Kind::Float && half.logits().kind() == Kind::Float);
    let after = apart(&half, &full);
    assert!(after > 0.0 && after < 0.1, "{after}");
}

#[test]
fn a_head_that_grows_keeps_its_rows_and_equals_one_made_at_once() {
    let (three, five) = (Head::new(7, 3, 16), Head::new(7, 5, 16));
    assert!(five.weight.narrow(0, 0, 3).equal(&three.weight));

    let folder = tempfile::tempdir().unwrap();
    let mut trial = Trial::new(manifest(lora(VIT)));
    let outcome = trial.run();
    trial.publish(folder.path(), &outcome);
    let mut grown = manifest(lora(VIT));
    grown.labels.extend(["d", "e"].map(str::to_owned));
    let Assembled { net, .. } = assemble(sources(&grown, Some(folder.path())), &sample()).unwrap();
    assert_eq!(net.head.weight.size(), [5, 16]);
    assert!(net.head.weight.narrow(0, 0, 3).equal(&trial.net.head.weight));
    let fresh = Head::new(grown.pipeline.seed, 5, 16);
    assert!(net.head.weight.narrow(0, 3, 2).equal(&fresh.weight.narrow(0, 3, 2)));
}
