//! The rehearsal buffer at work: a snapshot, and what the method keeps of its rows.

use std::collections::HashMap;

use domain::buffer::Snapshot;
use domain::draw::Draw;
use domain::id::ChunkId;
use domain::pipeline::SlotWeights;
use tch::Tensor;

use crate::Pool;

/// Logits of remembered rows, one row a slot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logits {
    classes: usize,
    /// NaN where a row or a class has none.
    values: Vec<f32>,
}

impl Logits {
    /// None of any slot.
    pub fn unknown(slots: usize, classes: usize) -> Self {
        Self { classes, values: vec![f32::NAN; slots * classes] }
    }

    /// Of the first `slots` slots and `classes` classes: what `stored` (slots, classes then) says, else NaN.
    pub fn read(stored: &Tensor, slots: usize, classes: usize) -> Self {
        let mut logits = Self::unknown(slots, classes);
        let width = stored.size().get(1).map_or(0, |width| *width as usize);
        let rows = Vec::<f32>::try_from(stored.reshape([-1])).expect("a vector of f32");
        for (slot, row) in rows.chunks_exact(width.max(1)).enumerate().take(slots) {
            let known = width.min(classes);
            logits.row(slot)[..known].copy_from_slice(&row[..known]);
        }
        logits
    }

    fn row(&mut self, slot: usize) -> &mut [f32] {
        &mut self.values[slot * self.classes..][..self.classes]
    }

    fn set(&mut self, slot: usize, row: &[f32]) {
        if self.values.len() < (slot + 1) * self.classes {
            self.values.resize((slot + 1) * self.classes, f32::NAN);
        }
        self.row(slot).copy_from_slice(row);
    }

    /// (slots, classes)
    fn take(&self, slots: &[usize]) -> Tensor {
        let rows = slots.iter().map(|slot| &self.values[slot * self.classes..][..self.classes]);
        let rows: Vec<f32> = rows.flatten().copied().collect();
        Tensor::from_slice(&rows).view([slots.len() as i64, self.classes as i64])
    }

    /// All of them: (slots, classes)
    pub fn tensor(&self) -> Tensor {
        Tensor::from_slice(&self.values).view([-1, self.classes as i64])
    }

    /// The same rows where they stand in `after`, which keeps some of `before`'s.
    pub fn follow(&self, before: &Snapshot, after: &Snapshot) -> Self {
        let place = |snapshot: &Snapshot, slot: usize| {
            let slot = snapshot.slots[slot];
            (snapshot.chunks[slot.chunk as usize].clone(), slot.row)
        };
        let places: HashMap<(ChunkId, u32), usize> =
            (0..before.slots.len()).map(|slot| (place(before, slot), slot)).collect();
        let mut moved = Self::unknown(after.slots.len(), self.classes);
        for slot in 0..after.slots.len() {
            if let Some(&from) = places.get(&place(after, slot)) {
                let row = self.values[from * self.classes..][..self.classes].to_vec();
                moved.set(slot, &row);
            }
        }
        moved
    }
}

/// Rows of one step out of one source.
pub struct Rows {
    /// Where they stand in the pool.
    pub positions: Vec<i64>,
    /// (rows, classes)
    pub logits: Option<Tensor>,
    /// (rows): what their losses are multiplied by, 1 on average. None where all are alike.
    pub weights: Option<Tensor>,
}

pub struct Memory<'a> {
    pub snapshot: Snapshot,
    /// Where the method keeps them.
    pub logits: Option<Logits>,
    /// (draws, classes, width + 1): the gradient that a matching coreset stands for.
    pub target: Option<Tensor>,
    uses: SlotWeights,
    pool: &'a Pool,
    /// Of replay.
    stream: Draw,
    clock: &'a dyn Fn() -> f64,
    /// What draws and offers took.
    pub seconds: f64,
}

impl<'a> Memory<'a> {
    pub fn new(
        snapshot: Snapshot,
        logits: Option<Logits>,
        uses: SlotWeights,
        pool: &'a Pool,
        stream: Draw,
        clock: &'a dyn Fn() -> f64,
    ) -> Self {
        Self { snapshot, logits, target: None, uses, pool, stream, clock, seconds: 0.0 }
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
        let logits = self.logits.as_ref().map(|all| all.take(slots));
        Rows { positions: self.positions(slots), logits, weights: self.weights(slots) }
    }

    /// Slots whose logits ought to be kept and are not known.
    pub fn unknown(&self) -> Vec<usize> {
        let Some(logits) = &self.logits else { return Vec::new() };
        let known =
            |slot: usize| logits.values[slot * logits.classes..][..logits.classes].iter().any(|z| z.is_finite());
        (0..self.snapshot.slots.len()).filter(|&slot| !known(slot)).collect()
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

    /// Ends a chunk with these candidates, out of the slots and then the chunk's rows.
    pub fn select(&mut self, chunk: &ChunkId, labels: &[u32], chosen: &[(usize, f32)]) {
        let start = (self.clock)();
        let before = self.snapshot.clone();
        buffer::keep(&mut self.snapshot, chunk, labels, chosen);
        self.logits = self.logits.take().map(|logits| logits.follow(&before, &self.snapshot));
        self.seconds += (self.clock)() - start;
    }

    /// Shows the buffer those of the rows that are the chunks'; the slots that they took. `logits` are the rows' own,
    /// (rows, classes), where they are at hand.
    pub fn offer(&mut self, rows: &[usize], logits: Option<&Tensor>) -> Vec<usize> {
        let start = (self.clock)();
        let logits = logits.map(|logits| Vec::<f32>::try_from(logits.reshape([-1])).expect("a vector of f32"));
        let mut taken = Vec::new();
        for (at, &position) in rows.iter().enumerate().filter(|(_, row)| **row < self.pool.fresh) {
            let (chunk, row) = self.pool.origin(position);
            let Some(slot) = buffer::offer(&mut self.snapshot, chunk, row, self.pool.label(position)) else { continue };
            taken.push(slot);
            if let Some(kept) = &mut self.logits {
                let classes = kept.classes;
                match &logits {
                    Some(values) => kept.set(slot, &values[at * classes..][..classes]),
                    None => kept.set(slot, &vec![f32::NAN; classes]),
                }
            }
        }
        taken.sort_unstable();
        taken.dedup();
        self.seconds += (self.clock)() - start;
        taken
    }

    /// Keeps what `logits` (slots, classes) says of these slots.
    pub fn keep(&mut self, slots: &[usize], logits: &Tensor) {
        let Some(kept) = &mut self.logits else { return };
        let values = Vec::<f32>::try_from(logits.reshape([-1])).expect("a vector of f32");
        for (row, &slot) in values.chunks_exact(kept.classes).zip(slots) {
            kept.set(slot, row);
        }
    }
}
