//! Labels on their own: a file of row ids and what each row is.

use super::bad_data::{BadData, Place};
use super::csv::{self, Delimiter};
use super::intake::{Columns, Format};
use super::object::{self, Object};

/// (row id, label) of each line.
///
/// # Errors
/// At the first line that holds no such pair. Only JSONL, CSV and TSV are read.
pub fn read_labels(format: Format, bytes: &[u8], columns: &Columns) -> Result<Vec<(String, String)>, BadData> {
    let labels = match format {
        Format::Jsonl => jsonl(bytes, columns)?,
        Format::Csv(delimiter) => table(bytes, delimiter, columns)?,
        Format::Parquet | Format::Tar => {
            let name = "a Parquet file or a tar".to_owned();
            return Err(BadData::NoLabels { name });
        }
    };
    if labels.is_empty() { Err(BadData::Empty) } else { Ok(labels) }
}

fn jsonl(bytes: &[u8], columns: &Columns) -> Result<Vec<(String, String)>, BadData> {
    let lines = bytes.split(|&byte| byte == b'\n').zip(1..).filter(|(line, _)| !line.trim_ascii().is_empty());
    let pair = |(line, number): (&[u8], u64)| {
        let wrong = |e: serde_json::Error| BadData::Json { line: number, reason: e.to_string() };
        object::labelled(&serde_json::from_slice(line).map_err(wrong)?, columns, Place::Line(number))
    };
    lines.map(pair).collect()
}

fn table(bytes: &[u8], delimiter: Delimiter, columns: &Columns) -> Result<Vec<(String, String)>, BadData> {
    let pair = |(place, object): (Place, Object)| object::labelled(&object, columns, place);
    csv::objects(bytes, delimiter, columns)?.map(|record| record.and_then(pair)).collect()
}
