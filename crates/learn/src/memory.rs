//! The rehearsal buffer at work: a snapshot, and what the method keeps of its rows.

use std::ops::Range;

use domain::buffer::Snapshot;
use domain::draw::Draw;
use domain::id::ChunkId;
use domain::pipeline::SlotWeights;
use tch::Tensor;

use crate::Pool;
use crate::kept::{Kept, numbers};

/// Rows of one step out of one source.
pub struct Rows {
    /// Where they stand in the pool.
    pub positions: Vec<i64>,
    /// Where they stand in memory; empty if they do not.
    pub slots: Vec<usize>,
    /// (rows, columns): what memory keeps of them.
    pub kept: Option<Tensor>,
    /// (rows): what their losses are multiplied by, 1 on average. None where all are alike.
    pub weights: Option<Tensor>,
}

impl Rows {
    /// Of the chunk.
    pub fn fresh(positions: Vec<i64>) -> Self {
        Self { positions, slots: Vec::new(), kept: None, weights: None }
    }

    pub fn len(&self) -> usize {
        self.positions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// Those that follow one another.
    pub fn span(&self, span: Range<usize>) -> Self {
        let rows = |all: &Tensor| all.narrow(0, span.start as i64, span.len() as i64);
        Self {
            positions: self.positions[span.clone()].to_vec(),
            slots: self.slots.get(span.clone()).unwrap_or_default().to_vec(),
            kept: self.kept.as_ref().map(rows),
            weights: self.weights.as_ref().map(rows),
        }
    }

    /// With their losses multiplied by these, too.
    pub fn weighed(mut self, weights: Option<Vec<f32>>) -> Self {
        if let Some(weights) = weights {
            let new = Tensor::from_slice(&weights);
            self.weights = Some(self.weights.map_or_else(|| new.shallow_clone(), |own| own * &new));
        }
        self
    }

    /// Some of them.
    pub fn pick(&self, chosen: &[usize]) -> Self {
        let index = Tensor::from_slice(&chosen.iter().map(|&row| row as i64).collect::<Vec<_>>());
        let rows = |all: &Tensor| all.index_select(0, &index);
        Self {
            positions: chosen.iter().map(|&row| self.positions[row]).collect(),
            slots: chosen.iter().filter_map(|&row| self.slots.get(row).copied()).collect(),
            kept: self.kept.as_ref().map(rows),
            weights: self.weights.as_ref().map(rows),
        }
    }
}

pub struct Memory<'a> {
    pub snapshot: Snapshot,
    /// Where the method keeps any answers.
    pub kept: Option<Kept>,
    /// (draws, classes, width + 1): the gradient that a matching coreset stands for.
    pub target: Option<Tensor>,
    /// How far memory's gradient is from it, where that is measured.
    pub residual: Option<f64>,
    /// Seconds that measuring it took.
    pub measuring: f64,
    uses: SlotWeights,
    pool: &'a Pool,
    /// Of replay.
    stream: Draw,
    pub clock: &'a dyn Fn() -> f64,
    /// What draws and offers took.
    pub seconds: f64,
}

impl<'a> Memory<'a> {
    pub fn new(
        snapshot: Snapshot,
        kept: Option<Kept>,
        uses: SlotWeights,
        pool: &'a Pool,
        stream: Draw,
        clock: &'a dyn Fn() -> f64,
    ) -> Self {
        Self { snapshot, kept, target: None, residual: None, measuring: 0.0, uses, pool, stream, clock, seconds: 0.0 }
    }

    /// Of an answer; 0 where none is kept.
    pub fn kept_columns(&self) -> i64 {
        self.kept.as_ref().map_or(0, |kept| kept.columns() as i64)
    }

    /// The replay batches of a step, each of so many rows; none where nothing is remembered.
    pub fn draw(&mut self, step: u64, batches: usize, rows: usize) -> Vec<Rows> {
        let start = (self.clock)();
        let streams = (0..batches as u64).map(|batch| match batch {
            0 => self.stream,
            again => self.stream.named("again").at(again),
        });
        let drawn: Vec<Rows> = streams
            .map(|stream| match self.uses {
                SlotWeights::Sampling => buffer::draw_by_weight(&self.snapshot, stream, step, rows),
                SlotWeights::Loss | SlotWeights::Unit => buffer::draw(&self.snapshot, stream, step, rows),
            })
            .filter(|slots| !slots.is_empty())
            .map(|slots| self.rows(&slots))
            .collect();
        self.seconds += (self.clock)() - start;
        drawn
    }

