//! Seals a chunk: rows and what the pipeline says become training rows, held-out rows and labels.
//!
//! Pure. It knows neither where rows come from nor where they go.

use std::collections::{BTreeMap, HashSet};

use domain::chunk::{Row, Split};
use domain::draw::Draw;
use domain::pipeline::{LabelsMode, Pipeline};

use crate::error::short;

/// Characters of a name in a reason: with the wrong label column it is a whole text.
const MAX_NAME: usize = 80;

/// What the control role says about a pipeline.
#[derive(Clone, Debug)]
pub struct Facts {
    pub pipeline: Pipeline,
    /// Label names known so far, at least those of the spec.
    pub labels: Vec<String>,
}

/// A chunk's rows, each in the place where it stays.
#[derive(Debug, PartialEq)]
pub struct Sealed {
    /// In data order.
    pub train: Vec<Row>,
    /// In the order of their fingerprints, so that any prefix is a uniform sample.
    pub held_out: Vec<Row>,
    /// Training rows per label.
    pub labels: BTreeMap<String, u64>,
    /// Names the pipeline does not know yet, in order of first appearance.
    pub new_labels: Vec<String>,
}

/// Why a chunk goes to quarantine. Rows count from 0.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error(
    "row {row} (`{id}`) has label `{label}`, which is not among the pipeline's {known} labels{hint}; {rows} of the chunk's rows have such labels. \
    Correct them, or append the name to `labels` (or set `labels_mode: open`), then push the chunk again",
    hint = .nearest.as_ref().map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
)]
pub struct UnknownLabel {
    pub row: usize,
    pub id: String,
    pub label: String,
    pub known: usize,
    pub nearest: Option<String>,
    /// How many rows have a label outside the list.
    pub rows: usize,
}

/// Whether pushing a recorded chunk again may change it: only if its rows were never sealed.
pub fn can_be_sealed(state: &str, sealed_rows: u64) -> bool {
    matches!(state, "received" | "quarantined") && sealed_rows == 0
}

pub fn seal(rows: Vec<Row>, split: Split, facts: &Facts) -> Result<Sealed, UnknownLabel> {
    let known: HashSet<&str> = facts.labels.iter().map(String::as_str).collect();
    let outside: Vec<usize> = (0..rows.len()).filter(|&i| !known.contains(rows[i].label.as_str())).collect();
    if let (LabelsMode::Closed, Some(&first)) = (facts.pipeline.labels_mode, outside.first()) {
        return Err(unknown(first, &rows[first], outside.len(), &facts.labels));
    }
    let mut seen = HashSet::new();
    let new = outside.iter().map(|&i| &rows[i].label).filter(|label| seen.insert(*label));
    let new_labels = new.cloned().collect();
    let (train, held_out) = divide(rows, split, &facts.pipeline);
    let mut labels = BTreeMap::new();
    for row in &train {
        *labels.entry(row.label.clone()).or_default() += 1;
    }
    Ok(Sealed { train, held_out, labels, new_labels })
}

fn unknown(position: usize, row: &Row, rows: usize, known: &[String]) -> UnknownLabel {
    UnknownLabel {
        row: position,
        id: short(&row.id, MAX_NAME),
        label: short(&row.label, MAX_NAME),
        known: known.len(),
        nearest: nearest(&row.label, known),
        rows,
    }
}

/// The most alike name, if one is alike at all.
fn nearest(given: &str, known: &[String]) -> Option<String> {
    const ALIKE: f64 = 0.7;
    let given = given.to_lowercase();
    let scored = known.iter().map(|name| (strsim::jaro(&given, &name.to_lowercase()), name));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(score, _)| *score > ALIKE).map(|(_, name)| name.clone())
}

fn divide(rows: Vec<Row>, split: Split, pipeline: &Pipeline) -> (Vec<Row>, Vec<Row>) {
    let share = pipeline.evaluation.held_out_fraction.get();
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    for row in rows {
        // Without the label: a row relabelled later must not change sides.
        let print = row.payload.fingerprint();
        let out = match split {
            Split::Train => false,
            Split::HeldOut => true,
            Split::Auto => position(pipeline.seed, &print) < share,
        };
        if out { held_out.push((print, row)) } else { train.push(row) }
    }
    // Stable: rows of equal content stay in data order.
    held_out.sort_by_key(|(print, _)| *print);
    (train, held_out.into_iter().map(|(_, row)| row).collect())
}

