//! Small files that ask for a large memory: each is refused before it is given.

mod support;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use perennial_store::examples::{BadData, Columns, Delimiter, Format};
use support::rows_of;

/// One text in every row; equal ones are written once.
fn table(text: &str, rows: usize, dictionary: bool) -> Vec<u8> {
    let column = |value: &str| Arc::new(StringArray::from(vec![value; rows])) as ArrayRef;
    let batch = RecordBatch::try_from_iter([("text", column(text)), ("label", column("a"))]).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_dictionary_enabled(dictionary);
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties.build())).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

fn refused(format: Format, bytes: Vec<u8>) -> BadData {
    rows_of(format, bytes, &Columns::default()).unwrap_err()
}

#[test]
fn rows_that_share_a_value_are_refused_where_their_copies_would_fill_the_memory() {
    let file = table(&"x".repeat(200_000), 1_500, true);
    assert!(file.len() < 1 << 20, "{}", file.len());
    let error = refused(Format::Parquet, file);
    assert_eq!(error, BadData::Swells { limit: 256 << 20, ratio: 16 });
    assert!(error.to_string().contains("push it in parts"), "{error}");
    let rows = rows_of(Format::Parquet, table(&"x".repeat(200_000), 100, true), &Columns::default()).unwrap();
    assert_eq!(rows.len(), 100);
}

#[test]
fn a_page_that_becomes_many_times_its_size_is_refused_before_it_is_unpacked() {
    let error = refused(Format::Parquet, table(&"x".repeat(80 << 20), 1, false)).to_string();
    assert!(error.contains("column `text` has a page of 8388") && error.contains("write smaller pages"), "{error}");
}

#[test]
fn what_is_said_of_a_bad_row_does_not_repeat_all_of_it() {
    let (name, rows) = ("n".repeat(1 << 20), 2_000);
    let file = format!("text,label,{name}\n,a,1\nx,a,1\n{}", "x,,1\n".repeat(rows));
    let read = rows_of(Format::Csv(Delimiter::Comma), file, &Columns::default()).unwrap();
    let said: usize = read.iter().filter_map(|row| row.as_ref().err()).map(|error| error.to_string().len()).sum();
    assert!(said < 1 << 20, "{said} bytes are said of {} rows", read.len());
    let missing = format!("{name},label\n{}", "x,a\n".repeat(rows));
    let error = refused(Format::Csv(Delimiter::Comma), missing.into_bytes()).to_string();
    assert!(error.len() < 1_000 && error.contains("no such field among `label`"), "{error}");
}
