//! JSONL as users push it: one object per line.

use domain::chunk::Row;

use super::bad_data::{BadData, Place};
use super::intake::Columns;
use super::object;

pub fn read_jsonl(bytes: &[u8], columns: &Columns) -> Result<Vec<Row>, BadData> {
    let rows: Vec<Row> = rows(bytes, columns).collect::<Result<_, _>>()?;
    if rows.is_empty() { Err(BadData::Empty) } else { Ok(rows) }
}

/// Lines that hold nothing are skipped; fields nobody asked for are ignored.
pub(super) fn rows(bytes: &[u8], columns: &Columns) -> impl Iterator<Item = Result<Row, BadData>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let lines = bytes.split(|&byte| byte == b'\n').zip(1..).filter(|(line, _)| !line.trim_ascii().is_empty());
    lines.enumerate().map(|(position, (line, number))| {
        let line = std::str::from_utf8(line).map_err(|_| BadData::Utf8 { line: number })?;
        parse(line, number, position, columns)
    })
}

/// The row of a line.
pub(super) fn parse(line: &str, number: u64, position: usize, columns: &Columns) -> Result<Row, BadData> {
    let object = serde_json::from_str(line).map_err(|e| BadData::Json { line: number, reason: e.to_string() })?;
    object::row(&object, Place::Line(number), position, columns)
}
