//! Rows as users push them, labels on their own, and shards.

use std::collections::BTreeSet;
use std::io::Cursor;
use std::sync::Arc;

use bytes::Bytes;
use domain::chunk::{ObjectRef, Payload, Row};
use futures::FutureExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use store::examples::{self, BadData, Columns, Delimiter, Format, Unread};

/// The columns that a pipeline asks for: a first byte chooses among what changes how a file is read.
fn columns(choice: u8) -> Columns {
    let named = |name: &str, bit: u8| (choice & bit != 0).then(|| name.to_owned());
    Columns {
        input: named("x", 1),
        label: named("y", 2).unwrap_or_else(|| Columns::default().label),
        needs_label: choice & 4 == 0,
        labels: if choice & 8 == 0 { Vec::new() } else { vec!["a".to_owned(), "b".to_owned()] },
        ..Columns::default()
    }
}

/// Every row of a file, or what is wrong with each.
fn all(format: Format, bytes: &[u8], columns: &Columns) -> Result<Vec<Result<Row, BadData>>, Unread> {
    let mut rows = Vec::new();
    let each = |row| {
        rows.push(row);
        Ok::<_, Unread>(())
    };
    examples::read(format, Bytes::copy_from_slice(bytes), columns, each).map(|()| rows)
}

/// As a push is read. A first byte is the choice of columns.
fn read(format: Format, input: &[u8], most_rows: impl Fn(&[u8]) -> usize) {
    let Some((&choice, bytes)) = input.split_first() else { return };
    let columns = columns(choice);
    let Ok(rows) = all(format, bytes, &columns) else { return };
    assert!(rows.len() <= most_rows(bytes), "{} rows of {} bytes", rows.len(), bytes.len());
    assert!(rows.iter().any(Result::is_ok), "a file without a row is refused");
    let good: Vec<Row> = rows.into_iter().flatten().collect();
    let unlabelled = good.iter().find(|row| row.label.is_empty());
    assert!(!columns.needs_label || unlabelled.is_none(), "{unlabelled:?}");
    sealed(&good);
}

/// A chunk's rows read back from their shard as they went in.
fn sealed(rows: &[Row]) {
    let task = "t".parse().expect("a valid name");
    let shard = examples::write_shard(rows, &task, "train").expect("what was read can be written");
    let read = examples::read_shard_bytes(shard.into()).expect("what was written can be read");
    assert!(read.into_iter().map(|(_, row)| row).eq(rows.iter().cloned()), "a shard changed its rows");
}

fn lines(bytes: &[u8]) -> usize {
    bytes.split(|&byte| byte == b'\n').count()
}

/// What is pushed is what `predict` reads line by line, up to the first bad row.
pub fn jsonl(input: &[u8]) {
    read(Format::Jsonl, input, lines);
    let Some((&choice, bytes)) = input.split_first() else { return };
    let columns = Columns { needs_label: false, ..columns(choice) };
    let pushed = all(Format::Jsonl, bytes, &columns).unwrap_or_default();
    let inputs = examples::jsonl_inputs(Cursor::new(bytes.to_vec()), &columns);
    let streamed: Vec<Row> = inputs.map_while(Result::ok).map(|input| input.row).collect();
    let pushed: Vec<Row> = pushed.into_iter().map_while(Result::ok).collect();
    if !pushed.is_empty() {
        assert_eq!(pushed, streamed);
    }
}

pub fn csv(input: &[u8]) {
    // A record may end with a carriage return too.
    read(Format::Csv(Delimiter::Comma), input, |bytes| bytes.len() + 1);
}

pub fn tsv(input: &[u8]) {
    read(Format::Csv(Delimiter::Tab), input, |bytes| bytes.len() + 1);
}

pub fn parquet(input: &[u8]) {
    // Rows that are equal may take no bytes of their own: what they cost is the heap's to say.
    read(Format::Parquet, input, |_| usize::MAX);
}

pub fn tar(input: &[u8]) {
    read(Format::Tar, input, |bytes| bytes.len() / 512);
}

/// The name of a file decides together with its head.
pub fn intake(input: &[u8]) {
    let split = input.iter().position(|&byte| byte == 0).unwrap_or(0);
    let (name, bytes) = (String::from_utf8_lossy(&input[..split]), &input[split..]);
    if let Ok(format) = examples::detect(&name, bytes) {
        // Errors of any kind will do; that it returns is what is asked.
        let _ = all(format, bytes, &Columns::default());
    }
}

pub fn labels(input: &[u8]) {
    let Some((&choice, bytes)) = input.split_first() else { return };
    let format = match choice >> 6 {
        0 => Format::Jsonl,
        1 => Format::Csv(Delimiter::Comma),
        2 => Format::Csv(Delimiter::Tab),
        _ => Format::Parquet,
    };
    match examples::read_labels(format, bytes, &columns(choice)) {
        Ok(pairs) => assert!(pairs.iter().all(|(_, label)| !label.is_empty()), "{pairs:?}"),
        Err(BadData::NoLabels { .. }) => assert_eq!(format, Format::Parquet),
        Err(_) => {}
    }
}

/// What the store holds under a shard's name, by every way it is read.
pub fn shard(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    let read = examples::read_shard_bytes(bytes.clone());
    let task = "t".parse().expect("a valid name");
    if let Ok(rows) = &read {
        let erased = examples::erase_rows(bytes.clone(), &BTreeSet::from([0]), &task, "train");
        let left = examples::read_shard_bytes(erased.expect("what was read can be written").into());
        let left = left.expect("what was written can be read");
        assert!(left.iter().eq(rows.iter().filter(|(at, _)| *at != 0)), "erasing a row changed others");
        assert!(rows.iter().all(|(_, row)| matches!(row.payload, Payload::Image(_) | Payload::Text(_))));
    }
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let scan = async {
        store.put(&"shard".into(), bytes.into()).await.expect("memory takes everything");
        let shard = ObjectRef { path: "shard".to_owned(), sha256: String::new(), bytes: input.len() as u64 };
        let ids = examples::scan_shard(store.clone(), &shard, "row_id").await;
        if let (Ok(ids), Ok(rows)) = (ids, read) {
            assert!(rows.iter().all(|(at, row)| ids[*at as usize].as_ref() == Some(&row.id)));
        }
    };
    scan.now_or_never().expect("memory answers at once");
}
