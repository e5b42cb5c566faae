//! Parquet as users push it: what Hugging Face `datasets`, pandas or Spark write.

use bytes::Bytes;
use domain::Timestamp;
use domain::chunk::{Payload, Row};
use parquet::file::reader::ChunkReader;

use super::bad_data::{BadData, Place};
use super::columns::{Cells, Table, open_table};
use super::intake::{Columns, image, label_name, label_text, milliseconds, moment, text};

const INPUT: &str = "a string, binary or struct { bytes, path } column";
const IMAGE: &str = "a binary or struct { bytes, path } column";
const TEXT: &str = "a string column";

/// Integer labels are named by the file's own `ClassLabel`, else by [`Columns::labels`], else by
/// their number. Columns nobody asked for are not read.
pub fn read_parquet(bytes: Bytes, columns: &Columns) -> Result<Vec<Row>, BadData> {
    let rows: Vec<Row> = labelled_rows(bytes, columns)?.collect::<Result<_, _>>()?;
    if rows.is_empty() { Err(BadData::Empty) } else { Ok(rows) }
}

pub(super) fn labelled_rows<R: ChunkReader + 'static>(
    source: R,
    columns: &Columns,
) -> Result<impl Iterator<Item = Result<Row, BadData>> + use<R>, BadData> {
    rows(open_table(source)?, columns)
}

/// The table's rows, read as they are asked for.
pub(super) fn rows<R: ChunkReader + 'static>(
    table: Table<R>,
    columns: &Columns,
) -> Result<impl Iterator<Item = Result<Row, BadData>> + use<R>, BadData> {
    if columns.needs_label {
        require(&table, &columns.label, "label")?;
    }
    let input = input_column(&table, columns)?;
    let has = |name: &&str| table.schema().index_of(name).is_ok();
    let others = [&columns.label, &columns.row_id, &columns.subject, &columns.event_time].map(String::as_str);
    let present: Vec<&str> = others.into_iter().filter(has).collect();
    let wanted: Vec<&str> = std::iter::once(input.as_str()).chain(present.iter().copied()).collect();
    let place = |name| present.iter().position(|other| *other == name).map(|at| at + 1);
    let [label, row_id, subject, event_time] = others.map(place);
    let classes = table.class_names().remove(&columns.label);
    let batches = table.batches(&wanted, columns.memory / 4)?;
    let reader = Reader {
        // A column of the user's own naming holds what its type says.
        expected: match (&columns.input, input.as_str()) {
            (None, "image") => IMAGE,
            (None, _) => TEXT,
            (Some(_), _) => INPUT,
        },
        input,
        names: classes.unwrap_or_else(|| columns.labels.clone()),
        columns: columns.clone(),
        label,
        row_id,
        subject,
        event_time,
    };
    let mut position = 0;
    Ok(batches.flat_map(move |batch| {
        let rows = match batch {
            Ok(cells) => reader.take(&cells, position),
            Err(error) => vec![Err(error)],
        };
        position += rows.len();
        rows
    }))
}

fn input_column<R: ChunkReader + 'static>(table: &Table<R>, columns: &Columns) -> Result<String, BadData> {
    let has = |name: &str| table.schema().index_of(name).is_ok();
    match &columns.input {
        Some(name) => require(table, name, "input").map(|()| name.clone()),
        None if has("image") && has("text") => Err(BadData::Ambiguous),
        None if has("text") => Ok("text".to_owned()),
        None if has("image") => Ok("image".to_owned()),
        None => Err(BadData::Missing { column: "image` or `text".to_owned(), role: "input", present: table.present() }),
    }
}

fn require<R: ChunkReader + 'static>(table: &Table<R>, column: &str, role: &'static str) -> Result<(), BadData> {
    if table.schema().index_of(column).is_ok() {
        return Ok(());
    }
    Err(BadData::Missing { column: column.to_owned(), role, present: table.present() })
}

struct Reader {
    columns: Columns,
    input: String,
    expected: &'static str,
    names: Vec<String>,
    /// Where these stand among the cells. None: there is no such column.
    label: Option<usize>,
    row_id: Option<usize>,
    subject: Option<usize>,
    event_time: Option<usize>,
}

