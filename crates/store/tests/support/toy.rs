//! A small generated data set, streams over it and over real ones, and what can be seen of their tasks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray};
use domain::chunk::{Payload, Row};
use parquet::arrow::ArrowWriter;
use perennial_store::streams::{Split, Stream};
use serde_json::{Value, json};

pub const BOTH: [Split; 2] = [Split::Train, Split::Test];

/// Colours of `n` images: every hue and shade once, neither in order.
fn colours(n: usize) -> Vec<[u8; 3]> {
    let colour = |i: usize| {
        let (hue, value) = ((i * 5 % n) as f64 * 6.0 / n as f64, 100.0 + (i * 7 % n) as f64 * 5.0);
        let channel = |shift: f64| (value * (((hue + shift) % 6.0 - 3.0).abs() - 1.0).clamp(0.2, 1.0)) as u8;
        [channel(0.0), channel(4.0), channel(2.0)]
    };
    (0..n).map(colour).collect()
}

fn png(colour: [u8; 3]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let image = image::RgbImage::from_fn(4, 4, |x, _| image::Rgb(colour.map(|channel| channel + x as u8)));
    image.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
    bytes
}

/// Four classes, three domains that are numbers with names, three that are words, and years that repeat.
fn table(n: usize, years: impl Fn(usize) -> i64) -> RecordBatch {
    let images: ArrayRef = Arc::new(BinaryArray::from_iter_values(colours(n).into_iter().map(png)));
    let integers = |of: &dyn Fn(usize) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values((0..n).map(of))) };
    let place: ArrayRef = Arc::new(StringArray::from_iter_values((0..n).map(|i| ["south", "north", "east"][i % 3])));
    RecordBatch::try_from_iter([
        ("image", images),
        ("label", integers(&|i| (i * 4 / n) as i64)),
        ("domain", integers(&|i| (i % 3) as i64)),
        ("kind", integers(&|i| (i * 4 / n) as i64 / 2)),
        ("place", place),
        ("year", integers(&|i| years(i))),
    ])
    .unwrap()
}

/// 24 training rows, years 2000 to 2011 twice; 12 test rows, years 1995 to 2017.
fn data_set(folder: &Path) {
    std::fs::create_dir_all(folder.join("streams")).unwrap();
    let train = table(24, |i| 2000 + (i as i64 * 5) % 12);
    for (name, batch) in [("train", train), ("test", table(12, |i| 1995 + 2 * i as i64))] {
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        std::fs::write(folder.join(format!("{name}.parquet")), writer.into_inner().unwrap()).unwrap();
    }
    let labels = r#"{"label": ["a", "b", "c", "d"], "domain": ["photo", "art_painting", "sketch"]}"#;
    std::fs::write(folder.join("labels.json"), labels).unwrap();
}

pub fn toy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    data_set(folder.path());
    folder
}

