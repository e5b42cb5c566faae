//! Predictions on their way out: a line each, in the order of the rows.

use std::io::Write;

use domain::chunk::Row;
use learn::predict::best;
use serde::{Serialize, Serializer};

use crate::bench::flags::Output;

pub struct Lines<'a, W> {
    out: W,
    output: Output,
    /// Labels of each row.
    top: usize,
    labels: &'a [String],
    /// Of the columns of a table, once its first rows are known.
    widths: Option<(usize, usize)>,
    labelled: u64,
    correct: u64,
}

/// Field names are the JSON's keys.
#[derive(Serialize)]
struct Line<'a> {
    row_id: &'a str,
    label: &'a str,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_object")]
    scores: Option<Vec<(&'a str, f32)>>,
}

/// In the order given, the likeliest first.
fn as_object<S: Serializer>(scores: &Option<Vec<(&str, f32)>>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(scores.iter().flatten().copied())
}

impl<'a, W: Write> Lines<'a, W> {
    pub fn new(out: W, output: Output, top: usize, labels: &'a [String]) -> Self {
        Self { out, output, top, labels, widths: None, labelled: 0, correct: 0 }
    }

    /// The rows that have scores, which are the first ones.
    pub fn write(&mut self, rows: &[Row], scores: &[Vec<f32>]) -> std::io::Result<()> {
        let mut text = Vec::new();
        let (labels, top) = (self.labels, self.top);
        let lines: Vec<Line> =
            rows.iter().zip(scores).filter_map(|(row, scores)| line(labels, top, row, scores)).collect();
        for line in &lines {
            self.count(line);
            match self.output {
                Output::Json => serde_json::to_writer(&mut text, line)?,
                Output::Table => self.table_row(&lines, line, &mut text)?,
            }
            text.push(b'\n');
        }
        self.out.write_all(&text)?;
        self.out.flush()
    }

    fn count(&mut self, line: &Line) {
        if let Some(expected) = line.expected {
            self.labelled += 1;
            self.correct += u64::from(expected == line.label);
        }
    }

    /// Columns are as wide as the first rows need: what comes later is not known yet.
    fn table_row(&mut self, lines: &[Line], line: &Line, text: &mut Vec<u8>) -> std::io::Result<()> {
        let (id, label) = match self.widths {
            Some(widths) => widths,
            None => {
                let longest =
                    |name: &str, cell: fn(&Line) -> usize| lines.iter().map(cell).max().unwrap_or(0).max(name.len());
                let (id, label) = (
                    longest("ROW", |line| line.row_id.chars().count()),
                    longest("LABEL", |line| line.label.chars().count()),
                );
                writeln!(text, "{:id$}  {:label$}  SCORE", "ROW", "LABEL")?;
                *self.widths.insert((id, label))
            }
        };
        write!(text, "{:id$}  {:label$}  {:.3}", line.row_id, line.label, line.score)?;
        for (other, score) in line.scores.iter().flatten().skip(1) {
            write!(text, "  {other} {score:.3}")?;
        }
        match line.expected {
            Some(expected) if expected != line.label => write!(text, "  expected {expected}"),
            _ => Ok(()),
        }
    }

    /// Of the rows that brought a label.
    pub fn accuracy(&self) -> Option<String> {
        let Self { labelled, correct, .. } = self;
        let share = *correct as f64 / *labelled as f64;
        (*labelled > 0).then(|| format!("accuracy {share:.4}: {correct} of {labelled} labelled rows"))
    }
}

/// None for a version without labels, which answers nothing.
fn line<'a>(labels: &'a [String], top: usize, row: &'a Row, scores: &[f32]) -> Option<Line<'a>> {
    let best: Vec<(&str, f32)> = best(scores, top).into_iter().map(|at| (labels[at].as_str(), scores[at])).collect();
    let (label, score) = *best.first()?;
    Some(Line {
        row_id: &row.id,
        label,
        score,
        expected: (!row.label.is_empty()).then_some(row.label.as_str()),
        scores: (top > 1).then_some(best),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::chunk::Payload;

    fn written(output: Output, top: usize) -> (String, Option<String>) {
        let labels = ["cat", "a dog", "cow"].map(str::to_owned);
        let row = |id: &str, label: &str| Row::new(id, Payload::Text("x".to_owned()), label);
        let mut text = Vec::new();
        let mut lines = Lines::new(&mut text, output, top, &labels);
        lines.write(&[row("r1", ""), row("r2", "cat")], &[vec![0.5, 0.25, 0.25], vec![0.0, 0.25, 0.75]]).unwrap();
        let accuracy = lines.accuracy();
        (String::from_utf8(text).unwrap(), accuracy)
    }

    #[test]
    fn each_row_is_an_object_with_what_was_asked_for() {
        let (one, accuracy) = written(Output::Json, 1);
        let wanted = "{\"row_id\":\"r1\",\"label\":\"cat\",\"score\":0.5}\n\
                      {\"row_id\":\"r2\",\"label\":\"cow\",\"score\":0.75,\"expected\":\"cat\"}\n";
        assert_eq!((one.as_str(), accuracy.as_deref()), (wanted, Some("accuracy 0.0000: 0 of 1 labelled rows")));
        let (two, _) = written(Output::Json, 2);
        assert!(two.contains(r#""scores":{"cow":0.75,"a dog":0.25}"#), "{two}");
    }

    #[test]
    fn a_table_has_its_columns_one_below_the_other() {
        let (table, _) = written(Output::Table, 1);
        assert_eq!(table, "ROW  LABEL  SCORE\nr1   cat    0.500\nr2   cow    0.750  expected cat\n");
    }
}
