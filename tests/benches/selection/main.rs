//! How near each rule of selective backprop comes to a batch's mean gradient, on the last layer and on all, and what
//! choosing takes beside the forward pass that it looks at.
//!
//! ```text
//! cargo bench -p perennial-tests --bench selection
//! ```
//!
//! Batches of 128 rows of a stream, a model from scratch after so many steps of SGD. One line of JSON for each rule, weights,
//! share of rows and state of training; errors are means over batches, relative to the mean gradient's norm.

// A benchmark is made to read the clock.
#![allow(clippy::disallowed_methods)]

use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use domain::draw::Draw;
use domain::pipeline::{Pipeline, Selection};
use learn::Flat;
use learn::assemble::{Assembled, Sources, assemble};
use learn::data::{Dataset, Reader};
use learn::method::Learner;
use learn::model::Net;
use learn::selective::{Chosen, Selector, Sight};
use serde_json::{Value, json};
use store::streams::{Split, Stream};
use tch::{Device, Kind, Tensor};

const BATCH: usize = 128;
const RATE: f64 = 0.1;
/// Rule and weights.
const ARMS: [(&str, &str); 7] = [
    ("random", "equal"),
    ("random", "matched"),
    ("top-loss", "equal"),
    ("sb-fixed", "equal"),
    ("gradient-matching", "matched"),
    ("gradient-matching", "normalised"),
    ("gradient-matching", "equal"),
];

#[derive(Parser)]
struct Args {
    /// Of $PERENNIAL_DATA/streams
    #[arg(long, default_value = "fashion_mnist_class_5x2")]
    stream: String,
    /// From scratch
    #[arg(long, default_value = "mlp:100,100")]
    model: String,
    /// Steps after which rules are compared
    #[arg(long, value_delimiter = ',', default_value = "0,100,1000")]
    after: Vec<usize>,
    /// Batches a comparison
    #[arg(long, default_value_t = 10)]
    batches: usize,
    /// Cargo gives it to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let args = Args::parse();
    tch::set_num_threads(1);
    let Some(data) = std::env::var_os("PERENNIAL_DATA").map(PathBuf::from) else {
        println!("SKIPPED: PERENNIAL_DATA names no data");
        return;
    };
    let stream = Stream::open(&data.join(format!("streams/{}.json", args.stream)), None).expect("a stream");
    let mut bench = Bench::new(&stream, &args.model);
    let mut done = 0;
    for &steps in &args.after {
        (done..steps).for_each(|step| bench.descend(step));
        done = done.max(steps);
        let seen: Vec<Seen> = (0..args.batches as u64).map(|batch| bench.see(batch)).collect();
        for keep in [0.1, 0.25, 0.5] {
            for (rule, weights) in ARMS {
                let mut line = bench.compare(rule, weights, keep, &seen);
                line["model"] = json!(args.model);
                line["steps"] = json!(done);
                println!("{line}");
            }
        }
    }
}

/// A batch before any of its rows is chosen.
struct Seen {
    rows: Vec<i64>,
    /// (rows, values)
    gradients: Tensor,
    sight: Sight,
    /// What looking took.
    seconds: f64,
}

struct Bench {
    net: Net,
    weights: Flat,
    reader: Reader,
    rows: Dataset,
}

impl Bench {
    fn new(stream: &Stream, model: &str) -> Self {
        let spec = json!({"name": "bench", "model": model, "labels": stream.labels(), "method": "ft"});
        let pipeline: Pipeline = serde_json::from_value(spec).expect("a pipeline");
        let rows =
            (0..stream.tasks().len()).flat_map(|task| stream.task_rows(task, Split::Train, Some(4000)).expect("rows"));
        let rows: Vec<_> = rows.collect();
        let sources = Sources {
            pipeline: &pipeline,
            labels: &pipeline.labels,
            base: None,
            version: None,
            preprocessor: None,
            device: Device::Cpu,
            precision: pipeline.training.precision,
        };
        let Assembled { net, trained, reader } = assemble(sources, &rows[0]).expect("a model");
        let rows = reader.decode(&rows, "the stream", &pipeline.labels).expect("images");
        Self { net, weights: Flat::over(trained), reader, rows }
    }