pub fn try_open(folder: &Path, more: Value) -> Result<Stream, perennial_store::Error> {
    let mut spec = json!({
        "name": "toy", "dataset": "toy", "input_column": "image", "label_column": "label",
        "train": ["train.parquet"], "test": ["test.parquet"], "labels": "labels.json",
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let path = folder.join("streams/toy.json");
    std::fs::write(&path, spec.to_string()).unwrap();
    Stream::open(&path, None)
}

pub fn made(folder: &tempfile::TempDir, scenario: Value) -> Stream {
    try_open(folder.path(), json!({ "scenario": scenario })).unwrap()
}

pub fn listed(folder: &tempfile::TempDir, tasks: Value) -> Stream {
    try_open(folder.path(), json!({ "scenario": "domain-incremental", "tasks": tasks })).unwrap()
}

pub fn names(stream: &Stream) -> Vec<&str> {
    stream.tasks().iter().map(|task| task.name.as_str()).collect()
}

/// Every task's rows, by id.
pub fn rows(stream: &Stream, split: Split) -> Vec<Vec<Row>> {
    let task = |k| {
        let mut rows = stream.task_rows(k, split, None).unwrap();
        rows.sort_by_key(position);
        rows
    };
    (0..stream.tasks().len()).map(task).collect()
}

pub fn position(row: &Row) -> usize {
    row.id.split_once(':').unwrap().1.parse().unwrap()
}

pub fn positions(stream: &Stream, split: Split) -> Vec<Vec<usize>> {
    rows(stream, split).iter().map(|task| task.iter().map(position).collect()).collect()
}

/// Names and rows in their order, of every task.
pub fn everything(stream: &Stream) -> Vec<(String, [Vec<Row>; 2])> {
    let task = |k: usize| BOTH.map(|split| stream.task_rows(k, split, None).unwrap());
    stream.tasks().iter().enumerate().map(|(k, t)| (t.name.clone(), task(k))).collect()
}

/// Every row is in exactly one task, and every task has rows.
pub fn assert_partition(stream: &Stream, split: Split) {
    let tasks = positions(stream, split);
    let mut all: Vec<usize> = tasks.concat();
    all.sort_unstable();
    let n = if split == Split::Train { 24 } else { 12 };
    assert_eq!(all, (0..n).collect::<Vec<_>>(), "{split:?}");
    assert!(tasks.iter().all(|task| !task.is_empty()), "{tasks:?}");
}

/// Mean of all samples, or of one channel, or the hue of the mean colour.
pub fn score(row: &Row, feature: &str) -> f64 {
    let Payload::Image(bytes) = &row.payload else { panic!("{} is no image", row.id) };
    let image = image::load_from_memory(bytes).unwrap().to_rgb8();
    let mean = |channel: usize| {
        image.pixels().map(|pixel| f64::from(pixel.0[channel])).sum::<f64>() / f64::from(image.width() * image.height())
    };
    let [red, green, blue] = [0, 1, 2].map(mean);
    match feature {
        "green" => green,
        "hue" => {
            let high = red.max(green).max(blue);
            let chroma = high - red.min(green).min(blue);
            let sixth = match high {
                _ if chroma == 0.0 => 0.0,
                _ if high == red => (green - blue) / chroma,
                _ if high == green => (blue - red) / chroma + 2.0,
                _ => (red - green) / chroma + 4.0,
            };
            (60.0 * sixth).rem_euclid(360.0)
        }
        _ => (red + green + blue) / 3.0,
    }
}

/// No input of a task comes before one of the task before.
pub fn is_sorted(stream: &Stream, split: Split, feature: &str) -> bool {
    let scores = |task: &Vec<Row>| task.iter().map(|row| score(row, feature)).collect::<Vec<_>>();
    let tasks: Vec<Vec<f64>> = rows(stream, split).iter().map(scores).collect();
    let highest = |task: &[f64]| task.iter().copied().reduce(f64::max).unwrap();
    tasks.windows(2).all(|pair| pair[1].iter().all(|score| *score >= highest(&pair[0])))
}

pub fn real_data() -> Option<PathBuf> {
    let configured = std::env::var_os("PERENNIAL_DATA").map(PathBuf::from);
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let folder = configured.unwrap_or_else(beside);
    folder.join("streams").is_dir().then_some(folder)
}

/// A scenario over the data set of a stream that is there.
pub fn over(root: &Path, stream: &str, scenario: Value) -> Stream {
    let text = std::fs::read(root.join(format!("streams/{stream}.json"))).unwrap();
    let mut spec: BTreeMap<String, Value> = serde_json::from_slice(&text).unwrap();
    ["tasks", "num_tasks", "order_seed"].iter().for_each(|key| drop(spec.remove(*key)));
    spec.insert("scenario".to_owned(), scenario);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made.json");
    std::fs::write(&path, serde_json::to_vec(&spec).unwrap()).unwrap();
    Stream::open(&path, Some(root)).unwrap()
}
