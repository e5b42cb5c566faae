//! Small streams of drawn glyphs on disk, for tests here and of the whole system.

use std::path::{Path, PathBuf};

use domain::chunk::{Payload, Row};
use serde_json::{Value, json};

#[allow(dead_code, reason = "not all of it is drawn here")]
#[path = "../../src/glyphs.rs"]
mod glyphs;

/// A stream of glyph domains with its data, as `shared/data` lays one out.
pub fn stream(folder: &Path, domains: &[usize], rows: usize) -> PathBuf {
    std::fs::create_dir_all(folder.join("streams")).unwrap();
    std::fs::write(folder.join("labels.json"), json!({"label": glyphs::CLASSES}).to_string()).unwrap();
    let tasks: Vec<Value> = domains.iter().map(|&domain| task(folder, domain, rows)).collect();
    let stream = json!({
        "name": "glyphs", "scenario": "domain-incremental", "input_column": "image", "label_column": "label",
        "train": [], "test": [], "labels": "labels.json", "tasks": tasks,
    });
    let file = folder.join("streams/glyphs.json");
    std::fs::write(&file, stream.to_string()).unwrap();
    file
}

fn task(folder: &Path, domain: usize, rows: usize) -> Value {
    let name = glyphs::DOMAINS[domain];
    let files = [("train", rows, 0), ("test", 50, 1)].map(|(split, rows, seed)| {
        let file = format!("{name}-{split}.parquet");
        write_parquet(&folder.join(&file), &glyphs::glyphs(domain, rows, seed));
        file
    });
    json!({"name": name, "train": [files[0]], "test": [files[1]]})
}

/// As Hugging Face `datasets` writes images and class labels.
fn write_parquet(file: &Path, rows: &[Row]) {
    use arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StructArray};
    use std::sync::Arc;
    let bytes = rows.iter().map(|row| match &row.payload {
        Payload::Image(bytes) => bytes.as_slice(),
        Payload::Text(_) => panic!("glyphs are images"),
    });
    let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values(bytes));
    let class = |row: &Row| glyphs::CLASSES.iter().position(|name| *name == row.label).unwrap() as i64;
    let labels: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(class)));
    let field = arrow::datatypes::Field::new("bytes", arrow::datatypes::DataType::Binary, true);
    let image: ArrayRef = Arc::new(StructArray::from(vec![(Arc::new(field), bytes)]));
    let batch = RecordBatch::try_from_iter([("image", image), ("label", labels)]).unwrap();
    let target = std::fs::File::create(file).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(target, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}
