//! CSV as users push it: a line of column names, then records. A `.tsv` has tabs.

use std::io::Read;

use csv::{ErrorKind, ReaderBuilder, StringRecord};
use domain::chunk::Row;
use serde_json::Value;

use super::bad_data::{BadData, Place};
use super::intake::Columns;
use super::object::{self, Object};

/// Which byte stands between cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delimiter {
    Comma,
    Tab,
}

/// The rows, read as they are asked for. An empty cell is one that is not there; a label that is not there and not `needed`
/// is empty, which no label is.
pub(super) fn rows<R: Read>(
    source: R,
    delimiter: Delimiter,
    columns: &Columns,
    needed: bool,
) -> Result<impl Iterator<Item = Result<(Place, Row), BadData>> + use<R>, BadData> {
    let byte = match delimiter {
        Delimiter::Comma => b',',
        Delimiter::Tab => b'\t',
    };
    let mut reader = ReaderBuilder::new().delimiter(byte).from_reader(source);
    let names = reader.headers().map_err(bad)?.clone();
    if let Some(twice) = names.iter().enumerate().find(|(at, name)| names.iter().take(*at).any(|other| other == *name))
    {
        return Err(BadData::Csv { line: 1, reason: format!("column `{}` comes twice", twice.1) });
    }
    let (columns, mut position) = (columns.clone(), 0);
    Ok(reader.into_records().map(move |record| {
        let record = record.map_err(bad)?;
        let place = Place::Line(record.position().map_or(0, csv::Position::line));
        let row = object::row(&named(&names, &record, &columns), place, position, &columns, needed)?;
        position += 1;
        Ok((place, row))
    }))
}

fn named(names: &StringRecord, record: &StringRecord, columns: &Columns) -> Object {
    let cell = |name: &str, cell: &str| {
        // Everything is text here: a number is an index where it is no name.
        let index = (name == columns.label && !columns.labels.iter().any(|label| label == cell))
            .then(|| cell.parse::<i64>().ok().filter(|_| !columns.labels.is_empty()))
            .flatten();
        match index {
            Some(index) => Value::from(index),
            None if cell.is_empty() => Value::Null,
            None => Value::from(cell),
        }
    };
    names.iter().zip(record).map(|(name, value)| (name.to_owned(), cell(name, value))).collect()
}

fn bad(error: csv::Error) -> BadData {
    let line = error.position().map_or(1, csv::Position::line);
    match error.into_kind() {
        ErrorKind::Utf8 { .. } => BadData::Utf8 { line },
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            BadData::Csv { line, reason: format!("it has {len} cells, the first line {expected_len}") }
        }
        other => BadData::Csv { line, reason: format!("{other:?}") },
    }
}