/// Where in `[0, 1)` a row falls, the same in every chunk of the pipeline.
fn position(seed: u64, print: &[u8; 32]) -> f64 {
    let (words, _) = print.as_chunks::<8>();
    let stream = Draw::new(seed).named("held_out");
    words.iter().fold(stream, |draw, word| draw.at(u64::from_be_bytes(*word))).unit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::chunk::Payload;
    use serde_json::json;

    fn facts(labels: &[&str], mode: &str) -> Facts {
        let spec = json!({
            "name": "tickets", "model": "mlp:10", "method": "er", "labels_mode": mode,
            "labels": labels, "evaluation": {"held_out_fraction": 0.25}, "seed": 7,
        });
        let pipeline: Pipeline = serde_json::from_value(spec).unwrap();
        Facts { labels: pipeline.labels.clone(), pipeline }
    }

    fn row(id: usize, text: &str, label: &str) -> Row {
        Row { id: format!("r{id}"), payload: Payload::Text(text.to_owned()), label: label.to_owned() }
    }

    fn rows(range: std::ops::Range<usize>) -> Vec<Row> {
        range.map(|i| row(i, &format!("text {i}"), ["ham", "spam"][i % 2])).collect()
    }

    fn ids(rows: &[Row]) -> Vec<&str> {
        rows.iter().map(|row| row.id.as_str()).collect()
    }

    #[test]
    fn auto_holds_out_its_share_and_every_row_is_on_one_side() {
        let sealed = seal(rows(0..4000), Split::Auto, &facts(&["ham", "spam"], "closed")).unwrap();
        assert!((900..1100).contains(&sealed.held_out.len()), "{}", sealed.held_out.len());
        let mut all = [ids(&sealed.train), ids(&sealed.held_out)].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 4000);
        assert_eq!(sealed.labels.values().sum::<u64>(), sealed.train.len() as u64);
    }

    #[test]
    fn a_row_is_on_the_same_side_in_whatever_chunk_spelling_or_label_it_comes() {
        let facts = facts(&["ham", "spam"], "closed");
        let whole = seal(rows(0..400), Split::Auto, &facts).unwrap();
        let part = rows(100..200).into_iter().map(|r| match r.payload {
            Payload::Text(text) => row(0, &format!("  {} \n", text.to_uppercase().replace(' ', "\t ")), "ham"),
            Payload::Image(_) => unreachable!(),
        });
        let part = seal(part.collect(), Split::Auto, &facts).unwrap();
        let expected = whole.held_out.iter().filter(|row| (100..200).contains(&row.id[1..].parse().unwrap()));
        assert_eq!(part.held_out.len(), expected.count());
    }

    #[test]
    fn a_prefix_of_the_held_out_rows_does_not_follow_data_order() {
        let sealed = seal(rows(0..4000), Split::HeldOut, &facts(&["ham", "spam"], "closed")).unwrap();
        let late = sealed.held_out[..1000].iter().filter(|row| row.id[1..].parse::<usize>().unwrap() >= 2000);
        assert!((440..560).contains(&late.count()));
        let prints: Vec<_> = sealed.held_out.iter().map(|row| row.payload.fingerprint()).collect();
        assert!(prints.is_sorted());
        assert!(sealed.train.is_empty() && sealed.labels.is_empty());
    }

    #[test]
    fn training_rows_keep_data_order_and_duplicates() {
        let twice = [rows(0..50), rows(0..50)].concat();
        let sealed = seal(twice.clone(), Split::Train, &facts(&["ham", "spam"], "closed")).unwrap();
        assert_eq!(sealed.train, twice);
    }

    #[test]
    fn a_label_outside_a_closed_list_is_named_with_its_row_and_the_nearest_name() {
        let mut rows = rows(0..10);
        rows[4].label = "Spma".to_owned();
        rows[6].label = "zzz".to_owned();
        let error = seal(rows, Split::Auto, &facts(&["ham", "spam"], "closed")).unwrap_err();
        assert_eq!((error.row, error.rows, error.nearest.as_deref()), (4, 2, Some("spam")));
        let text = error.to_string();
        for part in ["row 4 (`r4`)", "label `Spma`", "2 labels; did you mean `spam`?", "labels_mode: open"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(nearest("zzz", &["ham".to_owned()]), None);
        let long = seal(vec![row(0, "text", &"é".repeat(500))], Split::Auto, &facts(&["ham"], "closed")).unwrap_err();
        assert_eq!(long.label, format!("{}…", "é".repeat(80)));
    }

    #[test]
    fn open_labels_append_in_order_of_first_appearance() {
        let labelled = ["eggs", "ham", "bacon", "eggs"].iter().enumerate();
        let rows = labelled.map(|(i, label)| row(i, &format!("text {i}"), label)).collect();
        let sealed = seal(rows, Split::Train, &facts(&["ham", "spam"], "open")).unwrap();
        assert_eq!(sealed.new_labels, ["eggs", "bacon"]);
        assert_eq!(sealed.labels["eggs"], 2);
    }
}
