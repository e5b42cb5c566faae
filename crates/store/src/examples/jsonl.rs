//! JSONL as users push it: one object per line, images in base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::chunk::{Payload, Row};
use serde_json::{Map, Value};

use super::bad_data::{BadData, Place};
use super::intake::{Columns, image, label_name, label_text, text};

/// Lines that hold nothing are skipped; fields nobody asked for are ignored.
pub fn read_jsonl(bytes: &[u8], columns: &Columns) -> Result<Vec<Row>, BadData> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut rows = Vec::new();
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let number = index as u64 + 1;
        let line = std::str::from_utf8(line).map_err(|_| BadData::Utf8 { line: number })?;
        if !line.trim().is_empty() {
            rows.push(parse(line, number, rows.len(), columns)?);
        }
    }
    if rows.is_empty() {
        return Err(BadData::Empty);
    }
    Ok(rows)
}

fn parse(line: &str, number: u64, position: usize, columns: &Columns) -> Result<Row, BadData> {
    let object = object(line, number)?;
    row(&object, number, position, columns, label)
}

/// A row that may bring no label; then its label is empty, which no label is.
pub(super) fn parse_input(line: &str, number: u64, position: usize, columns: &Columns) -> Result<Row, BadData> {
    let object = object(line, number)?;
    match object.get(&columns.label) {
        None | Some(Value::Null) => row(&object, number, position, columns, |_, _, _| Ok(String::new())),
        Some(_) => row(&object, number, position, columns, label),
    }
}

type Object = Map<String, Value>;

fn object(line: &str, number: u64) -> Result<Object, BadData> {
    serde_json::from_str(line).map_err(|e| BadData::Json { line: number, reason: e.to_string() })
}

fn row(
    object: &Object,
    number: u64,
    position: usize,
    columns: &Columns,
    label: fn(&Object, &Columns, Place) -> Result<String, BadData>,
) -> Result<Row, BadData> {
    let place = Place::Line(number);
    Ok(Row {
        id: row_id(object, position, columns, place)?,
        payload: payload(object, columns, place)?,
        label: label(object, columns, place)?,
    })
}

fn payload(object: &Object, columns: &Columns, place: Place) -> Result<Payload, BadData> {
    let has = |name: &str| object.get(name).is_some_and(|value| !value.is_null());
    let (column, is_image) = match &columns.input {
        Some(name) => (name.as_str(), name == "image" || has_image_shape(object.get(name))),
        None if has("image") && has("text") => return Err(BadData::Ambiguous),
        None if has("image") => ("image", true),
        None => ("text", false),
    };
    let value = string(object, column, place)?;
    if !is_image {
        return text(value, column, place);
    }
    let bytes = STANDARD.decode(value.trim()).map_err(|e| {
        let remedy = "encode the image file's bytes in standard base64";
        place.bad(column, format!("text that is not base64 ({e})"), "base64", remedy)
    })?;
    image(&bytes, column, place)
}

/// Whether a column of the user's own naming holds an image: base64 of a PNG or JPEG shows at once.
fn has_image_shape(value: Option<&Value>) -> bool {
    let start = value.and_then(Value::as_str).unwrap_or_default();
    start.starts_with("iVBORw0KGgo") || start.starts_with("/9j/")
}

fn label(object: &Object, columns: &Columns, place: Place) -> Result<String, BadData> {
    let column = columns.label.as_str();
    match object.get(column).and_then(Value::as_i64) {
        Some(index) => label_name(index, &columns.labels, column, place),
        None => label_text(string(object, column, place)?, column, place),
    }
}

fn row_id(object: &Object, position: usize, columns: &Columns, place: Place) -> Result<String, BadData> {
    match object.get(&columns.row_id) {
        None | Some(Value::Null) => Ok(format!("{}:{position}", columns.unnamed)),
        Some(Value::Number(number)) => Ok(number.to_string()),
        Some(_) => string(object, &columns.row_id, place).map(str::to_owned),
    }
}

fn string<'a>(object: &'a Map<String, Value>, column: &str, place: Place) -> Result<&'a str, BadData> {
    let found = match object.get(column) {
        Some(Value::String(text)) => return Ok(text),
        Some(Value::Null) => "null".to_owned(),
        Some(Value::Array(_)) => "a list".to_owned(),
        Some(Value::Object(_)) => "an object".to_owned(),
        Some(other) => format!("`{other}`"),
        None => {
            let names: Vec<String> = object.keys().map(|name| format!("`{name}`")).collect();
            format!("no such field among {}", names.join(", "))
        }
    };
    Err(place.bad(column, found, "a string", "add or correct the field"))
}
