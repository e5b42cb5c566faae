//! The canonical shard: Parquet in one schema, equal bytes for equal rows.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, LargeBinaryArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use bytes::Bytes;
use domain::chunk::{Payload, Row};
use domain::id::TaskName;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::ChunkReader;

use crate::Error;

const ROW_GROUP: usize = 1000;
/// Rows decoded at once. Small, because a column of a batch must stay under 2 GiB.
const BATCH: usize = 128;

/// Rows as one Parquet file. `split` is `train` or `held_out`.
///
/// A chunk is named by its content, so equal rows must give equal bytes: nothing here depends on
/// time, machine or version.
pub fn write_shard(rows: &[Row], task: &TaskName, split: &str) -> Result<Vec<u8>, Error> {
    let written = encode(rows, task.as_str(), split);
    written.map_err(|reason| unreadable("(in memory)", reason))
}

/// The rows of a canonical shard, in order.
pub fn read_shard(path: &Path) -> Result<Vec<Row>, Error> {
    let file = File::open(path).map_err(Error::file("open", path))?;
    decode(file, None).map_err(|reason| unreadable(&path.display().to_string(), reason))
}

/// The rows at `positions`, ascending. Row groups that hold none of them are not read.
pub fn read_shard_rows(path: &Path, positions: &[usize]) -> Result<Vec<Row>, Error> {
    let file = File::open(path).map_err(Error::file("open", path))?;
    decode(file, Some(positions)).map_err(|reason| unreadable(&path.display().to_string(), reason))
}

/// As [`read_shard`], from memory.
pub fn read_shard_bytes(bytes: Bytes) -> Result<Vec<Row>, Error> {
    decode(bytes, None).map_err(|reason| unreadable("(in memory)", reason))
}

fn unreadable(path: &str, reason: ParquetError) -> Error {
    Error::Shard { path: path.to_owned(), reason: reason.to_string() }
}

fn schema() -> Arc<Schema> {
    let field = |name, kind, nullable| Field::new(name, kind, nullable);
    Arc::new(Schema::new(vec![
        field("row_id", DataType::Utf8, false),
        field("image", DataType::LargeBinary, true),
        field("text", DataType::Utf8, true),
        field("label", DataType::Utf8, false),
        field("task", DataType::Utf8, false),
        field("split", DataType::Utf8, false),
    ]))
}

fn properties() -> WriterProperties {
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_created_by("perennial".to_owned())
        .set_max_row_group_row_count(Some(ROW_GROUP))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .set_column_dictionary_enabled("image".into(), false)
        .set_column_dictionary_enabled("text".into(), false)
        .set_column_dictionary_enabled("row_id".into(), false)
        .build()
}

fn encode(rows: &[Row], task: &str, split: &str) -> Result<Vec<u8>, ParquetError> {
    let options = ArrowWriterOptions::new().with_properties(properties()).with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(Vec::new(), schema(), options)?;
    for rows in rows.chunks(ROW_GROUP) {
        writer.write(&batch(rows, task, split)?)?;
    }
    writer.into_inner()
}

fn batch(rows: &[Row], task: &str, split: &str) -> Result<RecordBatch, ArrowError> {
    let images = rows.iter().map(|row| match &row.payload {
        Payload::Image(bytes) => Some(bytes.as_slice()),
        Payload::Text(_) => None,
    });
    let texts = rows.iter().map(|row| match &row.payload {
        Payload::Text(text) => Some(text.as_str()),
        Payload::Image(_) => None,
    });
    let all = |value| std::iter::repeat_n(value, rows.len());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.id))),
        Arc::new(LargeBinaryArray::from_iter(images)),
        Arc::new(StringArray::from_iter(texts)),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.label))),
        Arc::new(StringArray::from_iter_values(all(task))),
        Arc::new(StringArray::from_iter_values(all(split))),
    ];
    RecordBatch::try_new(schema(), columns)
}

