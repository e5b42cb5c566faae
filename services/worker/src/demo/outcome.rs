//! What the demo found: as JSON, as text, and as the report's page.

use std::path::Path;

use domain::matrix::AccuracyMatrix;
use serde::Serialize;

use super::arm::{FINE_TUNE, Learned, PERENNIAL, Published, Refused};
use super::story::Moved;
use crate::report::{self, Pictures, Refusal, Report, Table, percent};

/// Its fields are the keys of the JSON document, which scripts rely on.
#[derive(Serialize)]
struct Document<'a> {
    arms: Arms<'a>,
    versions: Vec<&'a Published>,
    refused: Vec<&'a Refused>,
    report: &'a Path,
}

#[derive(Serialize)]
struct Arms<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    perennial: Option<Figures<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fine_tune: Option<Figures<'a>>,
}

#[derive(Serialize)]
struct Figures<'a> {
    accuracy_matrix: &'a AccuracyMatrix,
    average_accuracy: Option<f64>,
    forgetting: Option<f64>,
}

/// What happened, before it is told.
pub struct Outcome {
    pub title: String,
    /// A paragraph each.
    pub story: Vec<String>,
    pub arms: Vec<Learned>,
    pub pictures: Vec<Pictures>,
    pub moved: Option<Moved>,
}

impl Outcome {
    fn refused(&self) -> impl Iterator<Item = &Refused> {
        self.arms.iter().flat_map(|arm| &arm.refused)
    }

    fn versions(&self) -> impl Iterator<Item = &Published> {
        self.arms.iter().flat_map(|arm| &arm.versions)
    }

    pub fn json(&self, report: &Path) -> String {
        let figures = |pipeline: &str| {
            let arm = self.arms.iter().find(|arm| arm.pipeline == pipeline)?;
            Some(Figures {
                accuracy_matrix: &arm.matrix,
                average_accuracy: arm.matrix.average_accuracy(),
                forgetting: arm.matrix.forgetting(),
            })
        };
        let document = Document {
            arms: Arms { perennial: figures(PERENNIAL), fine_tune: figures(FINE_TUNE) },
            versions: self.versions().collect(),
            refused: self.refused().collect(),
            report,
        };
        serde_json::to_string_pretty(&document).expect("string keys and finite or missing numbers")
    }

    pub fn text(&self, report: &Path) -> String {
        let mut text = String::new();
        for arm in &self.arms {
            text.push_str(&format!("\n{}\n{}", arm.title, matrix(arm)));
            let (average, forgetting) = (arm.matrix.average_accuracy(), arm.matrix.forgetting());
            text.push_str(&format!("  average accuracy {}, forgetting {}\n", percent(average), percent(forgetting)));
        }
        text.push_str("\nPublished\n");
        for arm in &self.arms {
            text.push_str(&format!("  {:<10} {}\n", arm.pipeline, line_of(&arm.versions)));
        }
        for refused in self.refused() {
            text.push_str(&format!("\nRefused: {}, {} run {}\n", refused.what, refused.pipeline, refused.run));
            refused.reasons.iter().for_each(|reason| text.push_str(&format!("  {reason}\n")));
        }
        if let Some(moved) = &self.moved {
            text.push_str(&format!("\n{}\n", moved.sentence()));
        }
        format!("{text}\nReport: {}", report.display())
    }

    pub fn page(&self) -> Report {
        let arm = |arm: &Learned| report::Arm {
            name: arm.title.clone(),
            tasks: arm.tasks.clone(),
            matrix: arm.matrix.clone(),
            answers: arm.versions.iter().map(|version| version.answers).collect(),
            within: None,
        };
        let refusal = |refused: &Refused| Refusal {
            what: format!("{} → {}, run {}", refused.what, refused.pipeline, refused.run),
            reasons: refused.reasons.clone(),
        };
        let mut story = self.story.clone();
        story.extend(self.moved.as_ref().map(Moved::sentence));
        Report {
            title: self.title.clone(),
            story,
            pictures: self.pictures.clone(),
            arms: self.arms.iter().map(arm).collect(),
            refused: self.refused().map(refusal).collect(),
            tables: vec![self.published()],
        }
    }

    fn published(&self) -> Table {
        let row = |version: &Published| {
            vec![
                version.pipeline.clone(),
                format!("v{:04}", version.version),
                version.parent.map_or_else(|| "base model".to_owned(), |parent| format!("v{parent:04}")),
                percent(version.average_over_all_tasks),
                version.verdict.clone(),
                version.aliases.join(", "),
                version.weights_sha256.chars().take(12).collect(),
            ]
        };
        Table {
            heading: "Published versions".to_owned(),
            columns: vec!["pipeline", "version", "continues", "average over all tasks", "gate", "alias", "weights"],
            rows: self.versions().map(row).collect(),
        }
    }
}

impl Moved {
    fn sentence(&self) -> String {
        let (from, to) = (self.from, self.to);
        let (back, forward) = (self.back.as_secs_f64(), self.forward.as_secs_f64());
        format!("Rolled back to v{to:04} in {back:.3} s and forward to v{from:04} in {forward:.3} s, without a worker.")
    }
}

