//! Streams of tasks over public data sets, described by a JSON file that holds no data.
//!
//! A stream says which rows of which Parquet files make task k, and how their images are changed.
//! Everything is a function of the files: the same rows in the same order on every machine.
//!
//! # The file
//!
//! ```json
//! {
//!   "name": "pacs", "input_column": "image", "label_column": "label",
//!   "train": ["pacs_subset64/train-00000.parquet"], "test": ["pacs_subset64/test-00000.parquet"],
//!   "labels": "pacs_subset64/labels.json",
//!   "scenario": { "type": "data-incremental", "column": "domain" }
//! }
//! ```
//!
//! Paths are relative to the data's root. `labels` is a JSON file of column -> names, where a name's position is the
//! integer in the column; it must name the labels, and may name the values of other columns.
//!
//! Tasks are either made by a `scenario` of the forms below, or listed:
//!
//! ```json
//! "scenario": "domain-incremental",
//! "tasks": [
//!   { "name": "photos", "filter": { "domain": [0] } },
//!   { "name": "turned", "filter": { "domain": [0], "label": [1, 2] }, "transform": { "type": "rotate", "degrees": 45 } }
//! ]
//! ```
//!
//! A row of a listed task passes all of `filter`; none given keeps every row. Its `transform` is that of train and test
//! alike: `identity`, `rotate` by `degrees` or `permute_pixels` by `seed`. A task may have `train` and `test` files of
//! its own. `scenario` is then a word, and `class-incremental` the one that means something: later tasks bring new
//! classes. What else stands in such a file is ignored; beside a `scenario` that makes tasks only `dataset`,
//! `description` and `domain_column` are.
//!
//! `"label_noise": { "share": 0.2, "seed": 0 }` gives this share of the training rows, at random, another of the labels
//! that rows of their task have. Test rows keep theirs.
//!
//! # Scenarios
//!
//! Everything drawn at random depends on the seeds given and nothing else; a `seed` that is left out is 0. Where rows or
//! classes do not divide by `num_tasks` (or `tasks` for short), the first tasks get one more. A key that a scenario does
//! not know is refused.
//!
//! Tasks of new classes: given as labels or their numbers, or as many at a time in the order of `labels`, or with an
//! `order_seed` in a random one. Classes in no group are left out.
//!
//! ```json
//! { "type": "class-incremental", "groups": [["dog", "horse"], [1, 2], ["guitar"]] }
//! { "type": "class-incremental", "num_tasks": 5, "order_seed": 0 }
//! ```
//!
//! Tasks of new domains, which are the values of an integer or string column: one each in their order, or as grouped, or
//! cut into slices of like many training rows, such as years into times. Rows of one value stay together, and test rows
//! go where the training rows of their value do. If no class is in two tasks, the stream is class-incremental.
//!
//! ```json
//! { "type": "data-incremental", "column": "domain" }
//! { "type": "data-incremental", "column": "domain", "groups": [["sketch"], ["photo", "cartoon"]] }
//! { "type": "data-incremental", "column": "year", "num_tasks": 4 }
//! ```
//!
//! Random shares of the training rows, and all test rows in each task:
//!
//! ```json
//! { "type": "iid", "num_tasks": 5, "seed": 0 }
//! ```
//!
//! All rows in each task, their images turned or their pixels permuted. The first task of `permutation` is as it is;
//! the others have the `seeds` given, or those drawn from one `seed`. `transform` is the general form. With a
//! `split_seed` each training row is in one task, drawn at random, as in Renate (Zappella et al., 2023); the test rows
//! are all in each.
//!
//! ```json
//! { "type": "rotation", "degrees": [0, 45, 90] }
//! { "type": "permutation", "num_tasks": 10, "seed": 0 }
//! { "type": "permutation", "seeds": [1001, 1002], "split_seed": 0 }
//! { "type": "transform", "transforms": [{ "type": "identity" }, { "type": "permute_pixels", "seed": 3 }] }
//! ```
//!
//! Rows sorted by a number that each input has, then cut into shares; train and test each by themselves. A `randomness`
//! of 0 to 1 lets `0.5 · rows · randomness` pairs of random rows change places before. `feature` is `intensity` (the mean
//! of all samples), `red`, `green` or `blue` (of a channel), or of texts their `length` in characters. The hue is that of
//! an image's mean colour, from red over green and blue to red.
//!
//! ```json
//! { "type": "feature-sort", "num_tasks": 5, "feature": "intensity", "randomness": 0.1, "seed": 0 }
//! { "type": "hue-sort", "num_tasks": 5, "randomness": 0 }
//! ```

mod feature;
mod file;
mod noise;
mod part;
mod pixels;
mod scenario;
mod source;
mod task;
mod transform;
mod value;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use domain::chunk::Row;
use domain::draw::Draw;
use rayon::prelude::*;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::Error;
use crate::examples::BadData;
use file::DataFile;
use noise::LabelNoise;
use part::{Part, Place};
use source::Source;
pub use task::Task;

/// Files are often sorted by class; rows are shuffled within a task, always in the same way.
const SHUFFLE: u64 = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    Train,
    Test,
}

