//! Rows to predict: read one after another from a file or a pipe, with or without a label.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use domain::chunk::Row;

use super::bad_data::{BadData, Place};
use super::columns::open_table;
use super::intake::{Columns, Format, HEAD, detect};
use super::{csv, jsonl, table, web_dataset};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

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
                Ok::<_, Unread>(())
            })?;
            Ok(Box::new(rows.into_iter()))
        }
    }
}

/// The rows of JSONL, which may have no end. After an error there are no more.
pub fn jsonl_inputs(source: impl BufRead + 'static, columns: &Columns) -> Inputs {
    let mut lines = Lines::new(source, Columns { needs_label: false, ..columns.clone() });
    let mut broken = false;
    Box::new(std::iter::from_fn(move || {
        let row = if broken { None } else { lines.next().transpose() };
        let row = row.map(|row| row.map_err(Unread::Io)?.map_err(Unread::Bad));
        broken = matches!(row, Some(Err(_)));
        row
    }))
}

/// The rows of JSONL, line by line.
pub(super) struct Lines<R> {
    source: R,
    columns: Columns,
    line: u64,
    /// Of the next row; lines that hold nothing are none.
    position: usize,
    text: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(source: R, columns: Columns) -> Self {
        Self { source, columns, line: 0, position: 0, text: Vec::new() }
    }

    /// None at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Result<Input, BadData>>> {
        loop {
            match self.advance()? {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) => return Ok(Some(Err(error))),
            }
            let text = match self.line {
                1 => self.text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&self.text),
                _ => &self.text,
            };
            if !text.trim_ascii().is_empty() {
                let row = parse(text, self.line, self.position, &self.columns);
                self.position += 1;
                return Ok(Some(row));
            }
        }
    }

    /// Reads the next line. False at the end.
    fn advance(&mut self) -> io::Result<Result<bool, BadData>> {
        self.text.clear();
        self.line += 1;
        // What has no end must not fill the memory.
        let limit = self.columns.memory / 4;
        let read = self.source.by_ref().take(limit).read_until(b'\n', &mut self.text)? as u64;
        if read == limit && !self.text.ends_with(b"\n") {
            return Ok(Err(BadData::LongLine { line: self.line, limit }));
        }
        Ok(Ok(read > 0))
    }
}

fn parse(text: &[u8], line: u64, position: usize, columns: &Columns) -> Result<Input, BadData> {
    let text = std::str::from_utf8(text).map_err(|_| BadData::Utf8 { line })?;
    Ok(Input { place: Place::Line(line), row: jsonl::parse(text, line, position, columns)? })
}
