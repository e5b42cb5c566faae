//! WebDataset as users push it: a tar whose files `key.png`, `key.cls`, … are one row.
//!
//! An image (`png`, `jpg`, `jpeg`) or a text (`txt`) is the input; `cls` holds the label, a name or an index, or `json` an
//! object with the label's field. The key is the row's id. Files of one row follow one another, as its readers ask for;
//! files with other endings are passed over. Where a row has both image and text, the input column names the ending that counts.

use std::io::{self, Read};

use domain::chunk::{Payload, Row};
use serde_json::Value;
use tar::Archive;

use super::bad_data::{BadData, Place};
use super::inputs::Unread;
use super::intake::{Columns, image, label_name, label_text, text};
use super::object::{self, Object};

/// A tar ends with at least one block of zeros: without it, it was cut between two files.
const BLOCK: u64 = 512;
const IMAGES: [&str; 3] = ["png", "jpg", "jpeg"];
const TEXT: &str = "txt";
const CLASS: &str = "cls";
const OBJECT: &str = "json";

/// Calls `each` with every row, or what is wrong with it, and its number.
pub(super) fn read<E: From<Unread>>(
    source: impl Read,
    columns: &Columns,
    mut each: impl FnMut(Place, Result<Row, BadData>) -> Result<(), E>,
) -> Result<(), E> {
    // What claims to have no end must not fill the memory.
    let limit = columns.memory / 4;
    let mut archive = Archive::new(Zeros { source, count: 0 });
    let (mut sample, mut place) = (None::<Sample>, 0);
    let mut finish = |sample: Sample| {
        let at = Place::Row(place);
        place += 1;
        each(at, sample.row(columns, at))
    };
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let Some((key, ending)) = divided(&path) else { continue };
        let ending = ending.to_lowercase();
        if !is_part(&ending, columns) {
            continue;
        }
        if let Some(whole) = sample.take_if(|sample| sample.key != key) {
            finish(whole)?;
        }
        let sample = sample.get_or_insert_with(|| Sample { key: key.to_owned(), parts: Vec::new() });
        let mut bytes = Vec::new();
        entry.by_ref().take(limit + 1).read_to_end(&mut bytes).map_err(broken)?;
        if bytes.len() as u64 > limit {
            return Err(Unread::Bad(BadData::LargeFile { path, limit }).into());
        }
        sample.parts.push((ending, path, bytes));
    }
    sample.map_or(Ok(()), finish)?;
    Ok(check_end(archive.into_inner())?)
}

/// Whether a file with this ending says anything about a row.
fn is_part(ending: &str, columns: &Columns) -> bool {
    let input = match &columns.input {
        Some(input) => ending == input,
        None => IMAGES.contains(&ending) || ending == TEXT,
    };
    input || ending == CLASS || ending == OBJECT
}

/// How many zeros the bytes that went through end with.
struct Zeros<R> {
    source: R,
    count: u64,
}

impl<R: Read> Read for Zeros<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        let zeros = buffer[..read].iter().rev().take_while(|byte| **byte == 0).count();
        self.count = if zeros == read { self.count + zeros as u64 } else { zeros as u64 };
        Ok(read)
    }
}

fn check_end(mut rest: Zeros<impl Read>) -> Result<(), Unread> {
    if rest.count < BLOCK {
        return Err(BadData::Tar { reason: "it has no end".to_owned() }.into());
    }
    let before = rest.count;
    let more = io::copy(&mut rest, &mut io::sink()).map_err(broken)?;
    match rest.count == before + more {
        true => Ok(()),
        false => {
            Err(BadData::Tar { reason: "something follows its end; is it several tars in one?".to_owned() }.into())
        }
    }
}

fn broken(error: io::Error) -> Unread {
    BadData::Tar { reason: error.to_string() }.into()
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
    fn row(self, columns: &Columns, place: Place) -> Result<Row, BadData> {
        let part = |holds: &dyn Fn(&str) -> bool| self.parts.iter().find(|(ending, ..)| holds(ending));
        let picture = part(&|ending| IMAGES.contains(&ending));
        let words = part(&|ending| !IMAGES.contains(&ending) && ending != CLASS && ending != OBJECT);
        let (class, object) = (part(&|ending| ending == CLASS), part(&|ending| ending == OBJECT));
        let payload = match (picture, words) {
            (Some(_), Some(_)) => return Err(BadData::Ambiguous),
            (Some((_, path, bytes)), None) => image(bytes, path, place, columns)?,
            (None, Some((_, path, bytes))) => written(path, bytes, place)?,
            (None, None) => {
                let remedy = "put the image or the text right beside it, under the same name";
                return Err(place.bad(&self.key, "no input", "a .png, .jpg or .txt file", remedy));
            }
        };
        let fields = match object {
            Some((_, path, bytes)) => parsed(path, bytes, place)?,
            None => Object::new(),
        };
        let label = match (class, object) {
            (Some((_, path, bytes)), _) => Some(class_name(path, bytes, columns, place)?),
            (None, Some((_, path, _))) => field(path, &fields, columns, place)?,
            (None, None) => None,
        };
        match label {
            None if columns.needs_label => {
                let expected = format!("a .cls file, or a .json file with `{}`", columns.label);
                Err(place.bad(&self.key, "no label", expected, "put the row's files one after the other, or label it"))
            }
            label => Ok(Row {
                subject: object::subject(&fields, columns, place)?,
                event_time: object::event_time(&fields, columns, place)?,
                ..Row::new(self.key, payload, label.unwrap_or_default())
            }),
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
    let is_name = columns.labels.is_empty() || columns.labels.iter().any(|label| label == name);
    match name.parse() {
        Ok(index) if !is_name => label_name(index, &columns.labels, path, place),
        _ => label_text(name, path, place),
    }
}

fn parsed(path: &str, bytes: &[u8], place: Place) -> Result<Object, BadData> {
    let wrong = |e: serde_json::Error| place.bad(path, format!("no JSON ({e})"), "an object", "write it again");
    serde_json::from_slice(bytes).map_err(wrong)
}

fn field(path: &str, object: &Object, columns: &Columns, place: Place) -> Result<Option<String>, BadData> {
    match object.get(&columns.label) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(name)) => label_text(name, path, place).map(Some),
        Some(Value::Number(number)) if number.is_i64() => {
            label_name(number.as_i64().unwrap_or_default(), &columns.labels, path, place).map(Some)
        }
        Some(other) => Err(place.bad(path, format!("`{other}`"), "a label's name or index", "correct the field")),
    }
}
