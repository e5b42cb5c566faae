//! Adapters in the top blocks alone, and the outputs of those below, kept.

mod support;

use domain::manifest::Manifest;
use perennial_learn::assemble::assemble;
use perennial_learn::{Error, Flat, Prefix};
use serde_json::{Value, json};
use support::{Trial, VIT, manifest, ranks, sample, sources, span};

fn on_top(more: Value) -> Manifest {
    let mut change = support::lora(VIT);
    change["adapter"]["lora"]["layers"] = json!("last:1");
    change.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    manifest(change)
}

fn kept(memory_mib: u64, disk_mib: u64) -> Value {
    json!({"resources": {"prefix_cache": {"memory_mib": memory_mib, "disk_mib": disk_mib}}})
}

#[test]
fn adapters_are_in_the_top_blocks_alone() {
    let trial = Trial::new(on_top(json!({})));
    let names: Vec<&str> = trial.weights.named().iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.iter().any(|name| name.contains("layer.1.")), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("layer.0.")), "{names:?}");
}

#[test]
fn more_blocks_than_there_are_is_a_mistake() {
    let mut change = support::lora(VIT);
    change["adapter"]["lora"]["layers"] = json!("last:3");
    let run = manifest(change);
    let error = assemble(sources(&run, None), &sample()).err().unwrap();
    assert!(matches!(error, Error::TooFewBlocks { asked: 3, depth: 2 }) && error.is_permanent(), "{error}");
}

#[test]
fn memory_and_disk_give_the_same_bits_and_each_step_anew_the_same_weights() {
    let train = |limits| {
        let mut trial = Trial::with_memory(on_top(limits), 12);
        trial.run();
        trial
    };
    let (memory, disk, neither) = (train(kept(64, 0)), train(kept(0, 64)), train(kept(0, 0)));
    assert_eq!(memory.hash(), disk.hash());
    let difference = (&memory.weights.values - &neither.weights.values).abs().max().double_value(&[]);
    assert!(difference < 1e-5, "{difference}");
    assert_ne!(memory.hash(), Trial::new(on_top(json!({}))).hash());
}

#[test]
fn the_number_of_ranks_changes_no_bit() {
    let hash = |world| {
        ranks(world, |collective| {
            let mut trial = Trial::with_memory(on_top(json!({})), 12);
            trial.run_on(collective, None, &mut |_| Ok(()));
            trial.hash()
        })
    };
    let one = hash(1).remove(0);
    assert!(hash(2).into_iter().chain(hash(4)).all(|other| other == one));
}

#[test]
fn what_is_kept_is_what_the_blocks_give() {
    let Trial { manifest, net, pool, reader, .. } = Trial::with_memory(on_top(json!({})), 12);
    let scratch = tempfile::tempdir().unwrap();
    let mut told = Vec::new();
    let limits = manifest.pipeline.resources.prefix_cache;
    let prefix = Prefix::fill(&net, &pool, &reader, limits, scratch.path(), &mut |rows| told.push(rows)).unwrap();
    assert_eq!(told, [32, 57]);
    let _guard = tch::no_grad_guard();
    let hidden = net.forward(&prefix.unwrap().take(&span(3, 9)).unwrap());
    let whole = net.forward(&reader.apply(pool.data.take(&span(3, 9)).0));
    let difference = (hidden - whole).abs().max().double_value(&[]);
    assert!(difference < 1e-6, "{difference}");
}

#[test]
fn nothing_is_kept_where_every_block_trains() {
    let Trial { manifest, net, pool, reader, weights, .. } = Trial::new(manifest(support::lora(VIT)));
    let limits = manifest.pipeline.resources.prefix_cache;
    let scratch = tempfile::tempdir().unwrap();
    assert!(Prefix::fill(&net, &pool, &reader, limits, scratch.path(), &mut |_| ()).unwrap().is_none());
    drop::<Flat>(weights);
}
