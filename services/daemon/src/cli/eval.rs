//! `perennial eval`.

use comfy_table::Table;
use domain::id::PipelineName;
use domain::report::{Baseline, EvalReport, Score, average_accuracy, find};
use perennial_proto::v1;
use serde::Serialize;

use super::client::Context;
use super::failure::Failure;
use super::output::{Render, fields, percent, table, trim};

#[derive(clap::Subcommand)]
pub enum Verb {
    /// Show what the gate saw of a run: candidate and champion on the same items
    #[command(after_help = "Example:\n  perennial eval report tickets 7")]
    Report { pipeline: PipelineName, run: u64 },
    /// Show the accuracy on every task after every update
    #[command(after_help = "Example:\n  perennial eval matrix tickets")]
    Matrix {
        pipeline: PipelineName,
        /// Along the lineage of this version [default: of the one that the next run continues from]
        #[arg(long, value_name = "N")]
        version: Option<u64>,
    },
}

impl Verb {
    pub async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Report { pipeline, run } => report(ctx, &pipeline, run).await,
            Self::Matrix { pipeline, version } => matrix(ctx, &pipeline, version).await,
        }
    }
}

async fn report(ctx: &Context, pipeline: &PipelineName, run: u64) -> Result<(), Failure> {
    let request = ctx.request(v1::GetReportRequest { run: format!("{}/runs/{run}", ctx.pipeline(pipeline)) });
    let response = ctx.evaluations().await?.get_report(request).await?.into_inner();
    let report: EvalReport = serde_json::from_slice(&response.report_json)
        .map_err(|error| Failure::Failed(format!("the server's report cannot be read: {error}")))?;
    ctx.show(&ReportView::new(pipeline, run, report))
}

async fn matrix(ctx: &Context, pipeline: &PipelineName, version: Option<u64>) -> Result<(), Failure> {
    let request =
        ctx.request(v1::GetMatrixRequest { pipeline: ctx.pipeline(pipeline), version: version.unwrap_or_default() });
    let response = ctx.evaluations().await?.get_matrix(request).await?.into_inner();
    ctx.show(&MatrixView::new(pipeline, response))
}

#[derive(Serialize)]
struct ReportView {
    pipeline: String,
    run: u64,
    verdict: &'static str,
    reasons: Vec<String>,
    /// None: the base model with its initial head.
    baseline_version: Option<u64>,
    average_accuracy: Option<f64>,
    baseline_average_accuracy: Option<f64>,
    tasks: Vec<TaskView>,
}

#[derive(Serialize)]
struct TaskView {
    task: String,
    eval_set: u64,
    items: u64,
    accuracy: f64,
    loss: Option<f64>,
    baseline_accuracy: Option<f64>,
}

impl ReportView {
    fn new(pipeline: &PipelineName, run: u64, report: EvalReport) -> Self {
        let baseline_version = match report.baseline {
            Baseline::Base => None,
            Baseline::Version(version) => Some(version.0),
        };
        let task = |score: &Score| TaskView {
            task: score.task.to_string(),
            eval_set: score.eval_set,
            items: score.items,
            accuracy: score.accuracy(),
            loss: Some(score.loss).filter(|loss| loss.is_finite()),
            baseline_accuracy: find(&report.baseline_scores, &score.task).map(Score::accuracy),
        };
        Self {
            pipeline: pipeline.to_string(),
            run,
            verdict: report.verdict.name(),
            reasons: report.verdict.reasons().to_vec(),
            baseline_version,
            average_accuracy: average_accuracy(&report.candidate_scores),
            baseline_average_accuracy: average_accuracy(&report.baseline_scores),
            tasks: report.candidate_scores.iter().map(task).collect(),
        }
    }
}

impl Render for ReportView {
    fn text(&self) -> String {
        let against = self.baseline_version.map_or("the base model".to_owned(), |version| format!("v{version}"));
        let head = fields([
            ("run", format!("{} of {}", self.run, self.pipeline)),
            ("verdict", self.verdict.to_owned()),
            ("reasons", self.reasons.join("\n")),
            ("compared with", against),
        ]);
        let change = |now: Option<f64>, before: Option<f64>| match (now, before) {
            (Some(now), Some(before)) => format!("{:+.1}", 100.0 * (now - before)),
            _ => "-".to_owned(),
        };
        let mut rows: Vec<_> = self
            .tasks
            .iter()
            .map(|t| {
                let (now, before) = (Some(t.accuracy), t.baseline_accuracy);
                [t.task.clone(), t.items.to_string(), percent(before), percent(now), change(now, before)]
            })
            .collect();
        let (now, before) = (self.average_accuracy, self.baseline_average_accuracy);
        rows.push(["average".to_owned(), String::new(), percent(before), percent(now), change(now, before)]);
        format!("{head}\n\n{}", table(["task", "items", "before", "candidate", "change"], rows, ""))
    }
}

