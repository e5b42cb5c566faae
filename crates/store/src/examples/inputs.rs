//! Rows to predict: read one after another from a file or a pipe, with or without a label.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use domain::chunk::Row;

use super::bad_data::{BadData, Place};
use super::columns::open_table;
use super::intake::{Columns, Format, detect};
use super::{csv, jsonl, table, web_dataset};

/// Bytes of a line at most: what has no end must not fill the memory.
const MAX_LINE: u64 = 64 << 20;
/// Bytes that say which format a file has.
const HEAD: u64 = 512;

/// Why there are no more rows.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    #[error(transparent)]
    Bad(#[from] BadData),
    #[error("the rows cannot be read")]
    Io(#[from] std::io::Error),
}

/// A row and where it stands. One that brings no label has an empty one.
#[derive(Debug, PartialEq)]
pub struct Input {
    pub place: Place,
    pub row: Row,
}

pub type Inputs = Box<dyn Iterator<Item = Result<Input, Unread>>>;

/// The rows of a file. A tar is read whole.
pub fn open_inputs(path: &Path, columns: &Columns) -> Result<Inputs, Unread> {
    let mut head = Vec::new();
    File::open(path)?.take(HEAD).read_to_end(&mut head)?;
    let (file, columns) = (File::open(path)?, &Columns { needs_label: false, ..columns.clone() });
    match detect(&path.to_string_lossy(), &head)? {
        Format::Parquet => {
            let rows = table::rows(open_table(file)?, columns)?.zip(0..);
            Ok(Box::new(rows.map(|(row, number)| Ok(Input { place: Place::Row(number), row: row? }))))
        }
        Format::Jsonl => Ok(jsonl_inputs(BufReader::new(file), columns)),
        Format::Csv(delimiter) => {
            let rows = csv::rows(file, delimiter, columns)?;
            Ok(Box::new(rows.map(|row| row.map(|(place, row)| Input { place, row }).map_err(Unread::from))))
        }
        Format::Tar => {
            let mut rows = Vec::new();
            web_dataset::read(BufReader::new(file), columns, |place, row| {
                rows.push(row.map(|row| Input { place, row }).map_err(Unread::from));
            })?;
            Ok(Box::new(rows.into_iter()))
        }
    }
}

/// The rows of JSONL, which may have no end. After an error there are no more.
pub fn jsonl_inputs(source: impl BufRead + 'static, columns: &Columns) -> Inputs {
    let columns = Columns { needs_label: false, ..columns.clone() };
    let mut lines = Lines { source, columns, line: 0, position: 0, text: Vec::new() };
    let mut broken = false;
    Box::new(std::iter::from_fn(move || {
        let row = if broken { None } else { lines.next().transpose() };
        broken = matches!(row, Some(Err(_)));
        row
    }))
}

struct Lines<R> {
    source: R,
    columns: Columns,
    line: u64,
    /// Of the next row; lines that hold nothing are none.
    position: usize,
    text: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> Result<Option<Input>, Unread> {
        while self.advance()? {
            let text = std::str::from_utf8(&self.text).map_err(|_| BadData::Utf8 { line: self.line })?;
            let text = text.strip_prefix('\u{feff}').filter(|_| self.line == 1).unwrap_or(text);
            if !text.trim().is_empty() {
                let row = jsonl::parse(text, self.line, self.position, &self.columns)?;
                self.position += 1;
                return Ok(Some(Input { place: Place::Line(self.line), row }));
            }
        }
        Ok(None)
    }

    /// Reads the next line. False at the end.
    fn advance(&mut self) -> Result<bool, Unread> {
        self.text.clear();
        self.line += 1;
        let read = self.source.by_ref().take(MAX_LINE).read_until(b'\n', &mut self.text)?;
        if read as u64 == MAX_LINE && !self.text.ends_with(b"\n") {
            return Err(BadData::LongLine { line: self.line, limit: MAX_LINE }.into());
        }
        Ok(read > 0)
    }
}
