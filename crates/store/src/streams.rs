//! Streams of tasks over public data sets, described by a JSON file that holds no data.
//!
//! A stream says which rows of which Parquet files make task k, and how their images are changed.
//! Everything is a function of the files: the same rows in the same order on every machine.

mod file;
mod transform;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use domain::chunk::Row;
use domain::draw::Draw;
use domain::id::TaskName;
use rayon::prelude::*;
use serde::Deserialize;

use crate::Error;
use file::DataFile;
use transform::Transform;

/// Files are often sorted by class; rows are shuffled within a task, always in the same way.
const SHUFFLE: u64 = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    Train,
    Test,
}

#[derive(Clone, Debug, Deserialize)]
struct Spec {
    name: String,
    scenario: String,
    input_column: String,
    label_column: String,
    train: Vec<String>,
    test: Vec<String>,
    labels: String,
    tasks: Vec<Task>,
}

/// One step of a stream.
#[derive(Clone, Debug, Deserialize)]
pub struct Task {
    pub name: String,
    /// Column -> values to keep; all must hold.
    #[serde(default)]
    filter: BTreeMap<String, Vec<i64>>,
    #[serde(default)]
    transform: Transform,
    train: Option<Vec<String>>,
    test: Option<Vec<String>>,
}

impl Task {
    /// The name as the platform spells names: `art_painting` is `art-painting`.
    ///
    /// None if nothing of it is left.
    pub fn task_name(&self) -> Option<TaskName> {
        let legal = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let name: String = self.name.chars().map(legal).collect();
        name.trim_matches('-').parse().ok()
    }
}

/// An open stream. Each data file is read once and kept, encoded as it is on disk.
pub struct Stream {
    path: PathBuf,
    root: PathBuf,
    spec: Spec,
    labels: Vec<String>,
    files: Mutex<HashMap<String, Arc<DataFile>>>,
}

impl Stream {
    /// `data_root` is what the stream's paths are relative to; the parent of its folder by default.
    pub fn open(path: &Path, data_root: Option<&Path>) -> Result<Self, Error> {
        let spec: Spec = read_json(path)?;
        let default = path.parent().map(|folder| folder.join(".."));
        let root = data_root.map(Path::to_owned).or(default).unwrap_or_default();
        let mut labels: BTreeMap<String, Vec<String>> = read_json(&root.join(&spec.labels))?;
        let names = labels.remove(&spec.label_column).ok_or_else(|| Error::Stream {
            path: path.display().to_string(),
            reason: format!("`{}` names no label of column `{}`", spec.labels, spec.label_column),
        })?;
        Ok(Self { path: path.to_owned(), root, spec, labels: names, files: Mutex::default() })
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Whether later tasks bring new classes (and not only new domains of the same ones).
    pub fn is_class_incremental(&self) -> bool {
        self.spec.scenario == "class-incremental"
    }

    /// In the order in which they arrive.
    pub fn tasks(&self) -> &[Task] {
        &self.spec.tasks
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
        let files = match split {
            Split::Train => task.train.as_ref().unwrap_or(&self.spec.train),
            Split::Test => task.test.as_ref().unwrap_or(&self.spec.test),
        };
        let mut kept = Vec::new();
        for name in files {
            let file = self.file(name)?;
            kept.extend(file.rows_where(&task.filter).into_iter().map(|row| (name, file.clone(), row)));
        }
        let purpose = match split {
            Split::Train => "train",
            Split::Test => "test",
        };
        let order = Draw::new(SHUFFLE).named(purpose).at(k as u64).permutation(kept.len());
        let order = &order[..limit.unwrap_or(usize::MAX).min(order.len())];
        let row = |&at: &usize| {
            let (name, file, row) = &kept[at];
            self.row(task, name, file, *row)
        };
        order.par_iter().map(row).collect()
    }

    fn task(&self, k: usize) -> Result<&Task, Error> {
        let count = self.spec.tasks.len();
        self.spec.tasks.get(k).ok_or_else(|| self.bad(format!("there is no task {k}, only {count} from 0")))
    }

    fn row(&self, task: &Task, name: &str, file: &DataFile, row: usize) -> Result<Row, Error> {
        let label = usize::try_from(file.labels()[row]).ok().and_then(|at| self.labels.get(at));
        let unknown = || self.bad(format!("`{name}` row {row} has label {}, which has no name", file.labels()[row]));
        let payload = task.transform.apply(&file.inputs[row]);
        Ok(Row {
            id: format!("{name}:{row}"),
            payload: payload.map_err(|reason| self.bad(format!("`{name}` row {row}: {reason}")))?,
            label: label.ok_or_else(unknown)?.clone(),
        })
    }

    fn bad(&self, reason: String) -> Error {
        Error::Stream { path: self.path.display().to_string(), reason }
    }

    fn file(&self, name: &str) -> Result<Arc<DataFile>, Error> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(name) {
            return Ok(file.clone());
        }
        let filters = self.spec.tasks.iter().flat_map(|task| task.filter.keys().map(String::as_str));
        let integers: BTreeSet<&str> = filters.collect();
        let file = DataFile::read(&self.root.join(name), &self.spec.input_column, &self.spec.label_column, &integers)?;
        let file = Arc::new(file);
        files.insert(name.to_owned(), file.clone());
        Ok(file)
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = std::fs::read(path).map_err(Error::file("read", path))?;
    serde_json::from_slice(&text).map_err(|e| Error::Stream { path: path.display().to_string(), reason: e.to_string() })
}