    /// Of these slots.
    pub fn rows(&self, slots: &[usize]) -> Rows {
        let kept = self.kept.as_ref().map(|all| all.take(slots));
        Rows { positions: self.positions(slots), slots: slots.to_vec(), kept, weights: self.weights(slots) }
    }

    /// Slots of which something ought to be kept that is not known.
    pub fn unknown(&self) -> Vec<usize> {
        let Some(kept) = &self.kept else { return Vec::new() };
        (0..self.snapshot.slots.len()).filter(|&slot| !kept.knows(slot)).collect()
    }

    pub fn positions(&self, slots: &[usize]) -> Vec<i64> {
        let position = |&slot: &usize| self.pool.position(&self.snapshot, &self.snapshot.slots[slot]) as i64;
        slots.iter().map(position).collect()
    }

    fn weights(&self, slots: &[usize]) -> Option<Tensor> {
        let weights: Vec<f32> = slots.iter().map(|&slot| self.snapshot.slots[slot].weight).collect();
        let sum: f32 = weights.iter().sum();
        let differ = weights.iter().any(|weight| *weight != weights[0]);
        (self.uses == SlotWeights::Loss && differ && sum > 0.0)
            .then(|| Tensor::from_slice(&weights) * (weights.len() as f64 / f64::from(sum)))
    }

    /// Ends a chunk with these candidates, out of the slots and then the chunk's offered rows, each with its label.
    pub fn select(&mut self, chunk: &ChunkId, offered: &[(u32, u32)], chosen: &[(usize, f32)]) {
        let start = (self.clock)();
        let before = self.snapshot.clone();
        buffer::keep(&mut self.snapshot, chunk, offered, chosen);
        self.kept = self.kept.take().map(|kept| kept.follow(&before, &self.snapshot));
        self.seconds += (self.clock)() - start;
    }

    /// Shows the buffer those of the rows that are the chunks'; the slots that they took. `answers` are the rows' own,
    /// (rows, columns), where they are at hand.
    pub fn offer(&mut self, rows: &[usize], answers: Option<&Tensor>) -> Vec<usize> {
        let start = (self.clock)();
        let answers = answers.map(numbers);
        let mut taken = Vec::new();
        for (at, &position) in rows.iter().enumerate().filter(|(_, row)| **row < self.pool.fresh) {
            let (chunk, row) = self.pool.origin(position);
            let Some(slot) = buffer::offer(&mut self.snapshot, chunk, row, self.pool.label(position)) else { continue };
            taken.push(slot);
            if let Some(kept) = &mut self.kept {
                let row = answers.as_ref().and_then(|all| all.chunks_exact(all.len() / rows.len()).nth(at));
                kept.set(slot, row);
            }
        }
        taken.sort_unstable();
        taken.dedup();
        self.seconds += (self.clock)() - start;
        taken
    }

    /// Keeps what `answers` (slots, columns) says of these slots.
    pub fn keep(&mut self, slots: &[usize], answers: &Tensor) {
        let Some(kept) = &mut self.kept else { return };
        let answers = numbers(answers);
        for (row, &slot) in answers.chunks_exact(answers.len() / slots.len()).zip(slots) {
            kept.set(slot, Some(row));
        }
    }

    /// The same of what was not kept of them yet.
    pub fn complete(&mut self, slots: &[usize], answers: &Tensor) {
        let Some(kept) = &mut self.kept else { return };
        let answers = numbers(answers);
        for (row, &slot) in answers.chunks_exact(answers.len() / slots.len()).zip(slots) {
            kept.complete(slot, row);
        }
    }

    /// Lets answers (rows, columns) to a replayed batch blend into what is kept of its rows.
    pub fn refresh(&mut self, rows: &Rows, answers: &Tensor, decay: f64) {
        let Some(kept) = self.kept.as_mut().filter(|_| !rows.is_empty()) else { return };
        let answers = numbers(answers);
        for (row, &slot) in answers.chunks_exact(answers.len() / rows.len()).zip(&rows.slots) {
            kept.blend(slot, row, decay as f32);
        }
    }
}
