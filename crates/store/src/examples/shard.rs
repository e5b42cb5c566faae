//! The canonical shard: Parquet in one schema, equal bytes for equal rows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, LargeBinaryArray, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, UInt64Type};
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

/// A row, and its place among all rows of the shard.
pub type Placed = (u32, Row);

/// Labels that came after the rows, by place.
pub type LateLabels = BTreeMap<u32, String>;

/// Rows as one Parquet file. `split` is `train` or `held_out`.
///
/// A chunk is named by its content, so equal rows must give equal bytes: nothing here depends on
/// time, machine or version.
pub fn write_shard(rows: &[Row], task: &TaskName, split: &str) -> Result<Vec<u8>, Error> {
    let rows: Vec<Option<&Row>> = rows.iter().map(Some).collect();
    let written = encode(&rows, task.as_str(), split);
    written.map_err(|reason| unreadable("(in memory)", reason))
}

/// The rows of a canonical shard, in order, but for those that were erased. `labels` is a file of [`LateLabels`].
pub fn read_shard(path: &Path, labels: Option<&Path>) -> Result<Vec<Placed>, Error> {
    read(path, labels, None)
}

/// Those of the rows at `positions`, ascending. Row groups that hold none of them are not read.
pub fn read_shard_rows(path: &Path, labels: Option<&Path>, positions: &[usize]) -> Result<Vec<Placed>, Error> {
    read(path, labels, Some(positions))
}

fn read(path: &Path, labels: Option<&Path>, positions: Option<&[usize]>) -> Result<Vec<Placed>, Error> {
    let file = File::open(path).map_err(Error::file("open", path))?;
    let rows = decode(file, positions).map_err(|reason| unreadable(&path.display().to_string(), reason))?;
    let late = match labels {
        Some(labels) => late_labels(&std::fs::read(labels).map_err(Error::file("read", labels))?, labels)?,
        None => LateLabels::new(),
    };
    let places: Vec<u32> = match positions {
        Some(positions) => positions.iter().map(|&at| at as u32).collect(),
        None => (0..rows.len() as u32).collect(),
    };
    Ok(places.into_iter().zip(rows).filter_map(|(at, row)| Some((at, relabelled(row?, late.get(&at))))).collect())
}

fn relabelled(row: Row, label: Option<&String>) -> Row {
    match label {
        Some(label) => Row { label: label.clone(), ..row },
        None => row,
    }
}

fn late_labels(text: &[u8], path: &Path) -> Result<LateLabels, Error> {
    let shown = path.display().to_string();
    serde_json::from_slice(text).map_err(|e| Error::Shard { path: shown, reason: e.to_string() })
}

/// As [`read_shard`], from memory.
pub fn read_shard_bytes(bytes: Bytes) -> Result<Vec<Placed>, Error> {
    let rows = decode(bytes, None).map_err(|reason| unreadable("(in memory)", reason))?;
    Ok((0..).zip(rows).filter_map(|(at, row)| Some((at, row?))).collect())
}

/// The shard without what the rows at these places hold. The others stay where they are.
pub fn erase_rows(bytes: Bytes, places: &BTreeSet<u32>, task: &TaskName, split: &str) -> Result<Vec<u8>, Error> {
    let rows = decode(bytes, None).map_err(|reason| unreadable("(in memory)", reason))?;
    let kept: Vec<Option<&Row>> =
        (0..).zip(&rows).map(|(at, row)| row.as_ref().filter(|_| !places.contains(&at))).collect();
    let written = encode(&kept, task.as_str(), split);
    written.map_err(|reason| unreadable("(in memory)", reason))
}

pub(super) fn unreadable(path: &str, reason: ParquetError) -> Error {
    Error::Shard { path: path.to_owned(), reason: reason.to_string() }
}

