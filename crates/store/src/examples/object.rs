//! One row as an object of named fields: a line of JSONL, a record of CSV. Images are base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::Timestamp;
use domain::chunk::{Payload, Row};
use serde_json::{Map, Value};

use super::bad_data::{BadData, Place};
use super::intake::{Columns, image, label_name, label_text, milliseconds, moment, text};

pub(super) type Object = Map<String, Value>;

/// What people who train on dialogues call the input and the label.
const PROMPT: [&str; 2] = ["prompt", "completion"];
const MESSAGES: &str = "messages";
/// Field names that an error lists.
const MOST_NAMES: usize = 20;

/// The row at `place`, `position` counting rows.
///
/// Where no input column is named and there is neither `image` nor `text`: `prompt` is the input and `completion` the label; or
/// `messages`, a list of `{role, content}`, of which the last is the label and the others, one a line, the input.
pub(super) fn row(object: &Object, place: Place, position: usize, columns: &Columns) -> Result<Row, BadData> {
    let (payload, label) = content(object, place, columns)?;
    Ok(Row {
        subject: subject(object, columns, place)?,
        event_time: event_time(object, columns, place)?,
        ..Row::new(row_id(object, position, columns, place)?, payload, label)
    })
}

fn content(object: &Object, place: Place, columns: &Columns) -> Result<(Payload, String), BadData> {
    let has = |name: &str| object.get(name).is_some_and(|value| !value.is_null());
    let spoken = columns.input.is_none() && !has("image") && !has("text");
    if spoken && has(MESSAGES) {
        return dialogue(object, columns, place);
    }
    let prompted = spoken && has(PROMPT[0]);
    let label_column = if prompted && brings_none(object, columns) { PROMPT[1] } else { &columns.label };
    let label = match columns.needs_label || has(label_column) {
        true => label(object, label_column, columns, place)?,
        false => String::new(),
    };
    let payload = match prompted {
        true => text(string(object, PROMPT[0], place)?, PROMPT[0], place)?,
        false => payload(object, columns, place)?,
    };
    Ok((payload, label))
}

/// Whether nobody named a column for the label, and the row has none of the usual name.
fn brings_none(object: &Object, columns: &Columns) -> bool {
    columns.label == Columns::default().label && !object.contains_key(&columns.label)
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
    image(&bytes, column, place, columns)
}

/// Whether a column of the user's own naming holds an image: base64 of a PNG or JPEG shows at once.
fn has_image_shape(value: Option<&Value>) -> bool {
    let start = value.and_then(Value::as_str).unwrap_or_default();
    start.starts_with("iVBORw0KGgo") || start.starts_with("/9j/")
}

/// What was said, and the answer. Without an answer there is no label, unless the object brings one.
fn dialogue(object: &Object, columns: &Columns, place: Place) -> Result<(Payload, String), BadData> {
    let wrong = |found: &str| {
        let expected = "a list of { role, content }, each a string";
        place.bad(MESSAGES, found, expected, "write what was said, and as the last message the assistant's answer")
    };
    let messages = object[MESSAGES].as_array().ok_or_else(|| wrong("something else"))?;
    let parts: Option<Vec<(&str, &str)>> =
        messages.iter().map(|one| Some((one.get("role")?.as_str()?, one.get("content")?.as_str()?))).collect();
    let mut parts = parts.ok_or_else(|| wrong("a message without role or content"))?;
    let answer = parts.pop_if(|(role, _)| *role == "assistant").map(|(_, content)| content);
    let needed = columns.needs_label;
    let own = object.get(&columns.label).is_some_and(|value| !value.is_null());
    let label = match answer {
        _ if own || (needed && !brings_none(object, columns)) => label(object, &columns.label, columns, place)?,
        Some(answer) => label_text(answer, MESSAGES, place)?,
        None if needed => return Err(wrong("no answer at its end")),
        None => String::new(),
    };
    let said: Vec<&str> = parts.into_iter().map(|(_, content)| content).collect();
    Ok((text(&said.join("\n"), MESSAGES, place)?, label))
}

fn label(object: &Object, column: &str, columns: &Columns, place: Place) -> Result<String, BadData> {
    match object.get(column).and_then(Value::as_i64) {
        Some(index) => label_name(index, &columns.labels, column, place),
        None => label_text(string(object, column, place)?, column, place),
    }
}

/// A row's id, which has to be there, and its label.
pub(super) fn labelled(object: &Object, columns: &Columns, place: Place) -> Result<(String, String), BadData> {
    match object.get(&columns.row_id) {
        // An id that is made up names no row.
        None | Some(Value::Null) => Err(string(object, &columns.row_id, place).err().unwrap_or(BadData::Empty)),
        Some(_) => Ok((row_id(object, 0, columns, place)?, label(object, &columns.label, columns, place)?)),
    }
}

fn row_id(object: &Object, position: usize, columns: &Columns, place: Place) -> Result<String, BadData> {
    match object.get(&columns.row_id) {
        None | Some(Value::Null) => Ok(format!("{}:{position}", columns.unnamed)),
        Some(Value::Number(number)) => Ok(number.to_string()),
        Some(_) => string(object, &columns.row_id, place).map(str::to_owned),
    }
}

/// None where it says nothing.
pub(super) fn subject(object: &Object, columns: &Columns, place: Place) -> Result<Option<String>, BadData> {
    match object.get(&columns.subject) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(_) => string(object, &columns.subject, place).map(|text| Some(text.to_owned())),
    }
}

/// None where it says nothing.
pub(super) fn event_time(object: &Object, columns: &Columns, place: Place) -> Result<Option<Timestamp>, BadData> {
    let column = &columns.event_time;
    match object.get(column) {
        None | Some(Value::Null) => Ok(None),
        Some(value) if value.is_i64() => milliseconds(value.as_i64().unwrap_or_default(), column, place).map(Some),
        Some(_) => moment(string(object, column, place)?, column, place).map(Some),
    }
}

fn string<'a>(object: &'a Object, column: &str, place: Place) -> Result<&'a str, BadData> {
    let found = match object.get(column) {
        Some(Value::String(text)) => return Ok(text),
        Some(Value::Null) => "null".to_owned(),
        Some(Value::Array(_)) => "a list".to_owned(),
        Some(Value::Object(_)) => "an object".to_owned(),
        Some(other) => format!("`{other}`"),
        None => {
            let names: Vec<String> = object.keys().take(MOST_NAMES).map(|name| format!("`{name:.40}`")).collect();
            let more = if object.len() > MOST_NAMES { ", …" } else { "" };
            format!("no such field among {}{more}", names.join(", "))
        }
    };
    Err(place.bad(column, found, "a string", "add or correct the field"))
}
