//! The state in the middle of an update, on disk: what a resumed attempt continues from, bit for bit.
//!
//! `state.safetensors` and `trainer.json`, then `MANIFEST.json` with the size and digest of each; a
//! folder without a manifest, or that disagrees with it, is not loaded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use domain::buffer::Snapshot;
use domain::manifest::Manifest;
use domain::pipeline::Precision;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::Tensor;

use crate::optim::Optimizer;
use crate::update::Moment;
use crate::{Carried, Error, files};

const STATE: &str = "state.safetensors";
const TRAINER: &str = "trainer.json";
const MANIFEST: &str = "MANIFEST.json";
const VALUES: &str = "values";
/// Before the names of what is carried.
const CARRIED: &str = "carried.";

/// A loaded checkpoint.
pub struct Saved {
    /// Steps done.
    pub step: u64,
    pub loss: Option<f64>,
    pub dropped_rows: u64,
    pub snapshot: Snapshot,
    /// What frozen linear layers were in.
    pub precision: Precision,
    /// What the method and memory held besides.
    pub carried: Carried,
    state: BTreeMap<String, Tensor>,
}

#[derive(Serialize, Deserialize)]
struct Trainer {
    step: u64,
    loss: Option<f64>,
    #[serde(default)]
    dropped_rows: u64,
    snapshot: Snapshot,
    precision: Precision,
}

#[derive(Serialize, Deserialize)]
struct Contents {
    /// Of the run's manifest.
    run: String,
    parts: BTreeMap<String, Part>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Part {
    sha256: String,
    bytes: u64,
}

/// Fills `folder`. The order of writes is what makes it whole: the manifest comes last.
pub fn save(folder: &Path, run: &Manifest, precision: Precision, moment: &Moment) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(|source| Error::Write { file: folder.to_owned(), source })?;
    let mut tensors = vec![(VALUES.to_owned(), moment.values.shallow_clone())];
    tensors.extend(moment.optimizer.moments().into_iter().map(|(name, tensor)| (name.to_owned(), tensor)));
    tensors.extend(moment.carried().0.into_iter().map(|(name, tensor)| (format!("{CARRIED}{name}"), tensor)));
    files::write_tensors(&folder.join(STATE), &tensors)?;
    let (loss, snapshot) = (Some(moment.loss), moment.snapshot.clone());
    let trainer = Trainer { step: moment.step, loss, dropped_rows: moment.dropped_rows, snapshot, precision };
    files::write_json(&folder.join(TRAINER), &trainer)?;
    let mut parts = BTreeMap::new();
    for name in [STATE, TRAINER] {
        parts.insert(name.to_owned(), describe(&folder.join(name))?);
    }
    files::write_json(&folder.join(MANIFEST), &Contents { run: identity(run)?, parts })
}

/// Refuses a torn folder, a changed one, and one of another run.
pub fn load(folder: &Path, run: &Manifest) -> Result<Saved, Error> {
    let contents: Contents = files::read_json(&folder.join(MANIFEST))?;
    for (name, expected) in &contents.parts {
        let file = folder.join(name);
        let found = describe(&file)?;
        if found != *expected {
            let reason = format!(
                "it has {} bytes with digest {}, the manifest names {} and {}",
                found.bytes, found.sha256, expected.bytes, expected.sha256
            );
            return Err(files::damaged(&file, reason));
        }
    }
    if contents.run != identity(run)? {
        return Err(Error::ForeignCheckpoint { folder: folder.to_owned() });
    }
    let trainer: Trainer = files::read_json(&folder.join(TRAINER))?;
    let (carried, state) =
        files::read_tensors(&folder.join(STATE))?.into_iter().partition(|(name, _)| name.starts_with(CARRIED));
    let bare = |(name, tensor): (String, Tensor)| (name[CARRIED.len()..].to_owned(), tensor);
    let carried: BTreeMap<String, Tensor> = carried;
    Ok(Saved {
        step: trainer.step,
        loss: trainer.loss,
        dropped_rows: trainer.dropped_rows,
        snapshot: trainer.snapshot,
        precision: trainer.precision,
        carried: Carried(carried.into_iter().map(bare).collect()),
        state,
    })
}

/// The checkpoint of this run in `folder` with the most steps, out of those that load.
///
/// Each lies in a folder named by its number of steps.
pub fn newest(folder: &Path, run: &Manifest) -> Option<PathBuf> {
    let steps = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u64>().ok();
    let entries = fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<PathBuf> = entries.filter(|path| steps(path).is_some()).collect();
    found.sort_by_key(|path| std::cmp::Reverse(steps(path)));
    found.into_iter().find(|path| load(path, run).is_ok())
}

impl Saved {
    /// Copies the weights and the optimiser's moments back.
    ///
    /// # Panics
    /// If they have other shapes, which the run's identity rules out.
    pub fn restore(&self, values: &mut Tensor, optimizer: &dyn Optimizer) {
        let _guard = tch::no_grad_guard();
        values.copy_(&self.state[VALUES]);
        for (name, mut moment) in optimizer.moments() {
            moment.copy_(&self.state[name]);
        }
    }
}

fn identity(run: &Manifest) -> Result<String, Error> {
    let text = serde_json::to_vec(run).map_err(|e| files::damaged(Path::new(MANIFEST), e))?;
    Ok(hex::encode(Sha256::digest(text)))
}

fn describe(file: &Path) -> Result<Part, Error> {
    let bytes = fs::metadata(file).map_err(|source| Error::Read { file: file.to_owned(), source })?.len();
    Ok(Part { sha256: files::file_digest(file)?, bytes })
}