impl Reader {
    /// The rows of a batch that begins at row `from`.
    fn take(&self, cells: &[Cells], from: usize) -> Vec<Result<Row, BadData>> {
        let column = |at: Option<usize>| at.map(|at| &cells[at]);
        let row = |at: usize| {
            let (position, place) = (from + at, Place::Row((from + at) as u64));
            let filled = |column: &&Cells| !column.is_null(at);
            let label = match column(self.label).filter(|label| self.columns.needs_label || filled(label)) {
                Some(labels) => self.label(labels, at, place)?,
                None => String::new(),
            };
            let (subject, time) = (column(self.subject).filter(filled), column(self.event_time).filter(filled));
            Ok(Row {
                subject: subject.map(|cells| self.name(cells, &self.columns.subject, at)).transpose()?,
                event_time: time.map(|cells| self.time(cells, at, place)).transpose()?,
                ..Row::new(
                    self.id(column(self.row_id), at, position, place)?,
                    self.payload(&cells[0], at, place)?,
                    label,
                )
            })
        };
        (0..cells[0].len()).map(row).collect()
    }

    fn payload(&self, cells: &Cells, at: usize, place: Place) -> Result<Payload, BadData> {
        match cells {
            Cells::Text(_) if self.expected == IMAGE => Err(self.mistyped(&self.input, IMAGE, cells)),
            Cells::Binary(_) | Cells::Image(_) if self.expected == TEXT => Err(self.mistyped(&self.input, TEXT, cells)),
            Cells::Image(_) if cells.is_null(at) => {
                let remedy = "embed the image's bytes, a path alone leads nowhere here";
                Err(place.bad(&self.input, "no bytes", "an image", remedy))
            }
            _ if cells.is_null(at) => {
                Err(place.bad(&self.input, "null", "an input", "fill the value, or leave the row out"))
            }
            Cells::Text(array) => text(array.value(at), &self.input, place),
            Cells::Binary(array) | Cells::Image(array) => image(array.value(at), &self.input, place, &self.columns),
            Cells::Integer(_) | Cells::Time(_) => Err(self.mistyped(&self.input, self.expected, cells)),
        }
    }

    fn label(&self, cells: &Cells, at: usize, place: Place) -> Result<String, BadData> {
        let column = self.columns.label.as_str();
        match cells {
            _ if cells.is_null(at) => Err(place.bad(column, "null", "a label", "label the row, or leave it out")),
            Cells::Text(array) => label_text(array.value(at), column, place),
            Cells::Integer(array) => label_name(array.value(at), &self.names, column, place),
            _ => Err(self.mistyped(column, "a string or integer column", cells)),
        }
    }

    fn id(&self, cells: Option<&Cells>, at: usize, position: usize, place: Place) -> Result<String, BadData> {
        let column = self.columns.row_id.as_str();
        match cells {
            None => Ok(format!("{}:{position}", self.columns.unnamed)),
            Some(cells) if cells.is_null(at) => {
                Err(place.bad(column, "null", "a row id", "fill it, or drop the column"))
            }
            Some(cells) => self.name(cells, column, at),
        }
    }

    fn name(&self, cells: &Cells, column: &str, at: usize) -> Result<String, BadData> {
        match cells {
            Cells::Text(array) => Ok(array.value(at).to_owned()),
            Cells::Integer(array) => Ok(array.value(at).to_string()),
            other => Err(self.mistyped(column, "a string or integer column", other)),
        }
    }

    fn time(&self, cells: &Cells, at: usize, place: Place) -> Result<Timestamp, BadData> {
        let column = self.columns.event_time.as_str();
        match cells {
            Cells::Time(array) | Cells::Integer(array) => milliseconds(array.value(at), column, place),
            Cells::Text(array) => moment(array.value(at), column, place),
            other => Err(self.mistyped(column, "a timestamp, string or integer column", other)),
        }
    }

    fn mistyped(&self, column: &str, expected: &'static str, cells: &Cells) -> BadData {
        BadData::Type { column: column.to_owned(), expected, found: cells.type_name().to_owned() }
    }
}
