//! Parquet as users push it: what Hugging Face `datasets`, pandas or Spark write.

use bytes::Bytes;
use domain::chunk::{Payload, Row};

use super::bad_data::{BadData, Place};
use super::columns::{Cells, Table, open_table};
use super::intake::{Columns, image, label_name, label_text, text};

const INPUT: &str = "a string, binary or struct { bytes, path } column";
const IMAGE: &str = "a binary or struct { bytes, path } column";
const TEXT: &str = "a string column";

/// Integer labels are named by the file's own `ClassLabel`, else by [`Columns::labels`], else by
/// their number. Columns nobody asked for are not read.
pub fn read_parquet(bytes: Bytes, columns: &Columns) -> Result<Vec<Row>, BadData> {
    let table = open_table(bytes)?;
    let input = input_column(&table, columns)?;
    require(&table, &columns.label, "label")?;
    let named = table.schema().index_of(&columns.row_id).is_ok();
    let classes = table.class_names().remove(&columns.label);
    let reader = Reader {
        columns,
        input: &input,
        // A column of the user's own naming holds what its type says.
        expected: match (&columns.input, input.as_str()) {
            (None, "image") => IMAGE,
            (None, _) => TEXT,
            (Some(_), _) => INPUT,
        },
        names: classes.as_ref().unwrap_or(&columns.labels),
    };
    let mut wanted = vec![input.as_str(), columns.label.as_str()];
    if named {
        wanted.push(&columns.row_id);
    }
    let mut rows = Vec::new();
    table.read(&wanted, |cells| reader.take(cells, &mut rows))?;
    if rows.is_empty() {
        return Err(BadData::Empty);
    }
    Ok(rows)
}

fn input_column(table: &Table<Bytes>, columns: &Columns) -> Result<String, BadData> {
    let has = |name: &str| table.schema().index_of(name).is_ok();
    match &columns.input {
        Some(name) => require(table, name, "input").map(|()| name.clone()),
        None if has("image") && has("text") => Err(BadData::Ambiguous),
        None if has("text") => Ok("text".to_owned()),
        None if has("image") => Ok("image".to_owned()),
        None => Err(BadData::Missing { column: "image` or `text".to_owned(), role: "input", present: table.present() }),
    }
}

fn require(table: &Table<Bytes>, column: &str, role: &'static str) -> Result<(), BadData> {
    if table.schema().index_of(column).is_ok() {
        return Ok(());
    }
    Err(BadData::Missing { column: column.to_owned(), role, present: table.present() })
}

struct Reader<'a> {
    columns: &'a Columns,
    input: &'a str,
    expected: &'static str,
    names: &'a [String],
}

impl Reader<'_> {
    fn take(&self, cells: &[Cells], rows: &mut Vec<Row>) -> Result<(), BadData> {
        for at in 0..cells[0].len() {
            let place = Place::Row(rows.len() as u64);
            rows.push(Row {
                id: self.id(cells.get(2), at, rows.len(), place)?,
                payload: self.payload(&cells[0], at, place)?,
                label: self.label(&cells[1], at, place)?,
            });
        }
        Ok(())
    }

    fn payload(&self, cells: &Cells, at: usize, place: Place) -> Result<Payload, BadData> {
        match cells {
            Cells::Text(_) if self.expected == IMAGE => Err(self.mistyped(self.input, IMAGE, cells)),
            Cells::Binary(_) | Cells::Image(_) if self.expected == TEXT => Err(self.mistyped(self.input, TEXT, cells)),
            Cells::Image(_) if cells.is_null(at) => {
                let remedy = "embed the image's bytes, a path alone leads nowhere here";
                Err(place.bad(self.input, "no bytes", "an image", remedy))
            }
            _ if cells.is_null(at) => {
                Err(place.bad(self.input, "null", "an input", "fill the value, or leave the row out"))
            }
            Cells::Text(array) => text(array.value(at), self.input, place),
            Cells::Binary(array) | Cells::Image(array) => image(array.value(at), self.input, place),
            Cells::Integer(_) => Err(self.mistyped(self.input, self.expected, cells)),
        }
    }

    fn label(&self, cells: &Cells, at: usize, place: Place) -> Result<String, BadData> {
        let column = self.columns.label.as_str();
        match cells {
            _ if cells.is_null(at) => Err(place.bad(column, "null", "a label", "label the row, or leave it out")),
            Cells::Text(array) => label_text(array.value(at), column, place),
            Cells::Integer(array) => label_name(array.value(at), self.names, column, place),
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
