//! A data set's file in memory: inputs as they are encoded, and the integers that choose rows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use domain::chunk::Payload;

use crate::Error;
use crate::examples::{BadData, Cells, open_table};

pub(super) struct DataFile {
    pub inputs: Vec<Payload>,
    label: String,
    integers: BTreeMap<String, Vec<i64>>,
}

impl DataFile {
    pub(super) fn read(path: &Path, input: &str, label: &str, filters: &BTreeSet<&str>) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::file("open", path))?;
        let mut names = filters.clone();
        names.insert(label);
        load(file, input, label, &names).map_err(|source| Error::Data { path: path.display().to_string(), source })
    }

    pub(super) fn labels(&self) -> &[i64] {
        &self.integers[&self.label]
    }

    /// Positions of the rows that pass every filter, in order.
    pub(super) fn rows_where(&self, filter: &BTreeMap<String, Vec<i64>>) -> Vec<usize> {
        let passes = |row: &usize| filter.iter().all(|(column, values)| values.contains(&self.integers[column][*row]));
        (0..self.inputs.len()).filter(passes).collect()
    }
}

fn load(file: File, input: &str, label: &str, integers: &BTreeSet<&str>) -> Result<DataFile, BadData> {
    let table = open_table(file)?;
    let columns: Vec<&str> = std::iter::once(input).chain(integers.iter().copied()).collect();
    for column in &columns {
        if table.schema().index_of(column).is_err() {
            return Err(BadData::Missing {
                column: (*column).to_owned(),
                role: "stream's data",
                present: table.present(),
            });
        }
    }
    let mut loaded = DataFile {
        inputs: Vec::new(),
        label: label.to_owned(),
        integers: integers.iter().map(|name| ((*name).to_owned(), Vec::new())).collect(),
    };
    table.read(&columns, |cells| loaded.take(&columns, cells))?;
    Ok(loaded)
}

impl DataFile {
    fn take(&mut self, columns: &[&str], cells: &[Cells]) -> Result<(), BadData> {
        for (column, cells) in columns.iter().zip(cells) {
            if let Some(row) = (0..cells.len()).find(|&row| cells.is_null(row)) {
                return Err(BadData::Value {
                    row: (self.inputs.len() + row) as u64,
                    column: (*column).to_owned(),
                    expected: "a value".to_owned(),
                    found: "null".to_owned(),
                    remedy: "take the file from its source again",
                });
            }
        }
        for (column, cells) in columns.iter().zip(cells).skip(1) {
            let Cells::Integer(values) = cells else {
                return Err(mistyped(column, "integer", cells));
            };
            self.integers.entry((*column).to_owned()).or_default().extend_from_slice(values.values());
        }
        match &cells[0] {
            Cells::Image(array) | Cells::Binary(array) => {
                self.inputs.extend(array.iter().flatten().map(|bytes| Payload::Image(bytes.to_vec())));
            }
            Cells::Text(array) => self.inputs.extend(array.iter().flatten().map(|text| Payload::Text(text.to_owned()))),
            Cells::Integer(_) => return Err(mistyped(columns[0], "an image or text column", &cells[0])),
        }
        Ok(())
    }
}

fn mistyped(column: &str, expected: &'static str, found: &Cells) -> BadData {
    BadData::Type { column: column.to_owned(), expected, found: found.type_name().to_owned() }
}
