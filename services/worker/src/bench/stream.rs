//! A stream's tasks as chunks and EvalSets, written once and read by every seed.

use std::path::Path;

use anyhow::{Context, bail};
use domain::evalset::EvalSet;
use domain::id::TaskName;
use domain::manifest::ChunkData;
use domain::pipeline::Spec;
use store::streams::{Split, Stream, Task};

use super::flags;
use super::shelf::Shelf;
use super::watch::Watch;

pub struct Tasks {
    pub shelf: Shelf,
    pub train: Vec<ChunkData>,
    pub test: Vec<EvalSet>,
    /// Later tasks bring new classes, so that accuracy on them before they train means nothing.
    pub class_incremental: bool,
}

impl Tasks {
    pub fn names(&self) -> Vec<String> {
        self.test.iter().map(|set| set.task.to_string()).collect()
    }
}

/// A stream with tasks.
pub fn open(file: &Path, root: Option<&Path>) -> anyhow::Result<Stream> {
    let stream = Stream::open(file, root)?;
    if stream.tasks().is_empty() {
        bail!("`{}` has no tasks", file.display());
    }
    Ok(stream)
}

/// Whether the pipeline's model and adapter fit the stream's rows.
pub fn check(stream: &Stream, spec: &Spec, base: Option<&Path>) -> anyhow::Result<()> {
    match stream.task_rows(0, Split::Train, Some(1))?.first() {
        Some(row) => flags::check_model(spec, base, row),
        None => Ok(()),
    }
}

/// Writes the first `limit` training rows and all test rows of each task below `folder`.
pub fn load(stream: &Stream, limit: Option<usize>, folder: &Path, watch: &Watch) -> anyhow::Result<Tasks> {
    let folder = folder.join("shards");
    std::fs::create_dir(&folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
    let class_incremental = stream.is_class_incremental();
    let mut tasks = Tasks { shelf: Shelf::new(folder), train: Vec::new(), test: Vec::new(), class_incremental };
    for (k, task) in stream.tasks().iter().enumerate() {
        watch.begin(&format!("reading {}", task.name));
        let name = task_name(task)?;
        tasks.train.push(tasks.shelf.train(&stream.task_rows(k, Split::Train, limit)?, &name)?);
        tasks.test.push(tasks.shelf.held_out(&stream.task_rows(k, Split::Test, None)?, &name)?);
    }
    Ok(tasks)
}

pub fn task_name(task: &Task) -> anyhow::Result<TaskName> {
    task.task_name().with_context(|| format!("task name `{}` has no letter or digit, or is longer than 63", task.name))
}
