//! What an update may see: its rows and the parent's memory, without held-out items.

use std::fs;

use domain::buffer::Snapshot;
use learn::Carried;

use super::Error;
use super::rows::{self, Rows};
use crate::job::TrainJob;

pub struct Known {
    pub rows: Rows,
    pub snapshot: Snapshot,
    pub carried: Carried,
    /// So many were left out.
    pub contaminated_rows: u64,
}

pub fn known(job: &TrainJob) -> Result<Known, Error> {
    let (parents, mut carried) = remembered(job)?;
    let (mut rows, mut snapshot) = (rows::read(job, &parents)?, parents.clone());
    rows.settle(&mut snapshot, &job.manifest.labels);
    let contaminated_rows = rows.leave_out(&rows::all_held_out(job)?, &mut snapshot);
    if rows.is_empty() && contaminated_rows > 0 {
        return Err(Error::HeldOut(contaminated_rows));
    }
    carried.follow(&parents, &snapshot);
    Ok(Known { rows, snapshot, carried, contaminated_rows })
}

/// The parent's buffer under today's policy and capacity, and what the parent left besides; nothing for a first run.
pub fn remembered(job: &TrainJob) -> Result<(Snapshot, Carried), Error> {
    let pipeline = &job.manifest.pipeline;
    let (policy, capacity) = (pipeline.policy(), u64::from(pipeline.rehearsal.memory_size.get()));
    let mut carried = match &job.parent {
        Some(folder) => Carried::load(folder)?,
        None => Carried::default(),
    };
    let Some(file) = &job.snapshot else {
        return Ok((Snapshot::empty(policy, capacity, pipeline.seed), carried));
    };
    let refused = |reason: String| Error::Snapshot { file: file.clone(), reason };
    let text = fs::read(file).map_err(|e| refused(e.to_string()))?;
    let parent: Snapshot = serde_json::from_slice(&text).map_err(|e| refused(e.to_string()))?;
    let adopted = buffer::adopt(parent.clone(), policy, capacity);
    carried.follow(&parent, &adopted);
    Ok((adopted, carried))
}
