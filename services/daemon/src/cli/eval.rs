//! `perennial eval`.

use comfy_table::Table;
use domain::calibration::Calibration;
use domain::flips::{Figures, Flips};
use domain::id::PipelineName;
use domain::report::{EvalReport, Score, average_accuracy, calibration, find};
use perennial_proto::v1;
use serde::Serialize;

use super::client::Context;
use super::failure::Failure;
use super::output::{Render, fields, or_dash, percent, table, trim};

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
    /// Over all items.
    #[serde(flatten)]
    answers: Answers,
    tasks: Vec<TaskView>,
}

/// What became of single answers, and whether they were as sure as they are right.
#[derive(Serialize)]
struct Answers {
    expected_calibration_error: Option<f64>,
    brier_score: Option<f64>,
    /// None where the baseline is the base model, or from before they were recorded.
    flips: Option<Figures>,
}

impl Answers {
    fn new(calibration: Option<&Calibration>, flips: Option<Flips>) -> Self {
        Self {
            expected_calibration_error: calibration.and_then(Calibration::expected_error),
            brier_score: calibration.and_then(Calibration::brier_score),
            flips: flips.map(Figures::from),
        }
    }

    fn is_empty(&self) -> bool {
        self.expected_calibration_error.is_none() && self.flips.is_none()
    }

    fn row(&self, of: &str) -> [String; 7] {
        let flips = |figure: fn(&Figures) -> f64| percent(self.flips.as_ref().map(figure));
        [
            of.to_owned(),
            percent(self.expected_calibration_error),
            or_dash(self.brier_score.map(|score| format!("{score:.3}"))),
            flips(|of| of.negative_flip_rate),
            flips(|of| of.negative_flip_impact),
            flips(|of| of.positive_flip_rate),
            flips(|of| of.positive_flip_impact),
        ]
    }
}

#[derive(Serialize)]
struct TaskView {
    task: String,
    eval_set: u64,
    items: u64,
    accuracy: f64,
    loss: Option<f64>,
    baseline_accuracy: Option<f64>,
    #[serde(flatten)]
    answers: Answers,
}

impl ReportView {
    fn new(pipeline: &PipelineName, run: u64, report: EvalReport) -> Self {
        let task = |score: &Score| TaskView {
            task: score.task.to_string(),
            eval_set: score.eval_set,
            items: score.items,
            accuracy: score.accuracy(),
            loss: Some(score.loss).filter(|loss| loss.is_finite()),
            baseline_accuracy: find(&report.baseline_scores, &score.task).map(Score::accuracy),
            answers: Answers::new(score.calibration.as_ref(), report.flips_of(score)),
        };
        Self {
            pipeline: pipeline.to_string(),
            run,
            verdict: report.verdict.name(),
            reasons: report.verdict.reasons().to_vec(),
            baseline_version: report.compared_with().map(|version| version.0),
            average_accuracy: average_accuracy(&report.candidate_scores),
            baseline_average_accuracy: average_accuracy(&report.baseline_scores),
            answers: Answers::new(calibration(&report.candidate_scores).as_ref(), report.flips()),
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
        let accuracies = table(["task", "items", "before", "candidate", "change"], rows, "");
        format!("{head}\n\n{accuracies}{}", self.answers())
    }
}

impl ReportView {
    /// Calibration and flips, where anything is known of them.
    fn answers(&self) -> String {
        let tasks = || self.tasks.iter().map(|task| &task.answers);
        if tasks().all(Answers::is_empty) {
            return String::new();
        }
        let names = self.tasks.iter().map(|task| task.task.as_str());
        let rows = names.zip(tasks()).chain([("all items", &self.answers)]).map(|(of, answers)| answers.row(of));
        format!("\n\n{}", table(["task", "ece", "brier", "nfr", "nfi", "pfr", "pfi"], rows, ""))
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
    use domain::calibration::Answer;
    use domain::id::Version;
    use domain::report::{Baseline, Verdict};

    fn score(correct: u64) -> Score {
        Score {
            task: "june".parse().unwrap(),
            eval_set: 1,
            digest: "d".into(),
            items: 200,
            correct,
            loss: f64::INFINITY,
            calibration: None,
            right: None,
        }
    }

    /// The first `correct` items right, each with a confidence of 0.9, but for `broken` of them.
    fn answered(correct: u64, broken: u64) -> Score {
        let right: Vec<bool> = (0..200).map(|item| (broken..correct).contains(&item)).collect();
        let answer = |right: &bool| Answer { confidence: 0.9, right: *right, brier: 0.5 };
        Score {
            loss: 0.5,
            calibration: Calibration::of(right.iter().map(answer)),
            right: Some(right.into_iter().collect()),
            ..score(correct - broken)
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
        assert!(
            json["flips"].is_null() && json["expected_calibration_error"].is_null() && !text.contains("ECE"),
            "{text}"
        );
    }

    #[test]
    fn a_report_says_what_flipped_and_how_sure_answers_were() {
        let report = EvalReport {
            baseline: Baseline::Version(Version(3)),
            candidate_scores: vec![answered(170, 10)],
            baseline_scores: vec![answered(150, 0)],
            verdict: Verdict::Pass,
        };
        let view = ReportView::new(&"tickets".parse().unwrap(), 7, report);
        let text = view.text();
        // 10 broken of 40 errors, 20 mended of 160 right answers; 0.9 sure and 0.8 right.
        let figures = "10.0 %  0.500  5.0 %  25.0 %  10.0 %  12.5 %";
        assert!(text.contains("TASK       ECE     BRIER  NFR    NFI     PFR     PFI"), "{text}");
        assert!(
            text.contains(&format!("june       {figures}")) && text.contains(&format!("all items  {figures}")),
            "{text}"
        );
        let json = serde_json::to_value(&view).unwrap();
        for of in [&json, &json["tasks"][0]] {
            let flips = &of["flips"];
            assert_eq!((&flips["items"], &flips["negative_flip_rate"]), (&200.into(), &0.05.into()));
            assert_eq!((&flips["negative_flip_impact"], &of["brier_score"]), (&0.25.into(), &0.5.into()));
            assert_eq!((&flips["positive_flip_rate"], &flips["positive_flip_impact"]), (&0.1.into(), &0.125.into()));
            assert!((of["expected_calibration_error"].as_f64().unwrap() - 0.1).abs() < 1e-9, "{of}");
        }
        let accuracy = |of: &str| json["tasks"][0][of].as_f64().unwrap();
        assert!((0.05 - 0.1 - (accuracy("baseline_accuracy") - accuracy("accuracy"))).abs() < 1e-12);
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