impl Split {
    fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
struct Spec {
    name: String,
    scenario: Source,
    input_column: String,
    label_column: String,
    train: Vec<String>,
    test: Vec<String>,
    labels: String,
    tasks: Option<Vec<Task>>,
    label_noise: Option<LabelNoise>,
    #[serde(flatten)]
    others: BTreeMap<String, IgnoredAny>,
}

/// An open stream. Each data file is read once and kept, encoded as it is on disk.
pub struct Stream {
    path: PathBuf,
    root: PathBuf,
    spec: Spec,
    labels: Vec<String>,
    tasks: Vec<Task>,
    class_incremental: bool,
    files: Mutex<HashMap<String, Arc<DataFile>>>,
}

impl Stream {
    /// `data_root` is what the stream's paths are relative to; the parent of its folder by default.
    ///
    /// Of a stream whose domains are a column's values it reads the training files.
    pub fn open(path: &Path, data_root: Option<&Path>) -> Result<Self, Error> {
        let mut spec: Spec = read_json(path)?;
        let default = path.parent().map(|folder| folder.join(".."));
        let root = data_root.map(Path::to_owned).or(default).unwrap_or_default();
        let names: BTreeMap<String, Vec<String>> = read_json(&root.join(&spec.labels))?;
        if let Some(reason) = spec.label_noise.as_ref().and_then(LabelNoise::wrong) {
            return Err(Error::Stream { path: path.display().to_string(), reason });
        }
        let listed = spec.tasks.take();
        let path = path.to_owned();
        let (labels, files) = (Vec::new(), Mutex::default());
        let mut stream = Self { path, root, spec, labels, tasks: Vec::new(), class_incremental: false, files };
        stream.labels = names.get(&stream.spec.label_column).cloned().ok_or_else(|| stream.unnamed())?;
        stream.tasks = stream.expand(listed, &names)?;
        stream.class_incremental = stream.brings_classes()?;
        Ok(stream)
    }

    fn unnamed(&self) -> Error {
        self.bad(format!("`{}` names no label of column `{}`", self.spec.labels, self.spec.label_column))
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Whether later tasks bring new classes (and not only new domains of the same ones).
    pub fn is_class_incremental(&self) -> bool {
        self.class_incremental
    }

    /// In the order in which they arrive.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// All label names of the stream, in the order of their indices.
    pub fn labels(&self) -> Vec<String> {
        self.labels.clone()
    }

    /// The rows of task `k`, shuffled; the first `limit` of them.
    ///
    /// A row is called `<file>:<position>`, whatever the task made of it.
    pub fn task_rows(&self, k: usize, split: Split, limit: Option<usize>) -> Result<Vec<Row>, Error> {
        let task = self.task(k)?;
        let kept = self.places(task, split)?;
        let order = Draw::new(SHUFFLE).named(split.name()).at(k as u64).permutation(kept.len());
        let order = &order[..limit.unwrap_or(usize::MAX).min(order.len())];
        let mut rows = order.par_iter().map(|&at| self.row(task, &kept[at])).collect::<Result<Vec<_>, _>>()?;
        if let (Some(noise), Split::Train) = (&self.spec.label_noise, split) {
            noise.apply(&mut rows);
        }
        Ok(rows)
    }

    fn task(&self, k: usize) -> Result<&Task, Error> {
        let count = self.tasks.len();
        self.tasks.get(k).ok_or_else(|| self.bad(format!("there is no task {k}, only {count} from 0")))
    }

    fn row(&self, task: &Task, place: &Place) -> Result<Row, Error> {
        let Place { file_name, file, row } = place;
        let label = usize::try_from(file.labels[*row]).ok().and_then(|at| self.labels.get(at));
        let unknown =
            || self.bad(format!("`{file_name}` row {row} has label {}, which has no name", file.labels[*row]));
        let payload = task.transform.apply(&file.inputs[*row]);
        let payload = payload.map_err(|reason| self.bad(format!("`{file_name}` row {row}: {reason}")))?;
        Ok(Row::new(format!("{file_name}:{row}"), payload, label.ok_or_else(unknown)?))
    }

    fn bad(&self, reason: String) -> Error {
        Error::Stream { path: self.path.display().to_string(), reason }
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = std::fs::read(path).map_err(Error::file("read", path))?;
    serde_json::from_slice(&text).map_err(|e| Error::Stream { path: path.display().to_string(), reason: e.to_string() })
}

/// Which rows a task holds.
impl Stream {
    fn places<'a>(&'a self, task: &'a Task, split: Split) -> Result<Vec<Place<'a>>, Error> {
        let files = match split {
            Split::Train => task.train.as_ref().unwrap_or(&self.spec.train),
            Split::Test => task.test.as_ref().unwrap_or(&self.spec.test),
        };
        let mut kept = Vec::new();
        for file_name in files {
            let file = self.file(file_name)?;
            let path = || self.root.join(file_name).display().to_string();
            let rows = self.kept(task, &file).map_err(|source| Error::Data { path: path(), source })?;
            kept.extend(rows.into_iter().map(|row| Place { file_name, file: file.clone(), row }));
        }
        task.part
            .of(kept, split)
            .map_err(|reason| self.bad(format!("task `{}`, {}: {reason}", task.name, split.name())))
    }

    fn kept(&self, task: &Task, file: &DataFile) -> Result<Vec<usize>, BadData> {
        if let Part::Slice { column, from, below } = &task.part {
            from.iter().chain(below).try_for_each(|end| file.fits(column, std::slice::from_ref(end)))?;
        }
        file.rows_where(&task.filter)
    }

    fn file(&self, name: &str) -> Result<Arc<DataFile>, Error> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(name) {
            return Ok(file.clone());
        }
        let filters = self.tasks.iter().flat_map(|task| task.filter.keys().map(String::as_str));
        let columns: BTreeSet<&str> = filters.chain(self.spec.scenario.column()).collect();
        let file = DataFile::read(&self.root.join(name), &self.spec.input_column, &self.spec.label_column, &columns)?;
        let file = Arc::new(file);
        files.insert(name.to_owned(), file.clone());
        Ok(file)
    }
}
