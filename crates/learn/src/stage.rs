//! An update's phases as steps: which rows each goes through, and for how long.

use domain::draw::Draw;
use domain::pipeline::Training;

use crate::method::{Phase, Reads};
use crate::{Error, Pool};

/// A phase and its place among the update's steps.
pub struct Stage {
    pub phase: Phase,
    pub start: u64,
    pub steps: u64,
    /// Rows of a step that the phase goes through, and rows replayed beside them.
    pub batch: usize,
    pub replayed: usize,
    /// Of the order of rows.
    pub draw: Draw,
}

impl Stage {
    pub fn end(&self) -> u64 {
        self.start + self.steps
    }

    /// Rows that the phase goes through.
    pub fn rows(&self, pool: &Pool, slots: usize) -> usize {
        match self.phase.reads {
            Reads::Chunk | Reads::Replay => pool.training().len(),
            Reads::Everything => pool.everything(),
            Reads::Memory => slots,
        }
    }
}

/// One after the other. `remembers`: whether anything may be replayed in the course of the update.
pub fn stages(
    phases: &[Phase],
    training: &Training,
    pool: &Pool,
    remembers: bool,
    order: Draw,
) -> Result<Vec<Stage>, Error> {
    let mut stages: Vec<Stage> = Vec::new();
    for &phase in phases {
        let (batch, replayed) = split(phase.reads, training, remembers);
        // On memory alone, as long as on the chunk.
        let rows = if phase.reads == Reads::Everything { pool.everything() } else { pool.training().len() };
        if rows == 0 {
            return Err(Error::NoRows { purpose: "train on" });
        }
        let steps = u64::from(training.epochs.get()) * rows.div_ceil(batch) as u64;
        let draw = if stages.is_empty() { order } else { order.named("phase").at(stages.len() as u64) };
        let start = stages.last().map_or(0, Stage::end);
        stages.push(Stage { phase, start, steps, batch, replayed, draw });
    }
    Ok(stages)
}

/// Where nothing is remembered in the whole update, new rows take the others' place.
fn split(reads: Reads, training: &Training, remembers: bool) -> (usize, usize) {
    match reads {
        Reads::Replay if remembers => training.split(),
        _ => (training.batch_size.get() as usize, 0),
    }
}
