//! A report as one HTML file: matrices as heat maps, accuracy over updates, what became of it.
//!
//! It refers to nothing outside itself and runs no script, so that it can be mailed, archived and
//! opened anywhere. It knows results, not where they come from.

mod answers;
mod chart;
mod heat_map;
mod within;

use std::path::{Path, PathBuf};

use anyhow::Context;
use domain::matrix::AccuracyMatrix;
use domain::stability::Trace;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::scores::Answers;

const STYLE: &str = include_str!("report/style.css");

/// One way of learning a stream, and how it went.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    pub name: String,
    /// The matrix's columns.
    pub tasks: Vec<String>,
    pub matrix: AccuracyMatrix,
    /// After each update, over all held-out items.
    pub answers: Vec<Answers>,
    /// Accuracies within updates, where they were measured.
    pub within: Option<Trace>,
}

/// A table of plain text.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub heading: String,
    pub columns: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
}

/// What the gate refused, and why.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub what: String,
    pub reasons: Vec<String>,
}

/// Pictures of one kind, as PNG files.
#[derive(Clone, Debug)]
pub struct Pictures {
    pub caption: String,
    pub png: Vec<Vec<u8>>,
}

#[derive(Clone, Debug, Default)]
pub struct Report {
    pub title: String,
    /// What was done, a paragraph each.
    pub story: Vec<String>,
    pub pictures: Vec<Pictures>,
    pub arms: Vec<Arm>,
    pub refused: Vec<Refusal>,
    pub tables: Vec<Table>,
}

/// Writes `report.html` with the arms' matrices and figures into `dir`.
pub fn write(dir: &Path, title: &str, arms: &[Arm]) -> anyhow::Result<PathBuf> {
    let report = Report { title: title.to_owned(), arms: arms.to_vec(), ..Report::default() };
    report.write(&dir.join("report.html"))
}

/// `81.2 %`, or a dash for what was not measured.
pub fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "–".to_owned(), |share| format!("{:.1} %", 100.0 * share))
}

impl Report {
    /// Writes the page to `file`, whose folder is made if need be.
    pub fn write(&self, file: &Path) -> anyhow::Result<PathBuf> {
        let written = || -> std::io::Result<PathBuf> {
            let file = std::path::absolute(file)?;
            std::fs::create_dir_all(file.parent().unwrap_or(&file))?;
            std::fs::write(&file, self.html())?;
            Ok(file)
        };
        written().with_context(|| format!("cannot write the report `{}`", file.display()))
    }

    pub fn html(&self) -> String {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) }
                    style { (PreEscaped(STYLE)) }
                }
                body { (self.body()) }
            }
        };
        page.into_string()
    }

    fn body(&self) -> Markup {
        html! {
            main {
                h1 { (self.title) }
                @for paragraph in &self.story { p { (paragraph) } }
                @if !self.pictures.is_empty() { (samples(&self.pictures)) }
                @if !self.arms.is_empty() {
                    (figures(&self.arms))
                    (curves(&self.arms))
                    (within::section(&self.arms))
                    (matrices(&self.arms))
                    (answers::section(&self.arms))
                }
                @if !self.refused.is_empty() { (refusals(&self.refused)) }
                @for table in &self.tables { (plain(table)) }
                footer { "Written by Perennial " (env!("CARGO_PKG_VERSION")) }
            }
        }
    }
}

fn samples(kinds: &[Pictures]) -> Markup {
    html! {
        section.samples {
            @for kind in kinds {
                figure {
                    div.strip { @for png in &kind.png { img src=(data_uri(png)) alt=""; } }
                    figcaption { (kind.caption) }
                }
            }
        }
    }
}

/// Percent-encoded: a third larger than Base64 on small files, and no codec.
fn data_uri(png: &[u8]) -> String {
    let encoded: String = png.iter().map(|byte| format!("%{byte:02X}")).collect();
    format!("data:image/png,{encoded}")
}

fn figures(arms: &[Arm]) -> Markup {
    html! {
        section {
            h2 { "Result" }
            div.figures {
                @for (number, arm) in arms.iter().enumerate() {
                    div.figure {
                        h3 { (key(number)) (arm.name) }
                        dl {
                            div { dt { "average accuracy" } dd { (percent(arm.matrix.average_accuracy())) } }
                            div { dt { "forgetting" } dd { (percent(arm.matrix.forgetting())) } }
                        }
                    }
                }
            }
            p.note {
                "Average accuracy: mean over all tasks after the last update. Forgetting: mean over all tasks but the \
                 last of how far accuracy lies below its best."
            }
        }
    }
}

