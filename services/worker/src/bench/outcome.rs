//! What `bench` prints. Field names are the JSON's keys, which scripts rely on.

use domain::manifest::Cost;
use domain::matrix::AccuracyMatrix;
use domain::pipeline::{Method, Precision, Selection, Spec};
use serde::Serialize;
use serde_json::{Value, json};

use super::evaluation::Evaluation;
use super::stability::Stability;

use super::Args;
use super::flags::{percent, table};
use crate::scores::{Answers, Spread, mean_matrix};

#[derive(Serialize)]
pub struct Outcome {
    stream: String,
    method: Method,
    settings: Value,
    pub runs: Vec<Run>,
    average_accuracy: Spread,
    forgetting: Spread,
    /// Of which rows are back-propagated; None where all are.
    #[serde(skip_serializing_if = "Option::is_none")]
    selection: Option<Selected>,
}

/// What a choice of rows saves.
#[derive(Serialize)]
struct Selected {
    #[serde(flatten)]
    selection: Selection,
    /// How much less than a whole step a step computes, a backward pass being two forward passes.
    speedup: f64,
}

impl Selected {
    fn new(selection: Selection) -> Option<Self> {
        (!selection.is_all()).then(|| Self { selection, speedup: selection.speedup() })
    }

    fn text(&self) -> String {
        let Self { selection, speedup } = self;
        let (rule, keep) = (selection.rule.name(), percent(Some(selection.keep.get())));
        let looks = if selection.looks() { ", after a forward pass of all" } else { "" };
        format!("\n\n{rule} back-propagates {keep} % of new rows{looks}: a step computes {speedup:.2} times less")
    }
}

/// One seed.
#[derive(Serialize)]
pub struct Run {
    pub seed: u64,
    pub accuracy_matrix: AccuracyMatrix,
    average_accuracy: Option<f64>,
    /// Each test row weighs the same, instead of each task.
    micro_average_accuracy: Option<f64>,
    average_incremental_accuracy: Option<f64>,
    forgetting: Option<f64>,
    backward_transfer: Option<f64>,
    forward_transfer: Option<f64>,
    learning_accuracy: Option<f64>,
    /// After the last update, over all items it was measured on; flips are those of that update.
    #[serde(flatten)]
    pub answers: Answers,
    /// After each update.
    pub evaluations: Vec<Evaluation>,
    /// With `--eval-every`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stability: Option<Stability>,
    #[serde(flatten)]
    spent: Spent,
    /// Of the last version.
    weights_sha256: String,
}

/// What a seed took.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Spent {
    pub steps: u64,
    /// Left out of a step because the net's answers to them were no numbers.
    pub dropped_rows: u64,
    /// Update by update, where it is measured: how far the buffer's gradient is from that of everything offered.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub memory_residuals: Vec<f64>,
    /// Of frozen linear layers, update by update: what `auto` came to.
    pub precisions: Vec<Precision>,
    pub seconds: Seconds,
    /// Largest resident set of a rank: host memory, on a GPU too.
    pub peak_memory_bytes: u64,
}

impl Spent {
    /// An update's.
    pub fn add(&mut self, cost: &Cost) {
        self.steps += cost.steps;
        self.dropped_rows += cost.dropped_rows;
        self.memory_residuals.extend(cost.memory_residual);
        self.precisions.push(cost.precision);
        self.seconds.train += cost.train_seconds;
        self.seconds.rehearsal += cost.rehearsal_seconds;
        self.peak_memory_bytes = self.peak_memory_bytes.max(cost.peak_memory_bytes);
    }
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Seconds {
    /// From before the first step of each update to after its last.
    pub train: f64,
    /// Of those, the rehearsal buffer's draws and offers.
    pub rehearsal: f64,
    /// Of versions, and within updates.
    pub evaluate: f64,
}

/// What a seed found.
#[derive(Default)]
pub struct Found {
    pub matrix: AccuracyMatrix,
    /// The accuracy before the first update, where that is worth comparing with.
    pub initial: Option<Vec<Option<f64>>>,
    pub evaluations: Vec<Evaluation>,
    pub stability: Option<Stability>,
    pub spent: Spent,
    /// Of the last version.
    pub weights_sha256: String,
}

impl Run {
    /// `items` are the tasks' test rows.
    pub fn new(seed: u64, items: &[u64], found: Found) -> Self {
        let Found { matrix, initial, evaluations, stability, spent, weights_sha256 } = found;
        Self {
            seed,
            average_accuracy: matrix.average_accuracy(),
            micro_average_accuracy: matrix.micro_average_accuracy(items),
            average_incremental_accuracy: matrix.average_incremental_accuracy(),
            forgetting: matrix.forgetting(),
            backward_transfer: matrix.backward_transfer(),
            forward_transfer: initial.and_then(|initial| matrix.forward_transfer(&initial)),
            learning_accuracy: matrix.learning_accuracy(),
            answers: evaluations.last().map(|last| last.answers).unwrap_or_default(),
            evaluations,
            stability,
            accuracy_matrix: matrix,
            spent,
            weights_sha256,
        }
    }
}

impl Outcome {
    pub fn new(stream: &str, spec: &Spec, args: &Args, runs: Vec<Run>) -> Self {
        let figures = |of: fn(&Run) -> Option<f64>| Spread::over(runs.iter().filter_map(of));
        Self {
            stream: stream.to_owned(),
            method: spec.method,
            settings: settings(spec, args),
            average_accuracy: figures(|run| run.average_accuracy),
            forgetting: figures(|run| run.forgetting),
            selection: Selected::new(spec.training.selection),
            runs,
        }
    }

