//! Our side: an update that ends by choosing, and the choice alone.

use std::cell::RefCell;
use std::path::Path;
use std::time::Instant;

use domain::chunk::Row;
use learn::coreset::Gradients;
use serde_json::json;
use tch::Tensor;

use crate::shared::fashion::Fashion;
use crate::shared::peak_mib;
use crate::{Args, Turn, Update};

/// Rows go through a net in groups of this size.
const GROUP: usize = 256;

/// Lays down the gradients that numpy reads, then answers.
pub fn serve(rows: &[Row], args: &Args, folder: &Path) {
    tch::set_num_threads(args.threads);
    let spec = json!({
        "method": "er", "seed": 1, "rehearsal": {"policy": "gmc", "memory_size": args.atoms, "update": "chunk"},
        "training": {"batch_size": 10, "replay": {"batch": 10}, "learning_rate": 0.03, "optimizer": "sgd"},
    });
    let fashion = Fashion::new(rows, spec);
    let (_, seeds) = update(&fashion, 0);
    // Of an update alone: below, the gradients lie here a second time.
    let peak = peak_mib();
    let gradients = gradients(&fashion, rows.len(), &seeds);
    let target = gradients.sum(&Tensor::ones([rows.len() as i64], tch::kind::FLOAT_CPU));
    let named = [("delta", &gradients.delta), ("phi", &gradients.phi), ("target", &target)];
    Tensor::write_safetensors(&named, folder.join("gradients.safetensors")).expect("gradients");
    println!("ready");
    for line in std::io::stdin().lines() {
        let answer = match line.expect("a line").as_str() {
            "update" => json!(update(&fashion, peak).0),
            _ => json!(choose(&gradients, &target, args.atoms)),
        };
        println!("{answer}");
    }
}

/// What an update took, and the seeds of the initial weights that its gradients were taken at.
fn update(fashion: &Fashion, peak_mib: u64) -> (Update, Vec<u64>) {
    let (start, seeds) = (Instant::now(), RefCell::default());
    let mut epoch = 0.0;
    let (_, outcome) = fashion
        .update(&|seed| Vec::push(&mut seeds.borrow_mut(), seed), &mut |_| epoch = start.elapsed().as_secs_f64());
    let choice = start.elapsed().as_secs_f64() - epoch;
    let kept = outcome.snapshot.slots.iter().map(|slot| slot.row as usize).collect();
    (Update { epoch, choice, kept, peak_mib }, seeds.into_inner())
}

fn gradients(fashion: &Fashion, rows: usize, seeds: &[u64]) -> Gradients {
    let _guard = tch::no_grad_guard();
    let at = |&seed: &u64| {
        let net = fashion.made(seed).net;
        let groups = (0..rows).step_by(GROUP).map(|start| start..rows.min(start + GROUP));
        let features: Vec<Tensor> = groups.map(|group| net.features(&fashion.taken(group).0)).collect();
        let features = Tensor::cat(&features, 0);
        let logits = net.head.forward(&features);
        (features, logits)
    };
    let (features, logits): (Vec<Tensor>, Vec<Tensor>) = seeds.iter().map(at).unzip();
    Gradients::new(&features, &logits, &fashion.taken(0..rows).1)
}

fn choose(gradients: &Gradients, target: &Tensor, atoms: usize) -> Turn {
    let start = Instant::now();
    let chosen = gradients.matched(target, atoms);
    Turn { seconds: start.elapsed().as_secs_f64(), support: chosen.into_iter().map(|(row, _)| row).collect() }
}