/// The mark of an arm, the same in every picture.
fn key(number: usize) -> Markup {
    html! { span class={ "key s" (number % chart::SERIES) } {} }
}

fn curves(arms: &[Arm]) -> Markup {
    let seen = |arm: &Arm| (0..arm.matrix.rows.len()).map(|update| arm.matrix.average_after(update)).collect();
    let first = |arm: &Arm| arm.matrix.rows.iter().map(|row| row.first().copied().flatten()).collect();
    let of = |values: &dyn Fn(&Arm) -> Vec<Option<f64>>| -> Vec<(String, Vec<Option<f64>>)> {
        arms.iter().map(|arm| (arm.name.clone(), values(arm))).collect()
    };
    let first_task = arms[0].tasks.first().map_or("first", String::as_str);
    html! {
        section {
            h2 { "Accuracy over updates" }
            div.charts {
                (chart::lines("Average over the tasks learned so far", &of(&seen)))
                (chart::lines(&format!("The first task, {first_task}"), &of(&first)))
            }
        }
    }
}

fn matrices(arms: &[Arm]) -> Markup {
    /// Columns of a matrix that leaves room for another beside it.
    const SMALL: usize = 7;
    let large = arms.iter().any(|arm| arm.tasks.len() > SMALL);
    html! {
        section {
            h2 { "Accuracy matrices" }
            p.note { "Row: after which update. Column: on which task’s held-out items. Per cent; outlined: the task just learned." }
            div.matrices.large[large] {
                @for (number, arm) in arms.iter().enumerate() {
                    div.matrix {
                        h3 { (key(number)) (arm.name) }
                        (heat_map::table(arm))
                    }
                }
            }
        }
    }
}

fn refusals(refused: &[Refusal]) -> Markup {
    html! {
        section {
            h2 { "Refused by the gate" }
            @for refusal in refused {
                div.refused {
                    h3 { (refusal.what) }
                    ul { @for reason in &refusal.reasons { li { (reason) } } }
                }
            }
        }
    }
}

fn plain(table: &Table) -> Markup {
    html! {
        section {
            h2 { (table.heading) }
            div.wide {
                table.plain {
                    thead { tr { @for column in &table.columns { th scope="col" { (column) } } } }
                    tbody { @for row in &table.rows { tr { @for cell in row { td { (cell) } } } } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn arm(name: &str, rows: &[&[Option<f64>]]) -> Arm {
        Arm {
            name: name.to_owned(),
            tasks: vec!["plain".to_owned(), "a<b".to_owned()],
            matrix: AccuracyMatrix::of_stream(rows.iter().map(|row| row.to_vec()).collect()),
            answers: Vec::new(),
            within: None,
        }
    }

    fn full() -> Report {
        Report {
            title: "Two & two".to_owned(),
            story: vec!["What was done.".to_owned()],
            pictures: vec![Pictures { caption: "plain".to_owned(), png: vec![vec![0x89, b'P', 0]] }],
            arms: vec![
                arm("perennial", &[&[Some(0.913), None], &[Some(0.882), Some(0.7)]]),
                arm("fine_tune", &[&[Some(0.9), None], &[Some(0.25), Some(0.75)]]),
            ],
            refused: vec![Refusal { what: "run 3".to_owned(), reasons: vec!["task `plain` fell".to_owned()] }],
            tables: vec![Table {
                heading: "Versions".to_owned(),
                columns: vec!["version"],
                rows: vec![vec!["v0001".to_owned()]],
            }],
        }
    }

    #[test]
    fn every_number_is_in_the_page() {
        let page = full().html();
        // Cells, then average accuracy and forgetting of both arms.
        for text in ["91.3", "88.2", "70.0", "25.0", "75.0", "79.1 %", "3.1 %", "50.0 %", "65.0 %"] {
            assert!(page.contains(text), "{text} is missing");
        }
        for text in ["task `plain` fell", "v0001", "What was done.", "%89%50%00"] {
            assert!(page.contains(text), "{text} is missing");
        }
    }

    #[test]
    fn the_page_needs_nothing_but_itself() {
        let page = full().html();
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"));
        for outside in ["http:", "https:", "//", "<script", "<link", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("Two &amp; two") && page.contains("a&lt;b") && !page.contains("a<b"));
    }

    #[test]
    fn a_report_without_measurements_is_a_page_too() {
        let folder = tempfile::tempdir().unwrap();
        let empty = Arm { tasks: vec![], ..arm("x", &[]) };
        let file = write(&folder.path().join("new"), "Empty", &[empty]).unwrap();
        assert!(file.ends_with("new/report.html"));
        assert!(std::fs::read_to_string(file).unwrap().contains("Empty"));
    }
}