    pub fn title(&self) -> String {
        format!("{}, {}", self.stream, self.settings["method"].as_str().unwrap_or_default())
    }

    pub fn text(&self, tasks: &[String]) -> String {
        let matrices: Vec<&AccuracyMatrix> = self.runs.iter().map(|run| &run.accuracy_matrix).collect();
        let mean = mean_matrix(&matrices);
        let columns = ["after".to_owned()].into_iter().chain(tasks.iter().cloned());
        let together = ["all at once".to_owned()];
        let updates = if self.settings["at_once"] == true { &together } else { tasks };
        let rows = mean.rows.iter().zip(updates).map(|(row, task)| {
            let cells = row.iter().map(|accuracy| percent(*accuracy));
            [task.clone()].into_iter().chain(cells).collect::<Vec<_>>()
        });
        let of = if self.runs.len() == 1 { String::new() } else { format!(", mean of {} seeds", self.runs.len()) };
        format!(
            "{}: accuracy in % on each task{of}\n\n{}\n\n{}\n\naverage accuracy {} %, forgetting {} %{}",
            self.title(),
            table(columns, rows),
            self.figures(),
            self.average_accuracy.percent(),
            self.forgetting.percent(),
            self.selection.as_ref().map(Selected::text).unwrap_or_default(),
        )
    }

    fn figures(&self) -> String {
        let within = self.runs.iter().any(|run| run.stability.is_some());
        let columns = ["seed", "average", "incremental", "forgetting", "backward", "forward", "learning"];
        let columns = columns.into_iter().chain(["ece", "nfr", "pfr"]);
        let columns = columns.chain(within.then_some(["min-acc", "wc-acc"]).into_iter().flatten());
        let columns = columns.chain(["train s", "peak MiB", "weights"]);
        let rows = self.runs.iter().map(|run| {
            let figures = [
                run.average_accuracy,
                run.average_incremental_accuracy,
                run.forgetting,
                run.backward_transfer,
                run.forward_transfer,
                run.learning_accuracy,
                run.answers.expected_calibration_error,
                run.answers.negative_flip_rate(),
                run.answers.positive_flip_rate(),
            ];
            let within = run.stability.iter().flat_map(Stability::figures);
            let rest = [
                format!("{:.1}", run.spent.seconds.train),
                (run.spent.peak_memory_bytes >> 20).to_string(),
                run.weights_sha256.chars().take(12).collect(),
            ];
            [run.seed.to_string()]
                .into_iter()
                .chain(figures.into_iter().chain(within).map(percent))
                .chain(rest)
                .collect::<Vec<_>>()
        });
        table(columns, rows)
    }
}

/// The pipeline without what the bench does not vary, and the flags that are no part of it.
fn settings(spec: &Spec, args: &Args) -> Value {
    json!({
        "model": spec.model, "adapter": spec.adapter, "method": spec.method, "loss": spec.loss,
        "input": spec.input, "rehearsal": rehearsal(spec), "training": training(spec), "resources": spec.resources,
        "limit_per_task": args.limit_per_task, "no_future": args.no_future, "at_once": args.at_once, "eval_every": args.eval_every,
    })
}

/// With what defaults come to.
fn rehearsal(spec: &Spec) -> Value {
    let mut rehearsal = json!(spec.rehearsal);
    rehearsal["policy"] = json!(spec.policy());
    rehearsal["update"] = json!(spec.buffer_update());
    rehearsal
}

fn training(spec: &Spec) -> Value {
    let mut training = json!(spec.training);
    if let Some(fields) = training.as_object_mut() {
        fields.retain(|name, _| !name.starts_with("checkpoint"));
        fields.insert("micro_batches".to_owned(), json!(spec.training.micro_batches()));
    }
    training
}
