//! CSV as users push it: a line of column names, then records. A `.tsv` has tabs, and its quotes are letters.

use std::collections::HashSet;
use std::io::{self, Read};

use csv::{ErrorKind, ReaderBuilder, StringRecord, StringRecordsIntoIter};
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

/// The rows, read as they are asked for. An empty cell is one that is not there.
pub(super) fn rows<R: Read>(
    source: R,
    delimiter: Delimiter,
    columns: &Columns,
) -> Result<impl Iterator<Item = Result<(Place, Row), BadData>> + use<R>, BadData> {
    let objects = objects(source, delimiter, columns)?.enumerate();
    let columns = columns.clone();
    Ok(objects.map(move |(position, record)| {
        let (place, object) = record?;
        Ok((place, object::row(&object, place, position, &columns)?))
    }))
}

/// The records by the names of their columns, and where each stands.
pub(super) fn objects<R: Read>(
    source: R,
    delimiter: Delimiter,
    columns: &Columns,
) -> Result<impl Iterator<Item = Result<(Place, Object), BadData>> + use<R>, BadData> {
    let mut builder = ReaderBuilder::new();
    match delimiter {
        Delimiter::Comma => builder.delimiter(b','),
        Delimiter::Tab => builder.delimiter(b'\t').quoting(false),
    };
    let mut reader = builder.from_reader(Last { source, byte: 0 });
    let names = reader.headers().map_err(bad)?.clone();
    let mut seen = HashSet::new();
    if let Some(twice) = names.iter().find(|name| !name.is_empty() && !seen.insert(*name)) {
        return Err(BadData::Csv { line: 1, reason: format!("column `{twice}` comes twice") });
    }
    let mut records = Records { records: reader.into_records(), line: 1, breaks: false };
    let columns = columns.clone();
    Ok(std::iter::from_fn(move || {
        let record = records.next().transpose()?;
        Some(record.map(|record| (Place::Line(records.line), named(&names, &record, &columns))))
    }))
}

/// The last byte that went through and ended no line.
struct Last<R> {
    source: R,
    byte: u8,
}

impl<R: Read> Read for Last<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        let ends = |byte: &&u8| matches!(byte, b'\r' | b'\n');
        if let Some(byte) = buffer[..read].iter().rev().find(|byte| !ends(byte)) {
            self.byte = *byte;
        }
        Ok(read)
    }
}

struct Records<R> {
    records: StringRecordsIntoIter<Last<R>>,
    /// Of the record that was read last.
    line: u64,
    /// Whether its last cell has more than one line, and so is quoted.
    breaks: bool,
}

impl<R: Read> Records<R> {
    fn next(&mut self) -> Result<Option<StringRecord>, BadData> {
        let Some(record) = self.records.next().transpose().map_err(bad)? else {
            let closed = !self.breaks || self.records.reader().get_ref().byte == b'"';
            self.breaks = false;
            let reason = "its last cell begins with a quote that nothing ends".to_owned();
            return if closed { Ok(None) } else { Err(BadData::Csv { line: self.line, reason }) };
        };
        self.line = record.position().map_or(0, csv::Position::line);
        self.breaks = record.iter().next_back().is_some_and(|cell| cell.contains('\n'));
        Ok(Some(record))
    }
}

fn named(names: &StringRecord, record: &StringRecord, columns: &Columns) -> Object {
    let cell = |name: &str, cell: &str| {
        // Everything is text here: a number is an index where it is no name, and a time where one is expected.
        let is_index =
            name == columns.label && !columns.labels.is_empty() && !columns.labels.iter().any(|label| label == cell);
        let number = (is_index || name == columns.event_time).then(|| cell.parse::<i64>().ok()).flatten();
        match number {
            Some(number) => Value::from(number),
            None if cell.is_empty() => Value::Null,
            None => Value::from(cell),
        }
    };
    let filled = names.iter().zip(record).filter(|(name, _)| !name.is_empty());
    filled.map(|(name, value)| (name.to_owned(), cell(name, value))).collect()
}

fn bad(error: csv::Error) -> BadData {
    let line = error.position().map_or(1, csv::Position::line);
    match error.into_kind() {
        ErrorKind::Utf8 { .. } => BadData::Utf8 { line },
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            BadData::Csv { line, reason: format!("it has {len} cells, the first line {expected_len}") }
        }
        ErrorKind::Io(error) => BadData::Csv { line, reason: error.to_string() },
        other => BadData::Csv { line, reason: format!("{other:?}") },
    }
}
