//! WebDataset as users push it: a tar whose files `key.png`, `key.cls`, … are one row.
//!
//! An image (`png`, `jpg`, `jpeg`) or a text (`txt`) is the input; `cls` holds the label, a name or an index, or `json` an
//! object with the label's field. The key is the row's id. Files of one row follow one another, as its readers ask for;
//! files with other endings are passed over.

use std::io::Read;

use domain::chunk::{Payload, Row};
use serde_json::Value;
use tar::Archive;

use super::bad_data::{BadData, Place};
use super::intake::{Columns, image, label_name, label_text, text};

/// Bytes of one file at most: what claims to have no end must not fill the memory.
const MAX_FILE: u64 = 256 << 20;

/// Calls `each` with every row and its number. A label that is not there and not `needed` is empty, which no label is.
pub(super) fn read(
    source: impl Read,
    columns: &Columns,
    needed: bool,
    mut each: impl FnMut(Place, Row),
) -> Result<(), BadData> {
    let mut archive = Archive::new(source);
    let (mut sample, mut place) = (None::<Sample>, 0);
    let mut finish = |sample: Sample| {
        let at = Place::Row(place);
        if let Some(row) = sample.row(columns, needed, at)? {
            each(at, row);
            place += 1;
        }
        Ok::<_, BadData>(())
    };
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let Some((key, ending)) = divided(&path) else { continue };
        if sample.as_ref().is_some_and(|sample| sample.key != key) {
            sample.take().map_or(Ok(()), &mut finish)?;
        }
        let sample = sample.get_or_insert_with(|| Sample { key: key.to_owned(), parts: Vec::new() });
        let mut bytes = Vec::new();
        entry.by_ref().take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(broken)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(BadData::LargeFile { path, limit: MAX_FILE });
        }
        sample.parts.push((ending.to_lowercase(), path, bytes));
    }
    sample.map_or(Ok(()), finish)
}

fn broken(error: std::io::Error) -> BadData {
    BadData::Tar { reason: error.to_string() }
}

/// Everything before the name's first dot, and everything after it. None for a hidden file, which is no part of a row.
fn divided(path: &str) -> Option<(&str, &str)> {
    let name = path.rfind('/').map_or(0, |at| at + 1);
    let dot = name + path[name..].find('.').filter(|at| *at > 0)?;
    Some((&path[..dot], &path[dot + 1..]))
}

/// The files of one row: ending, path and content of each.
struct Sample {
    key: String,
    parts: Vec<(String, String, Vec<u8>)>,
}

impl Sample {
    /// None where it has neither input nor label: then it is no row.
    fn row(self, columns: &Columns, needed: bool, place: Place) -> Result<Option<Row>, BadData> {
        let part = |endings: &[&str]| self.parts.iter().find(|(ending, ..)| endings.contains(&ending.as_str()));
        let (picture, words) = (part(&["png", "jpg", "jpeg"]), part(&["txt"]));
        let (class, object) = (part(&["cls"]), part(&["json"]));
        if picture.or(words).or(class).or(object).is_none() {
            return Ok(None);
        }
        let payload = match (picture, words) {
            (Some(_), Some(_)) => return Err(BadData::Ambiguous),
            (Some((_, path, bytes)), None) => image(bytes, path, place)?,
            (None, Some((_, path, bytes))) => written(path, bytes, place)?,
            (None, None) => {
                let remedy = "put the image or the text beside it, under the same name";
                return Err(place.bad(&self.key, "no input", "a .png, .jpg or .txt file", remedy));
            }
        };
        let label = match (class, object) {
            (Some((_, path, bytes)), _) => Some(class_name(path, bytes, columns, place)?),
            (None, Some((_, path, bytes))) => field(path, bytes, columns, place)?,
            (None, None) => None,
        };
        match label {
            None if needed => {
                let expected = format!("a .cls file, or a .json file with `{}`", columns.label);
                Err(place.bad(&self.key, "no label", expected, "label the row, or leave it out"))
            }
            label => Ok(Some(Row { id: self.key, payload, label: label.unwrap_or_default() })),
        }
    }
}

fn utf8<'a>(path: &str, bytes: &'a [u8], place: Place) -> Result<&'a str, BadData> {
    let wrong = |_| place.bad(path, "bytes that are not UTF-8", "text", "save the file as UTF-8");
    std::str::from_utf8(bytes).map_err(wrong)
}

fn written(path: &str, bytes: &[u8], place: Place) -> Result<Payload, BadData> {
    text(utf8(path, bytes, place)?.trim_end_matches(['\r', '\n']), path, place)
}

/// An index counts into the pipeline's labels unless it is one's name.
fn class_name(path: &str, bytes: &[u8], columns: &Columns, place: Place) -> Result<String, BadData> {
    let name = utf8(path, bytes, place)?.trim();
    let is_known = columns.labels.iter().any(|label| label == name);
    match name.parse() {
        Ok(index) if !is_known => label_name(index, &columns.labels, path, place),
        _ => label_text(name, path, place),
    }
}

fn field(path: &str, bytes: &[u8], columns: &Columns, place: Place) -> Result<Option<String>, BadData> {
    let wrong = |e: serde_json::Error| place.bad(path, format!("no JSON ({e})"), "an object", "write it again");
    let object: Value = serde_json::from_slice(bytes).map_err(wrong)?;
    match &object[&columns.label] {
        Value::Null => Ok(None),
        Value::String(name) => label_text(name, path, place).map(Some),
        Value::Number(number) if number.is_i64() => {
            label_name(number.as_i64().unwrap_or_default(), &columns.labels, path, place).map(Some)
        }
        other => Err(place.bad(path, format!("`{other}`"), "a label's name or index", "correct the field")),
    }
}
