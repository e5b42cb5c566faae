//! JSONL as users push it: one object per line.

use domain::chunk::Row;

use super::bad_data::{BadData, Place};
use super::inputs::Lines;
use super::intake::Columns;
use super::object;

/// The rows of a file in memory, if all are good. Lines that hold nothing are skipped; fields nobody asked for are ignored.
pub fn read_jsonl(bytes: &[u8], columns: &Columns) -> Result<Vec<Row>, BadData> {
    let (mut lines, mut rows) = (Lines::new(bytes, columns.clone()), Vec::new());
    while let Some(input) = lines.next().expect("memory can be read") {
        rows.push(input?.row);
    }
    if rows.is_empty() { Err(BadData::Empty) } else { Ok(rows) }
}

/// The row of a line.
pub(super) fn parse(line: &str, number: u64, position: usize, columns: &Columns) -> Result<Row, BadData> {
    let object = serde_json::from_str(line).map_err(|e| BadData::Json { line: number, reason: e.to_string() })?;
    object::row(&object, Place::Line(number), position, columns)
}