/// Subjects and times have columns where a row has any.
fn schema(rows: &[Option<&Row>]) -> Arc<Schema> {
    let field = |name, kind, nullable| Field::new(name, kind, nullable);
    let has = |what: fn(&Row) -> bool| rows.iter().flatten().any(|row| what(row));
    let mut fields = vec![
        field("row_id", DataType::Utf8, false),
        field("image", DataType::LargeBinary, true),
        field("text", DataType::Utf8, true),
        field("label", DataType::Utf8, false),
        field("task", DataType::Utf8, false),
        field("split", DataType::Utf8, false),
    ];
    fields.extend(has(|row| row.subject.is_some()).then(|| field("subject", DataType::Utf8, true)));
    fields.extend(has(|row| row.event_time.is_some()).then(|| field("event_time", DataType::UInt64, true)));
    Arc::new(Schema::new(fields))
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

/// What was erased is a row without an input.
fn encode(rows: &[Option<&Row>], task: &str, split: &str) -> Result<Vec<u8>, ParquetError> {
    let options = ArrowWriterOptions::new().with_properties(properties()).with_skip_arrow_metadata(true);
    let schema = schema(rows);
    let mut writer = ArrowWriter::try_new_with_options(Vec::new(), schema.clone(), options)?;
    for rows in rows.chunks(ROW_GROUP) {
        writer.write(&batch(rows, &schema, task, split)?)?;
    }
    writer.into_inner()
}

fn batch(rows: &[Option<&Row>], schema: &Arc<Schema>, task: &str, split: &str) -> Result<RecordBatch, ArrowError> {
    let column = |name: &str| -> ArrayRef {
        let texts = |of: fn(&Row) -> &str| StringArray::from_iter_values(rows.iter().map(|row| row.map_or("", of)));
        let all = |value| StringArray::from_iter_values(std::iter::repeat_n(value, rows.len()));
        match name {
            "row_id" => Arc::new(texts(|row| &row.id)),
            "image" => Arc::new(LargeBinaryArray::from_iter(rows.iter().map(|row| match &(*row)?.payload {
                Payload::Image(bytes) => Some(bytes.as_slice()),
                Payload::Text(_) => None,
            }))),
            "text" => Arc::new(StringArray::from_iter(rows.iter().map(|row| match &(*row)?.payload {
                Payload::Text(text) => Some(text.as_str()),
                Payload::Image(_) => None,
            }))),
            "label" => Arc::new(texts(|row| &row.label)),
            "task" => Arc::new(all(task)),
            "split" => Arc::new(all(split)),
            "subject" => Arc::new(StringArray::from_iter(rows.iter().map(|row| (*row)?.subject.as_deref()))),
            _ => Arc::new(UInt64Array::from_iter(rows.iter().map(|row| (*row)?.event_time))),
        }
    };
    let columns = schema.fields().iter().map(|field| column(field.name()));
    RecordBatch::try_new(schema.clone(), columns.collect())
}

fn decode(file: impl ChunkReader + 'static, positions: Option<&[usize]>) -> Result<Vec<Option<Row>>, ParquetError> {
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

fn decode_batch(batch: &RecordBatch, rows: &mut Vec<Option<Row>>) -> Result<(), ParquetError> {
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
    let subjects = text("subject").ok();
    let times = column("event_time").ok().and_then(|times| times.as_primitive_opt::<UInt64Type>());
    for at in 0..batch.num_rows() {
        let payload = match (image.is_valid(at), texts.is_valid(at)) {
            (true, _) => Payload::Image(image.value(at).to_vec()),
            (false, true) => Payload::Text(texts.value(at).to_owned()),
            (false, false) => {
                rows.push(None);
                continue;
            }
        };
        rows.push(Some(Row {
            subject: subjects.filter(|column| column.is_valid(at)).map(|column| column.value(at).to_owned()),
            event_time: times.filter(|column| column.is_valid(at)).map(|column| column.value(at)),
            ..Row::new(ids.value(at), payload, labels.value(at))
        }));
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
        let row = |i| Row::new(format!("r{i}"), payload(i), format!("l{}", i % 3));
        (0..n).map(row).collect()
    }

    fn placed(rows: &[Row]) -> Vec<Placed> {
        (0..).zip(rows.to_vec()).collect()
    }

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn a_shard_reads_back_in_order() {
        let (rows, task) = (rows(2500), "digits".parse().unwrap());
        let bytes = write_shard(&rows, &task, "train").unwrap();
        assert_eq!(read_shard_bytes(bytes.clone().into()).unwrap(), placed(&rows));
        assert_eq!(read_shard(file(&bytes).path(), None).unwrap(), placed(&rows));
    }

    #[test]
    fn whom_a_row_is_about_and_when_read_back() {
        let mut rows = rows(3);
        (rows[0].subject, rows[2].event_time) = (Some("anna".to_owned()), Some(1_700_000_000_000));
        let bytes = write_shard(&rows, &"digits".parse().unwrap(), "train").unwrap();
        assert_eq!(read_shard_bytes(bytes.into()).unwrap(), placed(&rows));
    }

    #[test]
    fn a_late_label_goes_before_the_rows_own() {
        let rows = rows(5);
        let shard = file(&write_shard(&rows, &"digits".parse().unwrap(), "train").unwrap());
        let labels = file(br#"{"1": "late", "4": "later"}"#);
        let found = read_shard(shard.path(), Some(labels.path())).unwrap();
        assert_eq!(
            found.iter().map(|(_, row)| row.label.as_str()).collect::<Vec<_>>(),
            ["l0", "late", "l2", "l0", "later"]
        );
        let found = read_shard_rows(shard.path(), Some(labels.path()), &[3, 4]).unwrap();
        assert_eq!(
            found.iter().map(|(at, row)| (*at, row.label.as_str())).collect::<Vec<_>>(),
            [(3, "l0"), (4, "later")]
        );
        let torn = read_shard(shard.path(), Some(file(b"{").path())).unwrap_err();
        assert_eq!(torn.kind(), crate::Kind::Damaged);
    }

    #[test]
    fn what_is_erased_leaves_its_place_and_nothing_else() {
        let (mut rows, task) = (rows(2100), "digits".parse().unwrap());
        rows[1500].subject = Some("anna".to_owned());
        rows[1500].payload = Payload::Text("anna's secret".to_owned());
        let bytes = write_shard(&rows, &task, "train").unwrap();
        let erased = erase_rows(bytes.into(), &[0, 1500].into(), &task, "train").unwrap();
        let mut left = placed(&rows);
        left.retain(|(at, _)| ![0, 1500].contains(at));
        assert_eq!(read_shard_bytes(erased.clone().into()).unwrap(), left);
        let found = read_shard_rows(file(&erased).path(), None, &[0, 1, 1500]).unwrap();
        assert_eq!(found, [(1, rows[1].clone())]);
        let again = erase_rows(erased.into(), &[1].into(), &task, "train").unwrap();
        assert_eq!(read_shard_bytes(again.into()).unwrap().len(), 2097);
    }

    #[test]
    fn some_rows_are_read_without_the_others() {
        let (rows, task) = (rows(2500), "digits".parse().unwrap());
        let file = file(&write_shard(&rows, &task, "train").unwrap());
        let positions = [0, 1, 7, 999, 1000, 2499];
        let wanted: Vec<Placed> = positions.iter().map(|&position| (position as u32, rows[position].clone())).collect();
        assert_eq!(read_shard_rows(file.path(), None, &positions).unwrap(), wanted);
        assert_eq!(read_shard_rows(file.path(), None, &[]).unwrap(), []);
        let error = read_shard_rows(file.path(), None, &[2500]).unwrap_err().to_string();
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
        let file = file(&bytes[..bytes.len() / 2]);
        let error = read_shard(file.path(), None).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Damaged);
        assert!(error.to_string().contains(&*file.path().to_string_lossy()), "{error}");
    }
}