#[derive(Serialize)]
struct MatrixView {
    pipeline: String,
    tasks: Vec<String>,
    /// Of each row.
    versions: Vec<u64>,
    /// `accuracy_matrix[j][i]`: on task `i` after update `j`; null where it was not measured.
    accuracy_matrix: Vec<Vec<Option<f64>>>,
    /// Where a task had merged into the archive: the accuracy is that of the archive.
    archived: Vec<Vec<bool>>,
    initial: Option<Vec<Option<f64>>>,
    average_accuracy: Option<f64>,
    average_incremental_accuracy: Option<f64>,
    forgetting: Option<f64>,
    backward_transfer: Option<f64>,
    forward_transfer: Option<f64>,
    learning_accuracy: Option<f64>,
}

impl MatrixView {
    fn new(pipeline: &PipelineName, wire: v1::GetMatrixResponse) -> Self {
        let cells = |row: v1::MatrixRow| row.cells.into_iter().map(|cell| cell.accuracy).collect::<Vec<_>>();
        let archived = |row: &v1::MatrixRow| row.cells.iter().map(|cell| cell.archived).collect();
        Self {
            archived: wire.rows.iter().map(archived).collect(),
            pipeline: pipeline.to_string(),
            tasks: wire.tasks,
            versions: wire.rows.iter().map(|row| row.version).collect(),
            accuracy_matrix: wire.rows.into_iter().map(cells).collect(),
            initial: wire.initial.map(cells),
            average_accuracy: wire.average_accuracy,
            average_incremental_accuracy: wire.average_incremental_accuracy,
            forgetting: wire.forgetting,
            backward_transfer: wire.backward_transfer,
            forward_transfer: wire.forward_transfer,
            learning_accuracy: wire.learning_accuracy,
        }
    }
}

impl Render for MatrixView {
    fn text(&self) -> String {
        if self.versions.is_empty() {
            return format!("`{}` has no versions yet", self.pipeline);
        }
        let mut grid = Table::new();
        grid.load_style(comfy_table::presets::NOTHING);
        grid.set_header(["AFTER".to_owned()].into_iter().chain(self.tasks.iter().cloned()));
        if let Some(cells) = &self.initial {
            grid.add_row(["base".to_owned()].into_iter().chain(cells.iter().map(|cell| percent(*cell))));
        }
        for ((version, cells), archived) in self.versions.iter().zip(&self.accuracy_matrix).zip(&self.archived) {
            let marked = |(cell, archived): (&Option<f64>, &bool)| {
                format!("{}{}", if *archived { "~" } else { "" }, percent(*cell))
            };
            grid.add_row([format!("v{version}")].into_iter().chain(cells.iter().zip(archived).map(marked)));
        }
        let figures = fields([
            ("average accuracy", percent(self.average_accuracy)),
            ("average incremental accuracy", percent(self.average_incremental_accuracy)),
            ("forgetting", percent(self.forgetting)),
            ("backward transfer", percent(self.backward_transfer)),
            ("forward transfer", percent(self.forward_transfer)),
            ("learning accuracy", percent(self.learning_accuracy)),
        ]);
        let merged = self.archived.iter().flatten().any(|archived| *archived);
        let legend = if merged { "\n~ merged into the archive: its accuracy over all its tasks" } else { "" };
        format!("{}{legend}\n\n{figures}", trim(&grid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::report::Verdict;

    fn score(correct: u64) -> Score {
        Score {
            task: "june".parse().unwrap(),
            eval_set: 1,
            digest: "d".into(),
            items: 200,
            correct,
            loss: f64::INFINITY,
        }
    }

    #[test]
    fn a_report_shows_both_sides_and_the_difference() {
        let report = EvalReport {
            baseline: Baseline::Base,
            candidate_scores: vec![score(150)],
            baseline_scores: vec![score(160)],
            verdict: Verdict::Fail { reasons: vec!["task `june` fell".to_owned()] },
        };
        let view = ReportView::new(&"tickets".parse().unwrap(), 7, report);
        let text = view.text();
        assert!(text.contains("june     200    80.0 %  75.0 %     -5.0"), "{text}");
        let json = serde_json::to_value(&view).unwrap();
        assert_eq!((&json["verdict"], &json["tasks"][0]["accuracy"]), (&"FAIL".into(), &0.75.into()));
        assert!(json["baseline_version"].is_null() && json["tasks"][0]["loss"].is_null());
    }

    #[test]
    fn a_matrix_keeps_its_shape() {
        let row = |version, cells: &[Option<f64>]| v1::MatrixRow {
            version,
            cells: cells.iter().map(|&accuracy| v1::MatrixCell { accuracy, archived: accuracy == Some(0.8) }).collect(),
        };
        let wire = v1::GetMatrixResponse {
            tasks: vec!["a".into(), "b".into()],
            rows: vec![row(1, &[Some(0.9), None]), row(3, &[Some(0.8), Some(0.7)])],
            ..Default::default()
        };
        let view = MatrixView::new(&"tickets".parse().unwrap(), wire);
        let json = serde_json::to_value(&view).unwrap();
        assert_eq!(json["accuracy_matrix"], serde_json::json!([[0.9, null], [0.8, 0.7]]));
        assert!(view.text().contains("v1     90.0 %   -"), "{}", view.text());
        assert!(view.text().contains("~80.0 %") && view.text().contains("merged into the archive"), "{}", view.text());
    }
}
