//! Columns of a Parquet file, whatever width its writer chose for them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, LargeBinaryArray, LargeStringArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, SchemaRef, TimeUnit};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};
use parquet::basic::Type;
use parquet::file::reader::ChunkReader;
use serde_json::Value;

use super::bad_data::BadData;
use super::pages::{self, RATIO};

/// Rows decoded at once, at most. Small, because a column of a batch must stay under 2 GiB.
const BATCH: usize = 128;
/// Bytes of one column that are decoded at once, where nothing else is said. No value is larger than its page; rows may share one.
const BATCH_BYTES: u64 = 128 << 20;

/// A Parquet file that is open, its rows not yet read.
pub(crate) struct Table<R: ChunkReader + 'static> {
    builder: ParquetRecordBatchReaderBuilder<R>,
    /// Of each leaf: [`pages::largest`].
    largest: Vec<Result<u64, u64>>,
}

/// One column of a batch.
pub(crate) enum Cells {
    Binary(LargeBinaryArray),
    /// A Hugging Face image: `bytes`, which may be null beside a `path`.
    Image(LargeBinaryArray),
    Text(LargeStringArray),
    Integer(Int64Array),
    /// Milliseconds since the Unix epoch.
    Time(Int64Array),
}

pub(crate) fn open_table<R: ChunkReader + 'static>(file: R) -> Result<Table<R>, BadData> {
    guarded(|| {
        let metadata = ArrowReaderMetadata::load(&file, Default::default()).map_err(|e| e.to_string())?;
        let groups = metadata.metadata().row_groups();
        let leaf =
            |at: usize| groups.iter().try_fold(0, |most, group| Ok(pages::largest(&file, group.column(at))?.max(most)));
        let largest = (0..metadata.parquet_schema().num_columns()).map(leaf).collect();
        Ok(Table { builder: ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata), largest })
    })
}

impl<R: ChunkReader + 'static> Table<R> {
    pub(crate) fn schema(&self) -> &SchemaRef {
        self.builder.schema()
    }

    /// Column names, quoted and comma-separated.
    pub(crate) fn present(&self) -> String {
        let names: Vec<String> = self.schema().fields().iter().map(|f| format!("`{}`", f.name())).collect();
        names.join(", ")
    }

    /// Class names per column, as `datasets` leaves them in the file's metadata.
    pub(crate) fn class_names(&self) -> BTreeMap<String, Vec<String>> {
        let pairs = self.builder.metadata().file_metadata().key_value_metadata();
        let json = pairs.into_iter().flatten().find(|pair| pair.key == "huggingface");
        let parsed = json.and_then(|pair| serde_json::from_str(pair.value.as_deref()?).ok());
        let info: Value = parsed.unwrap_or_default();
        let features = info["info"]["features"].as_object().into_iter().flatten();
        let names = |feature: &Value| serde_json::from_value(feature["names"].clone()).ok();
        features.filter_map(|(column, feature)| Some((column.clone(), names(feature)?))).collect()
    }

    /// Calls `each` with the named columns of every batch, in order.
    pub(crate) fn read(
        self,
        columns: &[&str],
        mut each: impl FnMut(&[Cells]) -> Result<(), BadData>,
    ) -> Result<(), BadData> {
        for cells in self.batches(columns, BATCH_BYTES)? {
            each(&cells?)?;
        }
        Ok(())
    }

    /// The named columns, batch by batch, each of about so many bytes at most.
    pub(crate) fn batches(
        self,
        columns: &[&str],
        bytes: u64,
    ) -> Result<impl Iterator<Item = Result<Vec<Cells>, BadData>> + use<R>, BadData> {
        let roots: Vec<usize> = columns.iter().filter_map(|name| self.schema().index_of(name).ok()).collect();
        let mask = ProjectionMask::roots(self.builder.parquet_schema(), roots);
        let batch = self.batch(&mask, bytes)?;
        let builder = self.builder.with_projection(mask).with_batch_size(batch);
        let mut reader = guarded(|| builder.build().map_err(|e| e.to_string()))?;
        let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
        Ok(std::iter::from_fn(move || {
            let batch = guarded(|| reader.next().transpose().map_err(|e| e.to_string())).transpose()?;
            Some(batch.and_then(|batch| columns.iter().map(|name| cells(&batch, name)).collect()))
        }))
    }

    /// Rows to decode at once, for about so many bytes of a column.
    fn batch(&self, mask: &ProjectionMask, bytes: u64) -> Result<usize, BadData> {
        let schema = self.builder.parquet_schema();
        let mut most = 0;
        for (at, largest) in self.largest.iter().enumerate().filter(|(at, _)| mask.leaf_included(*at)) {
            let column = schema.column(at);
            let swollen = |bytes| BadData::Page { column: column.path().string(), bytes, ratio: RATIO };
            let page = largest.map_err(swollen)?;
            if matches!(column.physical_type(), Type::BYTE_ARRAY | Type::FIXED_LEN_BYTE_ARRAY) {
                most = most.max(page);
            }
        }
        Ok((bytes / most.max(1)).clamp(1, BATCH as u64) as usize)
    }
}

/// The decoder panics on some malformed files; a user's bytes must not take the daemon down.
fn guarded<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, BadData> {
    let outcome = catch_unwind(AssertUnwindSafe(read));
    let outcome = outcome.unwrap_or_else(|_| Err("its pages do not decode".to_owned()));
    outcome.map_err(|reason| BadData::Parquet { reason })
}

fn cells(batch: &RecordBatch, name: &str) -> Result<Cells, BadData> {
    let column = batch
        .column_by_name(name)
        .ok_or_else(|| BadData::Parquet { reason: format!("column `{name}` vanished while reading") })?;
    let wrong = || BadData::Type {
        column: name.to_owned(),
        expected: "a string, binary, integer or struct { bytes, path } column",
        found: column.data_type().to_string(),
    };
    let to = |array: &ArrayRef, kind: &DataType| cast(array, kind).map_err(|_| wrong());
    let kind = match column.data_type() {
        DataType::Dictionary(_, values) => values,
        other => other,
    };
    Ok(match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            Cells::Text(to(column, &DataType::LargeUtf8)?.as_string::<i64>().clone())
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            Cells::Binary(to(column, &DataType::LargeBinary)?.as_binary::<i64>().clone())
        }
        kind if kind.is_integer() => Cells::Integer(to(column, &DataType::Int64)?.as_primitive::<Int64Type>().clone()),
        DataType::Timestamp(_, zone) => {
            let milliseconds = to(column, &DataType::Timestamp(TimeUnit::Millisecond, zone.clone()))?;
            Cells::Time(to(&milliseconds, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
        }
        DataType::Struct(_) => {
            let bytes = column.as_struct_opt().and_then(|s| s.column_by_name("bytes")).ok_or_else(wrong)?;
            Cells::Image(to(bytes, &DataType::LargeBinary)?.as_binary::<i64>().clone())
        }
        _ => return Err(wrong()),
    })
}

impl Cells {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Binary(array) | Self::Image(array) => array.len(),
            Self::Text(array) => array.len(),
            Self::Integer(array) | Self::Time(array) => array.len(),
        }
    }

    pub(crate) fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Binary(array) | Self::Image(array) => array.is_null(row),
            Self::Text(array) => array.is_null(row),
            Self::Integer(array) | Self::Time(array) => array.is_null(row),
        }
    }

    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Binary(_) => "binary",
            Self::Image(_) => "struct { bytes, path }",
            Self::Text(_) => "string",
            Self::Integer(_) => "integer",
            Self::Time(_) => "timestamp",
        }
    }
}
