//! Parquet as users push it: what Hugging Face `datasets`, pandas or Spark write.

use bytes::Bytes;
use domain::chunk::{Payload, Row};
use parquet::file::reader::ChunkReader;

use super::bad_data::{BadData, Place};
use super::columns::{Cells, Table, open_table};
use super::intake::{Columns, image, label_name, label_text, text};

const INPUT: &str = "a string, binary or struct { bytes, path } column";
const IMAGE: &str = "a binary or struct { bytes, path } column";
const TEXT: &str = "a string column";

/// Integer labels are named by the file's own `ClassLabel`, else by [`Columns::labels`], else by
/// their number. Columns nobody asked for are not read.
pub fn read_parquet(bytes: Bytes, columns: &Columns) -> Result<Vec<Row>, BadData> {
    let rows: Vec<Row> = labelled_rows(bytes, columns)?.collect::<Result<_, _>>()?;
    if rows.is_empty() { Err(BadData::Empty) } else { Ok(rows) }
}

pub(super) fn labelled_rows(
    bytes: Bytes,
    columns: &Columns,
) -> Result<impl Iterator<Item = Result<Row, BadData>> + use<>, BadData> {
    let table = open_table(bytes)?;
    require(&table, &columns.label, "label")?;
    rows(table, columns, true)
}

/// The table's rows, read as they are asked for. A label that is not there and not `needed` is empty, which no label is.
pub(super) fn rows<R: ChunkReader + 'static>(
    table: Table<R>,
    columns: &Columns,
    needed: bool,
) -> Result<impl Iterator<Item = Result<Row, BadData>> + use<R>, BadData> {
    let input = input_column(&table, columns)?;
    let has = |name: &str| table.schema().index_of(name).is_ok();
    let (labelled, named) = (has(&columns.label), has(&columns.row_id));
    let mut wanted = vec![input.as_str()];
    wanted.extend(labelled.then_some(columns.label.as_str()));
    wanted.extend(named.then_some(columns.row_id.as_str()));
    let classes = table.class_names().remove(&columns.label);
    let batches = table.batches(&wanted)?;
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
        labelled,
        needed,
        named,
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
    /// Whether a column of labels, and one of row ids, follows the input's.
    labelled: bool,
    named: bool,
    /// Whether a row without a label is an error.
    needed: bool,
}

impl Reader {
    /// The rows of a batch that begins at row `from`.
    fn take(&self, cells: &[Cells], from: usize) -> Vec<Result<Row, BadData>> {
        let labels = self.labelled.then(|| &cells[1]);
        let ids = self.named.then(|| &cells[1 + usize::from(self.labelled)]);
        let row = |at: usize| {
            let (position, place) = (from + at, Place::Row((from + at) as u64));
            Ok(Row {
                id: self.id(ids, at, position, place)?,
                payload: self.payload(&cells[0], at, place)?,
                label: match labels.filter(|labels| self.needed || !labels.is_null(at)) {
                    Some(labels) => self.label(labels, at, place)?,
                    None => String::new(),
                },
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
            Cells::Binary(array) | Cells::Image(array) => image(array.value(at), &self.input, place),
            Cells::Integer(_) => Err(self.mistyped(&self.input, self.expected, cells)),
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
            Some(Cells::Text(array)) => Ok(array.value(at).to_owned()),
            Some(Cells::Integer(array)) => Ok(array.value(at).to_string()),
            Some(other) => Err(self.mistyped(column, "a string or integer column", other)),
        }
    }

    fn mistyped(&self, column: &str, expected: &'static str, cells: &Cells) -> BadData {
        BadData::Type { column: column.to_owned(), expected, found: cells.type_name().to_owned() }
    }
}
