//! What users push: which format it is, which columns matter, what a good value is.

use std::io::{Cursor, Read};

use chrono::DateTime;
use domain::Timestamp;
use domain::chunk::{Payload, Row};
use image::{ImageFormat, ImageReader, Limits};
use parquet::file::reader::ChunkReader;

use super::bad_data::{BadData, Place};
use super::csv::{self, Delimiter};
use super::inputs::{Lines, Unread};
use super::table::labelled_rows;
use super::web_dataset;

/// Pixels on a side at most.
const MAX_SIDE: u32 = 16_384;

/// Which columns hold what, and what it may take to read them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// None: `image` or `text`, whichever there is.
    pub input: Option<String>,
    pub label: String,
    /// Whether a row without a label is an error. Else its label is empty, which no label is.
    pub needs_label: bool,
    /// Read if present, as the next two.
    pub row_id: String,
    pub subject: String,
    /// Milliseconds since the Unix epoch, or RFC 3339.
    pub event_time: String,
    /// Names for integer labels, where the file brings none.
    pub labels: Vec<String>,
    /// Rows that bring no id are called `<unnamed>:<position>`.
    pub unnamed: String,
    /// Bytes that reading may hold at a time, about: a line or a file in a tar takes a quarter of them at most, and so do the
    /// rows of a table that are decoded together; an image half.
    pub memory: u64,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            input: None,
            label: "label".to_owned(),
            needs_label: true,
            row_id: "row_id".to_owned(),
            subject: "subject".to_owned(),
            event_time: "event_time".to_owned(),
            labels: Vec::new(),
            unnamed: "row".to_owned(),
            memory: 512 << 20,
        }
    }
}

/// Bytes that say which format a file has.
pub const HEAD: u64 = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Parquet,
    Jsonl,
    Csv(Delimiter),
    /// WebDataset.
    Tar,
}

const NAMES: [(&str, Format); 5] = [
    ("parquet", Format::Parquet),
    ("jsonl", Format::Jsonl),
    ("csv", Format::Csv(Delimiter::Comma)),
    ("tsv", Format::Csv(Delimiter::Tab)),
    ("tar", Format::Tar),
];

impl Format {
    pub fn name(self) -> &'static str {
        NAMES.into_iter().find(|(_, format)| *format == self).expect("each has a name").0
    }

    pub fn named(name: &str) -> Option<Self> {
        NAMES.into_iter().find(|(known, _)| *known == name).map(|(_, format)| format)
    }
}

/// Rows of a file that cannot be used, at most: what is said of each is kept.
const MOST_BAD: usize = 10_000;
/// Bytes that the rows of any file may take. Rows of Parquet that share a value have a copy each.
const ROOM: u64 = 256 << 20;
/// Of a larger file, times its own bytes.
const RATIO: u64 = 16;

/// Where a tar says that it is one.
const TAR_MAGIC: std::ops::Range<usize> = 257..262;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// By content where it says so, else by name. `bytes` are the first [`HEAD`].
pub fn detect(name: &str, bytes: &[u8]) -> Result<Format, BadData> {
    let lower = name.to_ascii_lowercase();
    let ends = |ends: &[&str]| ends.iter().any(|end| lower.ends_with(end));
    if bytes.starts_with(b"PAR1") || ends(&[".parquet"]) {
        return Ok(Format::Parquet);
    }
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    if ends(&[".jsonl", ".ndjson", ".json"]) || first == Some(&b'{') {
        return Ok(Format::Jsonl);
    }
    if ends(&[".csv"]) {
        return Ok(Format::Csv(Delimiter::Comma));
    }
    if ends(&[".tsv"]) {
        return Ok(Format::Csv(Delimiter::Tab));
    }
    if ends(&[".tar"]) || bytes.get(TAR_MAGIC) == Some(b"ustar") {
        return Ok(Format::Tar);
    }
    if bytes.is_empty() {
        return Err(BadData::Empty);
    }
    if bytes.starts_with(GZIP) || bytes.starts_with(ZSTD) {
        return Err(BadData::Compressed { name: name.to_owned() });
    }
    Err(BadData::Format { name: name.to_owned() })
}

/// Reads a pushed file, and calls `each` with every row of it as it comes: checked, or what is wrong with it.
///
/// # Errors
/// What is wrong with the file, or with its first row where no row is good: then it is not what it was taken for. And what
/// `each` says.
pub fn read<R: ChunkReader + 'static, E: From<Unread>>(
    format: Format,
    source: R,
    columns: &Columns,
    each: impl FnMut(Result<Row, BadData>) -> Result<(), E>,
) -> Result<(), E> {
    let room = ROOM.max(RATIO * source.len());
    let mut rows = Rows { each, room, bytes: 0, good: false, bad: 0, first: None };
    match format {
        Format::Parquet => {
            labelled_rows(source, columns).map_err(Unread::Bad)?.try_for_each(|row| rows.take(row))?;
        }
        Format::Jsonl => {
            let mut lines = Lines::new(std::io::BufReader::new(begin(&source)?), columns.clone());
            while let Some(row) = lines.next().map_err(Unread::Io)? {
                rows.take(row.map(|input| input.row))?;
            }
        }
        Format::Csv(delimiter) => {
            let records = csv::rows(begin(&source)?, delimiter, columns).map_err(Unread::Bad)?;
            records.map(|record| record.map(|(_, row)| row)).try_for_each(|row| rows.take(row))?;
        }
        Format::Tar => web_dataset::read(begin(&source)?, columns, |_, row| rows.take(row))?,
    }
    rows.end()
}

