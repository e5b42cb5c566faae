//! Seals a chunk: rows and what the pipeline says become training rows, held-out rows and labels.
//!
//! Pure. It knows neither where rows come from nor where they go.

use std::collections::{BTreeMap, HashMap, HashSet};

use domain::Timestamp;
use domain::chunk::{BadRow, Payload, Row, Split};
use domain::draw::Draw;
use domain::pipeline::{LabelsMode, Pipeline};
use sha2::{Digest, Sha256};
use store::examples::BadData;

use crate::error::short;
use crate::spill::Key;

/// Characters of a name in a reason: with the wrong label column it is a whole text.
const MAX_NAME: usize = 80;
/// Characters of what is said of a row.
const MAX_REASON: usize = 500;
/// Bad rows of which it is said why.
const MAX_LISTED: usize = 10_000;
/// Labels for which the nearest name is looked for.
const MAX_HINTS: usize = 100;

/// What the control role says about a pipeline.
#[derive(Clone, Debug)]
pub struct Facts {
    pub pipeline: Pipeline,
    /// Label names known so far, at least those of the spec.
    pub labels: Vec<String>,
}

/// Where a row stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// In data order.
    Train,
    /// In the order of these, the rows' fingerprints, so that any prefix is a uniform sample.
    HeldOut(Key),
}

/// What is to be said of a chunk whose rows have their places.
#[derive(Debug, Default, PartialEq)]
pub struct Sealed {
    /// Training rows per label.
    pub labels: BTreeMap<String, u64>,
    /// Names the pipeline does not know yet, in order of first appearance.
    pub new_labels: Vec<String>,
    pub duplicates: u64,
    /// Where there are any, the chunk goes to quarantine. The first of them.
    pub bad: Vec<BadRow>,
    /// All of them.
    pub bad_rows: u64,
    /// Rows that are neither.
    pub rows: u64,
    /// Whether rows say whom they are about.
    pub names_subjects: bool,
    /// The latest time that a row tells of.
    pub newest: Option<Timestamp>,
}

impl Sealed {
    /// Why the chunk goes to quarantine, and what its producer can do.
    pub fn reason(&self) -> Option<String> {
        let first = self.bad.first()?;
        let (bad, good) = (self.bad_rows, self.rows + self.duplicates);
        let others = if good > 0 { "; or `perennial chunk quarantine release` the other rows" } else { "" };
        Some(format!(
            "{bad} of {} rows cannot be used: {}. Correct the data (or append the name to `labels`, or set `labels_mode: \
             open`) and push the chunk again{others}",
            bad + good,
            first.reason
        ))
    }
}

/// Takes the rows of a chunk one after another, each as its reader found it.
pub struct Sealer<'a> {
    split: Split,
    facts: &'a Facts,
    known: HashSet<&'a str>,
    /// What was said of labels before.
    hints: HashMap<String, String>,
    /// Digests of the rows that have a label.
    seen: HashSet<[u8; 32]>,
    seen_labels: HashSet<String>,
    at: usize,
    sealed: Sealed,
}

impl<'a> Sealer<'a> {
    pub fn new(split: Split, facts: &'a Facts) -> Self {
        let known = facts.labels.iter().map(String::as_str).collect();
        let (hints, seen, seen_labels) = (HashMap::new(), HashSet::new(), HashSet::new());
        Self { split, facts, known, hints, seen, seen_labels, at: 0, sealed: Sealed::default() }
    }

    /// Where the next row stays. None: nowhere.
    pub fn place(&mut self, row: Result<Row, BadData>) -> Option<(Side, Row)> {
        let at = self.at;
        self.at += 1;
        let row = match row {
            Ok(row) if self.is_usable(&row) => row,
            bad => {
                self.note(at, bad);
                return None;
            }
        };
        if !row.label.is_empty() && !self.seen.insert(digest(&row)) {
            self.sealed.duplicates += 1;
            return None;
        }
        self.count(&row);
        let side = self.side(&row);
        if side == Side::Train && !row.label.is_empty() {
            *self.sealed.labels.entry(row.label.clone()).or_default() += 1;
        }
        Some((side, row))
    }

    pub fn finish(self) -> Sealed {
        self.sealed
    }

    /// Whether a row may be without a label was up to its reader.
    fn is_usable(&self, row: &Row) -> bool {
        let open = self.facts.pipeline.labels_mode == LabelsMode::Open;
        open || row.label.is_empty() || self.known.contains(row.label.as_str())
    }

    /// Why the row cannot be used, if not too many were before.
    fn note(&mut self, at: usize, bad: Result<Row, BadData>) {
        self.sealed.bad_rows += 1;
        if self.sealed.bad.len() == MAX_LISTED {
            return;
        }
        let reason = match bad {
            Ok(row) => unknown(at, &row, &self.facts.labels, &mut self.hints),
            Err(error) => short(&error.to_string(), MAX_REASON),
        };
        self.sealed.bad.push(BadRow { row: at as u64, reason });
    }

