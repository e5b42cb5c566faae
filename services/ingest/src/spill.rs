//! Rows that are told apart from the others by a key and wait on disk until all have come.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;

use domain::chunk::{Payload, Row};
use prost::Message;

use crate::Error;

/// A row's digest, which orders it.
pub type Key = [u8; 32];

/// Keys and places are in memory, rows in a file without a name.
pub struct Spill {
    file: BufWriter<File>,
    places: Vec<(Key, Place)>,
    end: u64,
}

#[derive(Clone, Copy)]
struct Place {
    start: u64,
    bytes: usize,
}

/// A row on disk.
#[derive(Message)]
struct Spilled {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(bytes = "vec", optional, tag = "2")]
    image: Option<Vec<u8>>,
    #[prost(string, tag = "3")]
    text: String,
    #[prost(string, tag = "4")]
    label: String,
    #[prost(string, optional, tag = "5")]
    subject: Option<String>,
    #[prost(uint64, optional, tag = "6")]
    event_time: Option<u64>,
}

impl From<Row> for Spilled {
    fn from(row: Row) -> Self {
        let Row { id, payload, label, subject, event_time } = row;
        let (image, text) = match payload {
            Payload::Image(bytes) => (Some(bytes), String::new()),
            Payload::Text(text) => (None, text),
        };
        Self { id, image, text, label, subject, event_time }
    }
}

impl From<Spilled> for Row {
    fn from(spilled: Spilled) -> Self {
        let Spilled { id, image, text, label, subject, event_time } = spilled;
        let payload = image.map_or(Payload::Text(text), Payload::Image);
        Self { id, payload, label, subject, event_time }
    }
}

impl Spill {
    pub fn new() -> Result<Self, Error> {
        Ok(Self { file: BufWriter::new(tempfile::tempfile()?), places: Vec::new(), end: 0 })
    }

    pub fn push(&mut self, key: Key, row: Row) -> Result<(), Error> {
        let bytes = Spilled::from(row).encode_to_vec();
        self.file.write_all(&bytes)?;
        self.places.push((key, Place { start: self.end, bytes: bytes.len() }));
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Calls `each` with the rows in the order of their keys; those of one key in the order in which they came.
    pub fn drain(mut self, mut each: impl FnMut(Row) -> Result<(), Error>) -> Result<(), Error> {
        let file = self.file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        self.places.sort_by_key(|(key, _)| *key);
        for (_, Place { start, bytes }) in self.places {
            let mut row = vec![0; bytes];
            file.read_exact_at(&mut row, start)?;
            let row = Spilled::decode(&*row).map_err(std::io::Error::other)?;
            each(row.into())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_were_in_the_order_of_their_keys() {
        let image = Row::new("b", Payload::Image(vec![0, 255]), "x");
        let whole = Row {
            subject: Some(String::new()),
            event_time: Some(0),
            ..Row::new("a", Payload::Text("é".to_owned()), "")
        };
        let empty = Row::new("", Payload::Image(Vec::new()), "y");
        let mut spill = Spill::new().unwrap();
        for (key, row) in [(2, &image), (1, &whole), (2, &empty)] {
            spill.push([key; 32], row.clone()).unwrap();
        }
        let mut found = Vec::new();
        spill
            .drain(|row| {
                found.push(row);
                Ok(())
            })
            .unwrap();
        assert_eq!(found, [whole, image, empty]);
    }
}
