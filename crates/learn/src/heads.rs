//! A head for each task, out of the rows of the one that holds every label: those of the labels that the task has had.
//!
//! In training, a row is told apart from its own task's labels only; so it is afterwards, wherever its task is known. Tasks
//! that share labels share their rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use domain::id::ChunkId;
use domain::manifest::Manifest;
use tch::{Device, Tensor};

use crate::{Error, Pool, files};

/// Among a version's files, where tasks have heads.
pub const HEADS: &str = "heads.json";

/// Positions of labels, by task.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heads(BTreeMap<String, BTreeSet<u32>>);

impl Heads {
    /// Those of the version in `folder`, which may have none. Labels that are not among `labels` are refused elsewhere.
    pub fn load(folder: &Path, labels: &[String]) -> Result<Option<Self>, Error> {
        let file = folder.join(HEADS);
        if !file.exists() {
            return Ok(None);
        }
        let positions: HashMap<&str, u32> = labels.iter().map(String::as_str).zip(0..).collect();
        let named: BTreeMap<String, Vec<String>> = files::read_json(&file)?;
        let known =
            |names: Vec<String>| names.iter().filter_map(|name| positions.get(name.as_str()).copied()).collect();
        Ok(Some(Self(named.into_iter().map(|(task, names)| (task, known(names))).collect())))
    }

    /// `{task: [label, …]}`
    pub fn save(&self, file: &Path, labels: &[String]) -> Result<(), Error> {
        let names =
            |head: &BTreeSet<u32>| head.iter().map(|&label| labels[label as usize].as_str()).collect::<Vec<_>>();
        let named: BTreeMap<&str, Vec<&str>> = self.0.iter().map(|(task, head)| (task.as_str(), names(head))).collect();
        files::write_json(file, &named)
    }

    /// With the labels that tasks have in a run's chunks and in memory.
    pub fn grown(mut self, manifest: &Manifest, pool: &Pool) -> Self {
        let tasks = tasks(manifest);
        for (chunk, &label) in pool.origins().into_iter().zip(pool.labels()) {
            if let Some(task) = tasks.get(chunk) {
                self.0.entry((*task).to_owned()).or_default().insert(label);
            }
        }
        self
    }

    /// (classes): 0 for a label of the task, else −∞. None for a task without a head, which may have any label.
    pub fn mask(&self, task: &str, classes: usize) -> Option<Tensor> {
        let head = self.0.get(task)?;
        let value = |class: u32| if head.contains(&class) { 0f32 } else { f32::NEG_INFINITY };
        Some(Tensor::from_slice(&(0..classes as u32).map(value).collect::<Vec<_>>()))
    }

    pub fn tasks(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// What an update leaves out of each row's cross-entropy.
pub struct Apart {
    /// (rows of the pool): where each row's mask stands among those of all tasks.
    rows: Tensor,
    /// (tasks + 1, classes): the last is that of a row whose task has no head.
    masks: Tensor,
}

impl Apart {
    pub fn new(heads: &Heads, manifest: &Manifest, pool: &Pool, device: Device) -> Self {
        let classes = manifest.labels.len();
        let places: HashMap<&str, i64> = heads.tasks().zip(0..).collect();
        let mut masks: Vec<Tensor> = heads.tasks().filter_map(|task| heads.mask(task, classes)).collect();
        let without = masks.len() as i64;
        masks.push(Tensor::zeros([classes as i64], tch::kind::FLOAT_CPU));
        let tasks = tasks(manifest);
        let place = |chunk: &ChunkId| tasks.get(chunk).and_then(|task| places.get(task)).copied().unwrap_or(without);
        let rows: Vec<i64> = pool.origins().into_iter().map(place).collect();
        Self { rows: Tensor::from_slice(&rows), masks: Tensor::stack(&masks, 0).to_device(device) }
    }

    /// (rows, classes)
    pub fn of(&self, positions: &[i64]) -> Tensor {
        let places = self.rows.index_select(0, &Tensor::from_slice(positions));
        self.masks.index_select(0, &places.to_device(self.masks.device()))
    }
}

/// Of the chunks whose rows an update may read.
fn tasks(manifest: &Manifest) -> HashMap<&ChunkId, &str> {
    let remembered = manifest.snapshot.iter().flat_map(|data| &data.chunks);
    manifest.chunks.iter().chain(remembered).map(|chunk| (&chunk.id, chunk.task.as_str())).collect()
}
