//! The rows one update can see: its chunks' first, in data order, then remembered ones.

use std::collections::HashMap;

use domain::buffer::{Slot, Snapshot};
use domain::draw::Draw;
use domain::id::ChunkId;
use tch::Device;

use crate::data::Dataset;

/// Decoded rows, and where each stands.
pub struct Pool {
    pub data: Dataset,
    /// How many of the rows are the chunks'.
    pub fresh: usize,
    /// Where each part of them begins.
    parts: Vec<(Part, usize)>,
    remembered: HashMap<(ChunkId, u32), usize>,
    labels: Vec<u32>,
    /// Of the chunks' rows, those that train, in order; and those that validate.
    training: Vec<usize>,
    validation: Vec<usize>,
}

/// Rows of a chunk, in the order of a dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub chunk: ChunkId,
    /// Their places among all of the chunk's training rows, ascending.
    pub rows: Vec<u32>,
}

impl Part {
    pub fn whole(chunk: ChunkId, rows: usize) -> Self {
        Self { chunk, rows: (0..rows as u32).collect() }
    }
}

impl Pool {
    /// `fresh` holds the rows of `chunks` in order, `memory` those of `remembered`.
    pub fn new(
        chunks: Vec<Part>,
        fresh: Dataset,
        remembered: Vec<Part>,
        memory: Option<Dataset>,
        device: Device,
    ) -> Self {
        let count = fresh.len();
        let mut start = 0;
        let mut parts = Vec::new();
        for part in chunks {
            let rows = part.rows.len();
            parts.push((part, start));
            start += rows;
        }
        let rows =
            remembered.into_iter().flat_map(|part| part.rows.into_iter().map(move |row| (part.chunk.clone(), row)));
        let data = match &memory {
            Some(memory) => fresh.then(memory),
            None => fresh,
        };
        let remembered = rows.zip(count..).collect();
        let labels = data.all_labels();
        let training = (0..count).collect();
        let data = data.to_device(device);
        Self { data, fresh: count, parts, remembered, labels, training, validation: Vec::new() }
    }

    /// Sets this share of the chunks' rows that train aside, one at least, but never all of them.
    pub fn set_aside(mut self, share: f64, draw: Draw) -> Self {
        let trains = self.training.len();
        let wanted = if share > 0.0 { ((share * trains as f64) as usize).max(1) } else { 0 };
        let count = wanted.min(trains.saturating_sub(1));
        let mut order: Vec<usize> = draw.permutation(trains).into_iter().map(|at| self.training[at]).collect();
        self.training = order.split_off(count);
        self.validation = order;
        self.training.sort_unstable();
        self.validation.sort_unstable();
        self
    }

    /// The chunks' rows that train, in order.
    pub fn training(&self) -> &[usize] {
        &self.training
    }

    /// The chunks' rows that were set aside.
    pub fn validation(&self) -> Vec<i64> {
        self.validation.iter().map(|&row| row as i64).collect()
    }

    /// The position of row `number` of those that train and then of those that are remembered.
    pub fn trains(&self, number: usize) -> usize {
        let remembered = || number - self.training.len() + self.fresh;
        self.training.get(number).copied().unwrap_or_else(remembered)
    }

    /// Rows that train, and rows that are remembered.
    pub fn everything(&self) -> usize {
        self.training.len() + self.data.len() - self.fresh
    }

    /// Of every row.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The label at a position.
    pub fn label(&self, position: usize) -> u32 {
        self.labels[position]
    }

    /// The position of the row that a slot refers to.
    pub fn position(&self, snapshot: &Snapshot, slot: &Slot) -> usize {
        let chunk = &snapshot.chunks[slot.chunk as usize];
        let mut own = self.parts.iter().filter(|(part, _)| part.chunk == *chunk);
        let fresh = own.find_map(|(part, start)| Some(start + part.rows.binary_search(&slot.row).ok()?));
        fresh.unwrap_or_else(|| self.remembered[&(chunk.clone(), slot.row)])
    }

    /// The run's chunks, each with those of `rows`, positions that ascend, that are its own.
    pub fn chunks<'p>(&'p self, rows: &'p [usize]) -> impl Iterator<Item = (&'p ChunkId, &'p [usize])> {
        let ends = self.parts.iter().skip(1).map(|(_, start)| *start).chain([self.fresh]);
        let place = |row: usize| rows.partition_point(|&known| known < row);
        self.parts.iter().zip(ends).map(move |((part, start), end)| (&part.chunk, &rows[place(*start)..place(end)]))
    }

    /// The chunk of every row, by position.
    pub fn origins(&self) -> Vec<&ChunkId> {
        let fresh = (0..self.fresh).map(|position| self.origin(position).0);
        let mut remembered: Vec<(usize, &ChunkId)> =
            self.remembered.iter().map(|((chunk, _), position)| (*position, chunk)).collect();
        remembered.sort_unstable_by_key(|(position, _)| *position);
        fresh.chain(remembered.into_iter().map(|(_, chunk)| chunk)).collect()
    }

    /// The chunk of a fresh row, and its place there.
    pub fn origin(&self, position: usize) -> (&ChunkId, u32) {
        let after = self.parts.partition_point(|(_, start)| *start <= position);
        let (part, start) = &self.parts[after - 1];
        (&part.chunk, part.rows[position - start])
    }
}
