//! The rows one update can see: its chunks' first, in data order, then remembered ones.

use std::collections::HashMap;
use std::ops::Range;

use domain::buffer::{Slot, Snapshot};
use domain::id::ChunkId;
use tch::Device;

use crate::data::Dataset;

/// Decoded rows, and where each stands.
pub struct Pool {
    pub data: Dataset,
    /// How many of the rows are the chunks'.
    pub fresh: usize,
    /// The chunks and the position of each one's first row.
    chunks: Vec<(ChunkId, usize)>,
    remembered: HashMap<(ChunkId, u32), usize>,
    labels: Vec<u32>,
}

/// The rows of a chunk that a snapshot's slots refer to, in the order of its dataset.
pub struct Remembered {
    pub chunk: ChunkId,
    pub rows: Vec<u32>,
}

impl Pool {
    /// `fresh` holds the rows of `chunks` in order, `memory` those of `remembered`.
    pub fn new(
        chunks: Vec<(ChunkId, usize)>,
        fresh: Dataset,
        remembered: Vec<Remembered>,
        memory: Option<Dataset>,
        device: Device,
    ) -> Self {
        let count = fresh.len();
        let mut start = 0;
        let mut starts = Vec::new();
        for (chunk, rows) in chunks {
            starts.push((chunk, start));
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
        Self { data: data.to_device(device), fresh: count, chunks: starts, remembered, labels }
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
        match self.chunks.iter().find(|(id, _)| id == chunk) {
            Some((_, start)) => start + slot.row as usize,
            None => self.remembered[&(chunk.clone(), slot.row)],
        }
    }

    /// The run's chunks, each with its rows' positions.
    pub fn chunks(&self) -> impl Iterator<Item = (&ChunkId, Range<usize>)> {
        let ends = self.chunks.iter().skip(1).map(|(_, start)| *start).chain([self.fresh]);
        self.chunks.iter().zip(ends).map(|((id, start), end)| (id, *start..end))
    }

    /// The chunk of a fresh row, and its place there.
    pub fn origin(&self, position: usize) -> (&ChunkId, u32) {
        let after = self.chunks.partition_point(|(_, start)| *start <= position);
        let (chunk, start) = &self.chunks[after - 1];
        (chunk, (position - start) as u32)
    }
}