fn begin<R: ChunkReader>(source: &R) -> Result<impl Read + use<R>, Unread> {
    source.get_read(0).map_err(|error| Unread::Io(std::io::Error::other(error)))
}

struct Rows<F> {
    each: F,
    /// Bytes that good rows may take together.
    room: u64,
    /// Those that they take.
    bytes: u64,
    good: bool,
    bad: usize,
    /// What is wrong with the first of those.
    first: Option<BadData>,
}

impl<F> Rows<F> {
    /// Ends at the first error that is not of one row: a reader may repeat it for ever.
    fn take<E: From<Unread>>(&mut self, row: Result<Row, BadData>) -> Result<(), E>
    where
        F: FnMut(Result<Row, BadData>) -> Result<(), E>,
    {
        match &row {
            Ok(row) => {
                self.good = true;
                self.bytes += row.bytes();
            }
            Err(error) if !error.is_of_a_row() => return Err(Unread::Bad(error.clone()).into()),
            Err(error) if self.bad == MOST_BAD => {
                return Err(Unread::Bad(BadData::TooMany { limit: MOST_BAD, last: error.to_string() }).into());
            }
            Err(error) => {
                self.bad += 1;
                self.first.get_or_insert_with(|| error.clone());
            }
        }
        if self.bytes > self.room {
            return Err(Unread::Bad(BadData::Swells { limit: self.room, ratio: RATIO }).into());
        }
        (self.each)(row)
    }

    fn end<E: From<Unread>>(self) -> Result<(), E> {
        if self.good {
            return Ok(());
        }
        Err(Unread::Bad(self.first.unwrap_or(BadData::Empty)).into())
    }
}

/// An image that decodes. Whole, not only its header: the next to decode it is a training step.
pub(super) fn image(bytes: &[u8], column: &str, place: Place, columns: &Columns) -> Result<Payload, BadData> {
    let bad = |found: String| {
        let remedy = "encode the image again, or leave the row out";
        place.bad(column, found, "a PNG or JPEG file", remedy)
    };
    let mut reader = ImageReader::new(Cursor::new(bytes));
    reader.set_format(match image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg)) => format,
        Ok(other) => return Err(bad(format!("a {other:?} file"))),
        Err(_) => return Err(bad(format!("{} bytes of no known image format", bytes.len()))),
    });
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(columns.memory / 2);
    reader.limits(limits);
    reader.decode().map_err(|e| bad(format!("an image that does not decode ({e})")))?;
    Ok(Payload::Image(bytes.to_vec()))
}

pub(super) fn text(text: &str, column: &str, place: Place) -> Result<Payload, BadData> {
    if text.is_empty() {
        let remedy = "leave the row out";
        return Err(place.bad(column, "an empty string", "text", remedy));
    }
    Ok(Payload::Text(text.to_owned()))
}

/// The name of label `index`: from `names`, or the number itself where there are none.
pub(super) fn label_name(index: i64, names: &[String], column: &str, place: Place) -> Result<String, BadData> {
    if names.is_empty() {
        return Ok(index.to_string());
    }
    let name = usize::try_from(index).ok().and_then(|i| names.get(i));
    name.cloned().ok_or_else(|| {
        let expected = format!("a label index below {}", names.len());
        place.bad(column, index.to_string(), expected, "label the row, or leave it out")
    })
}

pub(super) fn label_text(label: &str, column: &str, place: Place) -> Result<String, BadData> {
    if label.is_empty() {
        return Err(place.bad(column, "an empty string", "a label name", "label the row, or leave it out"));
    }
    Ok(label.to_owned())
}

/// A moment as people write it.
pub(super) fn moment(text: &str, column: &str, place: Place) -> Result<Timestamp, BadData> {
    let parsed = DateTime::parse_from_rfc3339(text).ok().and_then(|time| u64::try_from(time.timestamp_millis()).ok());
    parsed.ok_or_else(|| {
        let expected = "a time as in RFC 3339, or milliseconds since 1970";
        place.bad(column, format!("`{text}`"), expected, "write it like 2026-11-27T09:30:00Z")
    })
}

pub(super) fn milliseconds(number: i64, column: &str, place: Place) -> Result<Timestamp, BadData> {
    u64::try_from(number).map_err(|_| {
        place.bad(column, number.to_string(), "milliseconds since 1970", "correct it, or leave the time out")
    })
}
