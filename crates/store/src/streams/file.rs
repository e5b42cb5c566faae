//! A data set's file in memory: inputs as they are encoded, and the values that choose rows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::sync::OnceLock;

use domain::chunk::Payload;
use rayon::prelude::*;

use super::feature::Feature;
use super::value::Value;
use crate::Error;
use crate::examples::{BadData, Cells, open_table};

#[derive(Default)]
pub(super) struct DataFile {
    pub inputs: Vec<Payload>,
    pub labels: Vec<i64>,
    columns: BTreeMap<String, Vec<Value>>,
    /// Of the one feature that a stream sorts by.
    scores: OnceLock<Vec<f64>>,
}

impl DataFile {
    /// `columns` are those that choose rows.
    pub(super) fn read(path: &Path, input: &str, label: &str, columns: &BTreeSet<&str>) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::file("open", path))?;
        load(file, input, label, columns).map_err(|source| Error::Data { path: path.display().to_string(), source })
    }

    /// `column` is one of those that choose rows.
    pub(super) fn value(&self, column: &str, row: usize) -> &Value {
        &self.columns[column][row]
    }

    /// Positions of the rows that pass every filter, in order.
    pub(super) fn rows_where(&self, filter: &BTreeMap<String, Vec<Value>>) -> Result<Vec<usize>, BadData> {
        for (column, values) in filter {
            self.fits(column, values)?;
        }
        let passes = |row: &usize| filter.iter().all(|(column, values)| values.contains(self.value(column, *row)));
        Ok((0..self.inputs.len()).filter(passes).collect())
    }

    /// Whether values can be found in a column at all: none of another type can.
    pub(super) fn fits(&self, column: &str, values: &[Value]) -> Result<(), BadData> {
        let Some(found) = self.columns[column].first().map(Value::type_name) else {
            return Ok(());
        };
        match values.iter().map(Value::type_name).find(|expected| *expected != found) {
            Some(expected) => Err(BadData::Type { column: column.to_owned(), expected, found: found.to_owned() }),
            None => Ok(()),
        }
    }

    /// One for each row. Images are decoded the first time.
    pub(super) fn scores(&self, feature: Feature) -> Result<&[f64], String> {
        if let Some(scores) = self.scores.get() {
            return Ok(scores);
        }
        let score = |(row, input)| feature.of(input).map_err(|reason| format!("row {row}: {reason}"));
        let scores = self.inputs.par_iter().enumerate().map(score).collect::<Result<_, _>>()?;
        Ok(self.scores.get_or_init(|| scores))
    }
}

fn load(file: File, input: &str, label: &str, chosen_by: &BTreeSet<&str>) -> Result<DataFile, BadData> {
    let table = open_table(file)?;
    let columns: Vec<&str> = [input, label].into_iter().chain(chosen_by.iter().copied()).collect();
    for column in &columns {
        if table.schema().index_of(column).is_err() {
            return Err(BadData::Missing {
                column: (*column).to_owned(),
                role: "stream's data",
                present: table.present(),
            });
        }
    }
    let mut loaded = DataFile {
        columns: chosen_by.iter().map(|name| ((*name).to_owned(), Vec::new())).collect(),
        ..DataFile::default()
    };
    table.read(&columns, |cells| loaded.take(&columns, cells))?;
    Ok(loaded)
}

impl DataFile {
    fn take(&mut self, columns: &[&str], cells: &[Cells]) -> Result<(), BadData> {
        for (column, cells) in columns.iter().zip(cells) {
            self.refuse_nulls(column, cells)?;
        }
        match &cells[1] {
            Cells::Integer(values) => self.labels.extend_from_slice(values.values()),
            other => return Err(mistyped(columns[1], "integer", other)),
        }
        for (column, cells) in columns.iter().zip(cells).skip(2) {
            self.columns.entry((*column).to_owned()).or_default().extend(values(column, cells)?);
        }
        match &cells[0] {
            Cells::Image(array) | Cells::Binary(array) => {
                self.inputs.extend(array.iter().flatten().map(|bytes| Payload::Image(bytes.to_vec())));
            }
            Cells::Text(array) => self.inputs.extend(array.iter().flatten().map(|text| Payload::Text(text.to_owned()))),
            Cells::Integer(_) | Cells::Time(_) => {
                return Err(mistyped(columns[0], "an image or text column", &cells[0]));
            }
        }
        Ok(())
    }

    fn refuse_nulls(&self, column: &str, cells: &Cells) -> Result<(), BadData> {
        match (0..cells.len()).find(|&row| cells.is_null(row)) {
            Some(row) => Err(BadData::Value {
                row: (self.inputs.len() + row) as u64,
                column: column.to_owned(),
                expected: "a value".to_owned(),
                found: "null".to_owned(),
                remedy: "take the file from its source again",
            }),
            None => Ok(()),
        }
    }
}

fn values(column: &str, cells: &Cells) -> Result<Vec<Value>, BadData> {
    match cells {
        Cells::Integer(array) => Ok(array.values().iter().copied().map(Value::Integer).collect()),
        Cells::Text(array) => Ok(array.iter().flatten().map(|text| Value::Text(text.to_owned())).collect()),
        Cells::Image(_) | Cells::Binary(_) | Cells::Time(_) => Err(mistyped(column, "integer or string", cells)),
    }
}

fn mistyped(column: &str, expected: &'static str, found: &Cells) -> BadData {
    BadData::Type { column: column.to_owned(), expected, found: found.type_name().to_owned() }
}
