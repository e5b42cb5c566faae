//! One column of a shard in the store, without the others.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::AsArray;
use bytes::Bytes;
use domain::chunk::ObjectRef;
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::shard::unreadable;
use crate::Error;

/// What each row of a canonical shard has in a column of strings, in order. A shard without the column has nothing there.
pub async fn scan_shard(
    store: Arc<dyn ObjectStore>,
    shard: &ObjectRef,
    column: &str,
) -> Result<Vec<Option<String>>, Error> {
    let path = Path::parse(&shard.path).map_err(|e| Error::store("name", &shard.path)(e.into()))?;
    let reader = Ranges { store, path, bytes: shard.bytes };
    scan(reader, column).await.map_err(|error| match error {
        // As the store said it: whether to come again depends on it.
        ParquetError::External(source) => match source.downcast::<object_store::Error>() {
            Ok(source) => Error::store("read", &shard.path)(*source),
            Err(source) => unreadable(&shard.path, ParquetError::External(source)),
        },
        other => unreadable(&shard.path, other),
    })
}

async fn scan(reader: Ranges, column: &str) -> Result<Vec<Option<String>>, ParquetError> {
    let builder = ParquetRecordBatchStreamBuilder::new(reader).await?;
    let rows = builder.metadata().file_metadata().num_rows() as usize;
    let Ok(root) = builder.schema().index_of(column) else { return Ok(vec![None; rows]) };
    let mask = ProjectionMask::roots(builder.parquet_schema(), [root]);
    let mut batches = builder.with_projection(mask).build()?;
    let mut found = Vec::with_capacity(rows);
    while let Some(batch) = batches.try_next().await? {
        let texts = batch.column(0).as_string_opt::<i32>();
        let texts = texts.ok_or_else(|| ParquetError::General(format!("column `{column}` is not a string")))?;
        found.extend(texts.iter().map(|text| text.map(str::to_owned)));
    }
    Ok(found)
}

/// An object, read in parts.
struct Ranges {
    store: Arc<dyn ObjectStore>,
    path: Path,
    bytes: u64,
}

impl AsyncFileReader for Ranges {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        let read = async move { self.store.get_range(&self.path, range).await };
        read.map(|bytes| bytes.map_err(|e| ParquetError::External(Box::new(e)))).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        let bytes = self.bytes;
        ParquetMetaDataReader::new().load_and_finish(self, bytes).map(|found| found.map(Arc::new)).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::super::shard::write_shard;
    use super::*;
    use crate::objects;
    use domain::chunk::{Payload, Row};
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn a_column_is_read_without_the_others_and_may_be_missing() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let mut rows: Vec<Row> =
            (0..3).map(|i| Row::new(format!("r{i}"), Payload::Text("x".to_owned()), "a")).collect();
        let put = async |rows: &[Row], path: &str| {
            let bytes = write_shard(rows, &"t".parse().unwrap(), "train").unwrap();
            objects::put(&*store, path, bytes.into()).await.unwrap()
        };
        let plain = put(&rows, "plain").await;
        rows[1].subject = Some("anna".to_owned());
        let named = put(&rows, "named").await;
        let scanned = async |shard: &ObjectRef, column: &str| scan_shard(store.clone(), shard, column).await.unwrap();
        assert_eq!(scanned(&plain, "row_id").await, ["r0", "r1", "r2"].map(|id| Some(id.to_owned())));
        assert_eq!(scanned(&plain, "subject").await, [None, None, None]);
        assert_eq!(scanned(&named, "subject").await, [None, Some("anna".to_owned()), None]);
        let gone = ObjectRef { path: "gone".to_owned(), ..named };
        let error = scan_shard(store.clone(), &gone, "subject").await.unwrap_err();
        assert!(error.to_string().contains("`gone`"), "{error}");
    }
}
