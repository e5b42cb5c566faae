//! JSONL as users push it: one object per line.

use domain::chunk::Row;

use super::bad_data::{BadData, Place};
use super::intake::Columns;
use super::object;

/// Lines that hold nothing are skipped; fields nobody asked for are ignored.
pub fn read_jsonl(bytes: &[u8], columns: &Columns) -> Result<Vec<Row>, BadData> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut rows = Vec::new();
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let number = index as u64 + 1;
        let line = std::str::from_utf8(line).map_err(|_| BadData::Utf8 { line: number })?;
        if !line.trim().is_empty() {
            rows.push(parse(line, number, rows.len(), columns, true)?);
        }
    }
    if rows.is_empty() {
        return Err(BadData::Empty);
    }
    Ok(rows)
}

/// The row of a line. A label that is not there and not `needed` is empty, which no label is.
pub(super) fn parse(line: &str, number: u64, position: usize, columns: &Columns, needed: bool) -> Result<Row, BadData> {
    let object = serde_json::from_str(line).map_err(|e| BadData::Json { line: number, reason: e.to_string() })?;
    object::row(&object, Place::Line(number), position, columns, needed)
}
