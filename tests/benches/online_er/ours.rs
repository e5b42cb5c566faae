//! Our side: an update as a rank runs it, from its begin to its outcome.

// A benchmark is made to read the clock.
#![allow(clippy::disallowed_methods)]

use std::path::Path;
use std::time::Instant;

use domain::chunk::Row;
use serde_json::json;
use tch::{Kind, Tensor};

use crate::Epoch;
use crate::shared::fashion::Fashion;

/// Rows that the accuracy is of.
const SCORED: usize = 10_000;

/// Lays down the rows that the others read, then answers.
pub fn serve(rows: &[Row], threads: i32, folder: &Path) {
    tch::set_num_threads(threads);
    let spec = json!({
        "method": "er", "seed": 1, "rehearsal": {"memory_size": 500, "update": "online"},
        "training": {"batch_size": 10, "replay": {"batch": 10}, "learning_rate": 0.03, "optimizer": "sgd"},
    });
    let fashion = Fashion::new(rows, spec);
    let (pixels, labels) = fashion.pool.data.take(&(0..rows.len() as i64).collect::<Vec<_>>());
    let named = [("pixels", pixels.pixels().flatten(1, -1)), ("labels", labels)];
    Tensor::write_safetensors(&named, folder.join("rows.safetensors")).expect("rows");
    println!("ready");
    for _ in std::io::stdin().lines() {
        println!("{}", json!(epoch(&fashion)));
    }
}

fn epoch(fashion: &Fashion) -> Epoch {
    let start = Instant::now();
    let (made, _) = fashion.update(&|_| (), &mut |_| ());
    let seconds = start.elapsed().as_secs_f64();
    let _guard = tch::no_grad_guard();
    let (inputs, labels) = fashion.taken(0..SCORED.min(fashion.pool.fresh));
    let right = made.net.forward(&inputs).argmax(-1, false).eq_tensor(&labels);
    Epoch { seconds, accuracy: right.to_kind(Kind::Float).mean(Kind::Float).double_value(&[]) }
}