    fn count(&mut self, row: &Row) {
        let sealed = &mut self.sealed;
        sealed.rows += 1;
        sealed.names_subjects |= row.subject.is_some();
        sealed.newest = sealed.newest.max(row.event_time);
        let is_new = !row.label.is_empty() && !self.known.contains(row.label.as_str());
        if is_new && !self.seen_labels.contains(&row.label) {
            self.seen_labels.insert(row.label.clone());
            sealed.new_labels.push(row.label.clone());
        }
    }

    fn side(&self, row: &Row) -> Side {
        let pipeline = &self.facts.pipeline;
        // Without the label: a row relabelled later must not change sides.
        let print = row.payload.fingerprint();
        let out = match self.split {
            Split::Train => false,
            Split::HeldOut => true,
            Split::Auto => position(pipeline.seed, &print) < pipeline.evaluation.held_out_fraction.get(),
        };
        if out { Side::HeldOut(print) } else { Side::Train }
    }
}

/// Of everything by which rows are told apart: one that equals an earlier one, label and subject and all, is left out. Rows
/// without a label may yet differ.
fn digest(row: &Row) -> [u8; 32] {
    let (kind, payload): (u8, &[u8]) = match &row.payload {
        Payload::Image(bytes) => (0, bytes),
        Payload::Text(text) => (1, text.as_bytes()),
    };
    let subject = row.subject.as_deref();
    let mut hash = Sha256::new();
    hash.update([kind, u8::from(subject.is_some())]);
    for part in [payload, row.label.as_bytes(), subject.unwrap_or_default().as_bytes()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// `hints` holds what was said of labels before.
fn unknown(at: usize, row: &Row, known: &[String], hints: &mut HashMap<String, String>) -> String {
    let (id, label, count) = (short(&row.id, MAX_NAME), short(&row.label, MAX_NAME), known.len());
    let hint = || nearest(&label, known).map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
    let hint = match hints.get(&label) {
        Some(hint) => hint.clone(),
        // Beyond, it is another column than that of labels.
        None if hints.len() == MAX_HINTS => String::new(),
        None => hints.entry(label.clone()).or_insert(hint()).clone(),
    };
    format!("row {at} (`{id}`) has label `{label}`, which is not among the pipeline's {count} labels{hint}")
}

/// The most alike name, if one is alike at all.
pub(crate) fn nearest(given: &str, known: &[String]) -> Option<String> {
    const ALIKE: f64 = 0.7;
    let given = given.to_lowercase();
    let scored = known.iter().map(|name| (strsim::jaro(&given, &name.to_lowercase()), name));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(score, _)| *score > ALIKE).map(|(_, name)| name.clone())
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
        Row::new(format!("r{id}"), Payload::Text(text.to_owned()), label)
    }

    fn rows(range: std::ops::Range<usize>) -> Vec<Row> {
        range.map(|i| row(i, &format!("text {i}"), ["ham", "spam"][i % 2])).collect()
    }

    /// A chunk whose rows have their places.
    #[derive(Default)]
    struct Divided {
        train: Vec<Row>,
        held_out: Vec<Row>,
        sealed: Sealed,
    }

    impl std::ops::Deref for Divided {
        type Target = Sealed;

        fn deref(&self) -> &Sealed {
            &self.sealed
        }
    }

    fn seal(rows: Vec<Result<Row, BadData>>, split: Split, facts: &Facts) -> Divided {
        let (mut sealer, mut found, mut held_out) = (Sealer::new(split, facts), Divided::default(), Vec::new());
        for row in rows {
            match sealer.place(row) {
                Some((Side::Train, row)) => found.train.push(row),
                Some((Side::HeldOut(key), row)) => held_out.push((key, row)),
                None => {}
            }
        }
        held_out.sort_by_key(|(key, _)| *key);
        found.held_out = held_out.into_iter().map(|(_, row)| row).collect();
        Divided { sealed: sealer.finish(), ..found }
    }

    fn sealed(rows: Vec<Row>, split: Split, facts: &Facts) -> Divided {
        seal(rows.into_iter().map(Ok).collect(), split, facts)
    }

    fn ids(rows: &[Row]) -> Vec<&str> {
        rows.iter().map(|row| row.id.as_str()).collect()
    }

    #[test]
    fn auto_holds_out_its_share_and_every_row_is_on_one_side() {
        let found = sealed(rows(0..4000), Split::Auto, &facts(&["ham", "spam"], "closed"));
        assert!((900..1100).contains(&found.held_out.len()), "{}", found.held_out.len());
        let mut all = [ids(&found.train), ids(&found.held_out)].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 4000);
        assert_eq!(found.labels.values().sum::<u64>(), found.train.len() as u64);
    }

    #[test]
    fn a_row_is_on_the_same_side_in_whatever_chunk_spelling_or_label_it_comes() {
        let facts = facts(&["ham", "spam"], "closed");
        let whole = sealed(rows(0..400), Split::Auto, &facts);
        let part = rows(100..200).into_iter().map(|r| match r.payload {
            Payload::Text(text) => row(0, &format!("  {} \n", text.to_uppercase().replace(' ', "\t ")), "ham"),
            Payload::Image(_) => unreachable!(),
        });
        let part = sealed(part.collect(), Split::Auto, &facts);
        let expected = whole.held_out.iter().filter(|row| (100..200).contains(&row.id[1..].parse().unwrap()));
        assert_eq!(part.held_out.len(), expected.count());
    }

    #[test]
    fn a_prefix_of_the_held_out_rows_does_not_follow_data_order() {
        let found = sealed(rows(0..4000), Split::HeldOut, &facts(&["ham", "spam"], "closed"));
        let late = found.held_out[..1000].iter().filter(|row| row.id[1..].parse::<usize>().unwrap() >= 2000);
        assert!((440..560).contains(&late.count()));
        let prints: Vec<_> = found.held_out.iter().map(|row| row.payload.fingerprint()).collect();
        assert!(prints.is_sorted());
        assert!(found.train.is_empty() && found.labels.is_empty());
    }

    #[test]
    fn training_rows_keep_data_order_and_come_once() {
        let mut twice = [rows(0..50), rows(0..50)].concat();
        // The same text under another label says something else, and so does another spelling.
        twice[60].label = "spam".to_owned();
        twice[61].payload = Payload::Text("Text 11".to_owned());
        let found = sealed(twice.clone(), Split::Train, &facts(&["ham", "spam"], "closed"));
        twice.drain(62..);
        twice.drain(50..60);
        assert_eq!((found.duplicates, found.train), (48, twice));
    }

    #[test]
    fn a_label_outside_a_closed_list_is_named_with_its_row_and_the_nearest_name() {
        let mut rows = rows(0..10);
        rows[4].label = "Spma".to_owned();
        rows[6].label = "zzz".to_owned();
        let found = sealed(rows, Split::Auto, &facts(&["ham", "spam"], "closed"));
        assert_eq!(found.bad.iter().map(|bad| bad.row).collect::<Vec<_>>(), [4, 6]);
        assert!(found.bad[1].reason.ends_with("2 labels"), "{:?}", found.bad);
        let text = found.reason().unwrap();
        for part in
            ["2 of 10 rows", "row 4 (`r4`)", "label `Spma`", "2 labels; did you mean `spam`?", "labels_mode: open"]
        {
            assert!(text.contains(part), "{text}");
        }
        let long = sealed(vec![row(0, "text", &"é".repeat(500))], Split::Auto, &facts(&["ham"], "closed"));
        assert!(long.bad[0].reason.contains(&format!("label `{}…`", "é".repeat(80))));
    }

    #[test]
    fn of_many_bad_rows_all_are_counted_and_the_first_are_listed() {
        let rows = (0..MAX_LISTED + 5).map(|i| row(i, &format!("text {i}"), &format!("label {i}"))).collect();
        let found = sealed(rows, Split::Train, &facts(&["ham"], "closed"));
        assert_eq!((found.bad.len(), found.bad_rows), (MAX_LISTED, MAX_LISTED as u64 + 5));
        assert!(found.reason().unwrap().starts_with("10005 of 10005 rows"));
    }

    #[test]
    fn rows_that_could_not_be_read_are_bad_and_the_others_are_sealed() {
        let bad = BadData::Utf8 { line: 3 };
        let said = bad.to_string();
        let mut rows: Vec<_> = rows(0..10).into_iter().map(Ok).collect();
        rows.insert(2, Err(bad));
        let found = seal(rows, Split::Train, &facts(&["ham", "spam"], "closed"));
        assert_eq!((found.train.len(), &found.bad[..]), (10, &[BadRow { row: 2, reason: said }][..]));
        assert_eq!(sealed(vec![row(0, "a", "ham")], Split::Train, &facts(&["ham"], "closed")).reason(), None);
    }

    #[test]
    fn open_labels_append_in_order_of_first_appearance() {
        let labelled = ["eggs", "ham", "bacon", "eggs"].iter().enumerate();
        let rows = labelled.map(|(i, label)| row(i, &format!("text {i}"), label)).collect();
        let found = sealed(rows, Split::Train, &facts(&["ham", "spam"], "open"));
        assert_eq!(found.new_labels, ["eggs", "bacon"]);
        assert_eq!(found.labels["eggs"], 2);
    }
}