/// Accuracy in per cent, right-aligned under the tasks' names.
fn matrix(arm: &Learned) -> String {
    let name = |update: usize| format!("{} {}", update + 1, arm.tasks.get(update).map_or("", String::as_str));
    let names: Vec<String> = (0..arm.matrix.rows.len()).map(name).collect();
    let left = names.iter().map(|name| name.chars().count()).chain([5]).max().unwrap_or(0);
    let widths: Vec<usize> = arm.tasks.iter().map(|task| task.chars().count().max(5)).collect();
    let columns = |cells: &[String]| -> String {
        cells.iter().zip(&widths).map(|(cell, &width)| format!("  {cell:>width$}")).collect()
    };
    let mut text = format!("  {:<left$}{}\n", "after", columns(&arm.tasks));
    for (name, row) in names.iter().zip(&arm.matrix.rows) {
        let cell = |value: &Option<f64>| value.map_or_else(|| "·".to_owned(), |value| format!("{:.1}", 100.0 * value));
        let cells: Vec<String> = row.iter().map(cell).collect();
        text.push_str(&format!("  {name:<left$}{}\n", columns(&cells)));
    }
    text
}

/// Such as `v0001 to v0005, champion v0005; 3 of 5 against the gate's advice`.
fn line_of(versions: &[Published]) -> String {
    let mut text = match versions {
        [] => return "nothing".to_owned(),
        [only] => format!("v{:04}", only.version),
        [first, .., last] => format!("v{:04} to v{:04}", first.version, last.version),
    };
    for alias in ["champion", "challenger"] {
        if let Some(holder) = versions.iter().find(|version| version.aliases.iter().any(|name| name == alias)) {
            text.push_str(&format!(", {alias} v{:04}", holder.version));
        }
    }
    let doubtful = versions.iter().filter(|version| version.verdict != "PASS").count();
    if doubtful > 0 {
        text.push_str(&format!("; the gate (which only reports here) says no to {doubtful} of {}", versions.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scores::Answers;
    use std::time::Duration;

    fn learned(pipeline: &str) -> Learned {
        let version = |number: u64| Published {
            pipeline: pipeline.to_owned(),
            version: number,
            parent: (number > 1).then(|| number - 1),
            run: number,
            verdict: if number == 1 { "PASS" } else { "FAIL" }.to_owned(),
            aliases: if number == 2 { vec!["champion".to_owned()] } else { vec![] },
            average_over_all_tasks: Some(0.5),
            answers: Answers { expected_calibration_error: Some(0.073), ..Answers::default() },
            compared_with: (number > 1).then_some(1),
            weights_sha256: "ab".repeat(32),
            folder: format!("adapters/default/{pipeline}-v{number:04}"),
        };
        Learned {
            pipeline: pipeline.to_owned(),
            title: format!("Arm {pipeline}"),
            tasks: vec!["thick".to_owned(), "inverted".to_owned()],
            matrix: AccuracyMatrix::of_stream(vec![vec![Some(0.9), None], vec![Some(0.625), Some(0.75)]]),
            versions: vec![version(1), version(2)],
            refused: vec![Refused {
                pipeline: pipeline.to_owned(),
                run: 3,
                what: "thick, labels shuffled".to_owned(),
                chunks: vec!["c1".to_owned()],
                reasons: vec!["task `thick` fell from 0.6250 to 0.1000; max_forgetting is 0.1".to_owned()],
            }],
        }
    }

    fn outcome(pipelines: &[&str]) -> Outcome {
        Outcome {
            title: "Demo".to_owned(),
            story: vec![],
            arms: pipelines.iter().map(|pipeline| learned(pipeline)).collect(),
            pictures: vec![],
            moved: Some(Moved { from: 2, to: 1, back: Duration::from_millis(12), forward: Duration::from_millis(9) }),
        }
    }

    fn keys(value: &serde_json::Value) -> Vec<&str> {
        let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn the_document_has_the_promised_keys_and_no_others() {
        let text = outcome(&[PERENNIAL, FINE_TUNE]).json(Path::new("/tmp/r.html"));
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(keys(&document), ["arms", "refused", "report", "versions"]);
        assert_eq!(keys(&document["arms"]), ["fine_tune", "perennial"]);
        assert_eq!(keys(&document["arms"]["perennial"]), ["accuracy_matrix", "average_accuracy", "forgetting"]);
        assert_eq!(document["arms"]["perennial"]["accuracy_matrix"][1][0], 0.625);
        assert_eq!(document["arms"]["perennial"]["average_accuracy"], 0.6875);
        assert_eq!(document["report"], "/tmp/r.html");
        assert!(document["refused"][0]["reasons"][0].as_str().unwrap().contains("max_forgetting"));
        assert_eq!(document["versions"].as_array().unwrap().len(), 4);
    }

    #[test]
    fn without_a_baseline_there_is_one_arm() {
        let document: serde_json::Value = serde_json::from_str(&outcome(&[PERENNIAL]).json(Path::new(""))).unwrap();
        assert_eq!(keys(&document["arms"]), ["perennial"]);
    }

    #[test]
    fn the_text_lines_up_and_says_what_was_refused_and_why() {
        let text = outcome(&[PERENNIAL]).text(Path::new("/tmp/r.html"));
        let expected = "  after       thick  inverted\n  1 thick      90.0         ·\n  2 inverted   62.5      75.0\n";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("average accuracy 68.8 %, forgetting 27.5 %"), "{text}");
        assert!(
            text.contains("v0001 to v0002, champion v0002; the gate (which only reports here) says no to 1 of 2"),
            "{text}"
        );
        assert!(text.contains("Refused: thick, labels shuffled, perennial run 3\n  task `thick` fell"), "{text}");
        assert!(text.ends_with("Report: /tmp/r.html"), "{text}");
    }

    #[test]
    fn the_page_holds_versions_refusals_and_the_way_back() {
        let page = outcome(&[PERENNIAL, FINE_TUNE]).page().html();
        for text in ["v0002", "abababababab", "7.3 %", "thick, labels shuffled", "Rolled back to v0001", "62.5"] {
            assert!(page.contains(text), "{text}");
        }
    }
}