fn decode(file: impl ChunkReader + 'static, positions: Option<&[usize]>) -> Result<Vec<Row>, ParquetError> {
    let mut builder = ParquetRecordBatchReaderBuilder::try_new(file)?.with_batch_size(BATCH);
    if let Some(positions) = positions {
        let rows = builder.metadata().file_metadata().num_rows() as usize;
        if let Some(beyond) = positions.iter().find(|position| **position >= rows) {
            return Err(ParquetError::General(format!("it has {rows} rows, and row {beyond} is wanted")));
        }
        let ranges = positions.iter().map(|position| *position..position + 1);
        builder = builder.with_row_selection(RowSelection::from_consecutive_ranges(ranges, rows));
    }
    let mut rows = Vec::new();
    for batch in builder.build()? {
        decode_batch(&batch?, &mut rows)?;
    }
    Ok(rows)
}

fn decode_batch(batch: &RecordBatch, rows: &mut Vec<Row>) -> Result<(), ParquetError> {
    let column = |name: &str| {
        let missing = || ParquetError::General(format!("no column `{name}`"));
        batch.column_by_name(name).ok_or_else(missing)
    };
    let text = |name: &str| -> Result<&StringArray, ParquetError> {
        let found = column(name)?;
        let wrong = || ParquetError::General(format!("column `{name}` is {}, not a string", found.data_type()));
        found.as_string_opt::<i32>().ok_or_else(wrong)
    };
    let image: &BinaryArray = column("image")?
        .as_binary_opt::<i32>()
        .ok_or_else(|| ParquetError::General("column `image` is not binary".to_owned()))?;
    let (ids, texts, labels) = (text("row_id")?, text("text")?, text("label")?);
    for row in 0..batch.num_rows() {
        let payload = if image.is_valid(row) {
            Payload::Image(image.value(row).to_vec())
        } else {
            Payload::Text(texts.value(row).to_owned())
        };
        rows.push(Row { id: ids.value(row).to_owned(), payload, label: labels.value(row).to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize) -> Vec<Row> {
        let payload = |i: usize| match i % 2 {
            0 => Payload::Image(vec![i as u8; 40 + i % 7]),
            _ => Payload::Text(format!("text {i}")),
        };
        let row = |i| Row { id: format!("r{i}"), payload: payload(i), label: format!("l{}", i % 3) };
        (0..n).map(row).collect()
    }

    #[test]
    fn a_shard_reads_back_in_order() {
        let (rows, task) = (rows(2500), "digits".parse().unwrap());
        let bytes = write_shard(&rows, &task, "train").unwrap();
        assert_eq!(read_shard_bytes(bytes.clone().into()).unwrap(), rows);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        assert_eq!(read_shard(file.path()).unwrap(), rows);
    }

    #[test]
    fn some_rows_are_read_without_the_others() {
        let (rows, task) = (rows(2500), "digits".parse().unwrap());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), write_shard(&rows, &task, "train").unwrap()).unwrap();
        let positions = [0, 1, 7, 999, 1000, 2499];
        let wanted: Vec<Row> = positions.iter().map(|&position| rows[position].clone()).collect();
        assert_eq!(read_shard_rows(file.path(), &positions).unwrap(), wanted);
        assert_eq!(read_shard_rows(file.path(), &[]).unwrap(), []);
        let error = read_shard_rows(file.path(), &[2500]).unwrap_err().to_string();
        assert!(error.contains("2500 rows"), "{error}");
    }

    #[test]
    fn equal_rows_give_equal_bytes() {
        let task = "digits".parse().unwrap();
        let write = || write_shard(&rows(1200), &task, "held_out").unwrap();
        assert_eq!(write(), write());
    }

    #[test]
    fn no_rows_are_a_shard_too() {
        let bytes = write_shard(&[], &"digits".parse().unwrap(), "train").unwrap();
        assert_eq!(read_shard_bytes(bytes.into()).unwrap(), []);
    }

    #[test]
    fn a_torn_shard_is_an_error_that_names_it() {
        let bytes = write_shard(&rows(10), &"digits".parse().unwrap(), "train").unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes[..bytes.len() / 2]).unwrap();
        let error = read_shard(file.path()).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Damaged);
        assert!(error.to_string().contains(&*file.path().to_string_lossy()), "{error}");
    }
}