    fn batch(&self, draw: Draw) -> Vec<i64> {
        let row = |place: usize| draw.at(place as u64).below(self.rows.len() as u64) as i64;
        (0..BATCH).map(row).collect()
    }

    /// One row's, by the net as it would be deployed.
    fn gradient(&self, row: i64) -> Tensor {
        let (inputs, labels) = self.rows.take(&[row]);
        let loss = self.net.forward(&self.reader.apply(inputs)).cross_entropy_for_logits(&labels);
        self.weights.descending(&self.weights.partial(&loss, &[]))
    }

    fn descend(&mut self, step: usize) {
        let (inputs, labels) = self.rows.take(&self.batch(Draw::new(1).at(step as u64)));
        let learner = Learner::new(&self.net, &self.weights, None);
        let loss = learner.forward(&self.reader.apply(inputs)).cross_entropy_for_logits(&labels);
        let (slope, _) = self.weights.slope(&self.weights.partial(&loss, &learner.measured()));
        let _guard = tch::no_grad_guard();
        let _ = self.weights.descending(&self.weights.values).g_sub_(&(self.weights.descending(&slope) * RATE));
        self.weights.follow(&slope);
    }

    fn look(&self, rows: &[i64]) -> Sight {
        let _guard = tch::no_grad_guard();
        let (inputs, labels) = self.rows.take(rows);
        let features = self.net.features(&self.reader.apply(inputs));
        Sight { logits: self.net.head.forward(&features), features, labels }
    }

    fn see(&self, batch: u64) -> Seen {
        let rows = self.batch(Draw::new(2).at(batch));
        let start = Instant::now();
        let sight = self.look(&rows);
        let seconds = start.elapsed().as_secs_f64();
        let gradients = Tensor::stack(&rows.iter().map(|&row| self.gradient(row)).collect::<Vec<_>>(), 0);
        Seen { rows, gradients, sight, seconds }
    }

    fn compare(&self, rule: &str, weights: &str, keep: f64, seen: &[Seen]) -> Value {
        let selection = json!({"rule": rule, "keep": keep, "weights": weights});
        let selection: Selection = serde_json::from_value(selection).expect("a rule");
        let selector = Selector::new(selection, Draw::new(3), Vec::new());
        let (mut last, mut all, mut looking, mut choosing) = (0.0, 0.0, 0.0, 0.0);
        for (batch, Seen { rows, gradients, sight, seconds }) in (0u64..).zip(seen) {
            let start = Instant::now();
            let chosen = selector.choose(batch, rows, selector.looks().then_some(sight));
            choosing += start.elapsed().as_secs_f64();
            looking += seconds;
            let (mean, estimate) = (gradients.mean_dim(&[0i64][..], false, Kind::Float), estimate(gradients, &chosen));
            all += error(&mean, &estimate);
            last += error(&self.head(&mean), &self.head(&estimate));
        }
        let per = 1.0 / seen.len() as f64;
        json!({
            "rule": rule, "weights": weights, "keep": keep,
            "error_last_layer": last * per, "error_all_layers": all * per,
            "choosing_share_of_forward": choosing / looking,
        })
    }

    /// Of a gradient, what belongs to the last layer.
    fn head(&self, gradient: &Tensor) -> Tensor {
        let head = self.weights.named().iter().filter(|(name, _)| name.starts_with("head."));
        let count = head.map(|(_, leaf)| leaf.numel() as i64).sum();
        // It is the last of what descends.
        gradient.narrow(0, gradient.numel() as i64 - count, count)
    }
}

/// Of the mean gradient, by the rows that were chosen out of all (rows, values).
fn estimate(gradients: &Tensor, chosen: &Chosen) -> Tensor {
    let index = Tensor::from_slice(&chosen.rows.iter().map(|&row| row as i64).collect::<Vec<_>>());
    let weights = chosen.weights.clone().unwrap_or_else(|| vec![1.0; chosen.rows.len()]);
    let sum = Tensor::from_slice(&weights).unsqueeze(0).matmul(&gradients.index_select(0, &index)).squeeze();
    sum / (BATCH as f64 * chosen.share)
}

fn error(mean: &Tensor, estimate: &Tensor) -> f64 {
    ((estimate - mean).norm() / mean.norm()).double_value(&[])
}
