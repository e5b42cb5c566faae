//! Streams, on a small generated data set and on the real ones where they are.

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch};
use domain::chunk::{Payload, Row};
use parquet::arrow::ArrowWriter;
use perennial_store::streams::{Split, Stream};
use serde_json::json;

/// 20 one-colour images in 4 classes, sorted by class, as every task's train and test data.
fn data_set(folder: &Path) {
    let png = |value: u8| {
        let mut bytes = Vec::new();
        let image = image::GrayImage::from_fn(4, 4, |x, _| image::Luma([value * 10 + x as u8]));
        image.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
        bytes
    };
    let images: Vec<Vec<u8>> = (0..20).map(png).collect();
    let images: ArrayRef = Arc::new(BinaryArray::from_iter_values(images));
    let labels: ArrayRef = Arc::new(Int64Array::from_iter_values((0..20).map(|i| i / 5)));
    let batch = RecordBatch::try_from_iter([("image", images), ("label", labels)]).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    std::fs::create_dir_all(folder.join("streams")).unwrap();
    std::fs::write(folder.join("data.parquet"), writer.into_inner().unwrap()).unwrap();
    std::fs::write(folder.join("labels.json"), r#"{"label": ["a", "b", "c", "d"]}"#).unwrap();
}

fn stream(folder: &Path, tasks: serde_json::Value) -> Stream {
    let spec = json!({
        "name": "toy", "scenario": "class-incremental", "input_column": "image", "label_column": "label",
        "train": ["data.parquet"], "test": ["data.parquet"], "labels": "labels.json", "tasks": tasks,
    });
    let path = folder.join("streams/toy.json");
    std::fs::write(&path, spec.to_string()).unwrap();
    Stream::open(&path, None).unwrap()
}

fn ids(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|row| row.id.as_str()).collect()
}

#[test]
fn a_task_holds_the_rows_that_pass_its_filter_shuffled_but_always_alike() {
    let folder = tempfile::tempdir().unwrap();
    data_set(folder.path());
    let stream = stream(
        folder.path(),
        json!([
            { "id": 0, "name": "one_two", "filter": { "label": [0, 1] }, "class_names": ["a", "b"] },
            { "id": 1, "name": "rest", "filter": { "label": [2, 3] } },
        ]),
    );
    assert_eq!(stream.labels(), ["a", "b", "c", "d"]);
    assert_eq!(stream.tasks()[0].task_name().unwrap().as_str(), "one-two");
    let rows = stream.task_rows(0, Split::Train, None).unwrap();
    let labels: BTreeSet<&str> = rows.iter().map(|row| row.label.as_str()).collect();
    assert_eq!((rows.len(), labels), (10, BTreeSet::from(["a", "b"])));
    assert!(!rows.is_sorted_by_key(|row| row.label.clone()), "still sorted by class");
    assert_eq!(stream.task_rows(0, Split::Train, Some(4)).unwrap(), rows[..4]);
    assert!(rows.iter().all(|row| row.id.starts_with("data.parquet:")));
    assert_ne!(ids(&rows), ids(&stream.task_rows(0, Split::Test, None).unwrap()));
    assert!(stream.task_rows(2, Split::Train, None).unwrap_err().to_string().contains("no task 2"));
}

#[test]
fn transforms_change_train_and_test_alike_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    data_set(folder.path());
    let stream = stream(
        folder.path(),
        json!([
            { "id": 0, "name": "same", "filter": {} },
            { "id": 1, "name": "still", "filter": {}, "transform": { "type": "rotate", "degrees": 0 } },
            { "id": 2, "name": "turned", "filter": {}, "transform": { "type": "rotate", "degrees": 90 } },
            { "id": 3, "name": "mixed", "filter": {}, "transform": { "type": "permute_pixels", "seed": 1001 } },
        ]),
    );
    let by_id = |k, split| {
        let mut rows = stream.task_rows(k, split, None).unwrap();
        rows.sort_by(|a, b| a.id.cmp(&b.id));
        rows
    };
    let same = by_id(0, Split::Train);
    assert_eq!(by_id(1, Split::Train), same);
    for changed in [2, 3] {
        let (train, test) = (by_id(changed, Split::Train), by_id(changed, Split::Test));
        assert_eq!(train, test);
        assert_eq!(ids(&train), ids(&same));
        assert!(train.iter().zip(&same).all(|(a, b)| a.payload != b.payload && a.label == b.label));
    }
}

#[test]
fn what_is_wrong_with_a_stream_is_said() {
    let folder = tempfile::tempdir().unwrap();
    data_set(folder.path());
    let bad = stream(folder.path(), json!([{ "id": 0, "name": "x", "filter": { "domain": [1] } }]));
    let error = bad.task_rows(0, Split::Train, None).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("`domain` is missing") && cause.contains("`image`, `label`"), "{cause}");
    let error = Stream::open(&folder.path().join("nothing.json"), None).err().unwrap();
    assert!(error.to_string().contains("nothing.json"), "{error}");
}

fn real_data() -> Option<PathBuf> {
    let configured = std::env::var_os("PERENNIAL_DATA").map(PathBuf::from);
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let folder = configured.unwrap_or_else(beside);
    folder.join("streams").is_dir().then_some(folder)
}

#[test]
fn real_streams_deal_out_every_row_once() {
    let Some(folder) = real_data() else {
        return support::skipped("real streams", "set PERENNIAL_DATA to a folder with streams/");
    };
    // (stream, train rows, test rows) over all tasks, from the data sets' own tables.
    for (name, train, test) in [
        ("fashion_mnist_class_5x2", 60_000, 10_000),
        ("banking77_class_7x11", 10_003, 3_080),
        ("hwu64_class_18_scenarios", 9_960, 1_076),
        ("omniglot_class_8_alphabets", 3_630, 1_210),
        ("pacs_domain_4", 2_760, 830),
        ("fdu_mtl_reviews_domain_16", 24_652, 6_400),
    ] {
        let stream = Stream::open(&folder.join(format!("streams/{name}.json")), None).unwrap();
        for (split, expected) in [(Split::Train, train), (Split::Test, test)] {
            let mut seen = BTreeSet::new();
            for k in 0..stream.tasks().len() {
                seen.extend(stream.task_rows(k, split, None).unwrap().into_iter().map(|row| row.id));
            }
            assert_eq!(seen.len(), expected, "{name} {split:?}");
        }
    }
}

#[test]
fn real_images_rotate_and_permute() {
    let Some(folder) = real_data() else {
        return support::skipped("real transforms", "set PERENNIAL_DATA to a folder with streams/");
    };
    let open = |name: &str| Stream::open(&folder.join(format!("streams/{name}.json")), None).unwrap();
    let (rotated, permuted) = (open("fashion_mnist_rotated_5"), open("fashion_mnist_permuted_10"));
    for stream in [&rotated, &permuted] {
        for k in [0, 1, 4] {
            let rows = stream.task_rows(k, Split::Test, Some(200)).unwrap();
            let size = |row: &Row| match &row.payload {
                Payload::Image(bytes) => image::load_from_memory(bytes).unwrap().to_luma8().dimensions(),
                Payload::Text(_) => (0, 0),
            };
            assert!(rows.len() == 200 && rows.iter().all(|row| size(row) == (28, 28)));
        }
    }
}
