//! The frozen part of a net, run once a row instead of once a step.
//!
//! Below the lowest adapter a row's output is the same at every step. Rows are run through those blocks in groups that
//! depend on the pool alone, so that neither the number of ranks nor a resume changes a bit, and their outputs are kept:
//! first in memory, then on disk. A row that neither has room for is run at each step, with its micro-batch.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use domain::pipeline::PrefixCache;
use tch::{Device, Kind, Tensor};

use crate::data::Reader;
use crate::input::Input;
use crate::model::{Embedded, Net};
use crate::{Error, Pool, files};

/// Rows run together.
const GROUP: usize = 32;
/// Of an f32.
const BYTES: u64 = 4;

/// The outputs of a pool's rows.
pub struct Prefix<'a> {
    net: &'a Net,
    pool: &'a Pool,
    reader: &'a Reader,
    /// By position in the pool.
    rows: Vec<Kept>,
    spill: Option<Spill>,
}

/// Without padding: (tokens, width), or (width) where a model has no tokens.
enum Kept {
    Memory(Tensor),
    /// Where it starts in the file, and its shape.
    Disk(u64, Vec<i64>),
    Nowhere,
}

/// A file without a name: it goes with the process, however that ends.
struct Spill {
    file: File,
    bytes: u64,
    /// The scratch folder, for errors.
    folder: PathBuf,
}

impl<'a> Prefix<'a> {
    /// Runs the pool's rows through the blocks below every adapter; None if there are none. `filled` is told how many of
    /// the rows are done.
    pub fn fill(
        net: &'a Net,
        pool: &'a Pool,
        reader: &'a Reader,
        limits: PrefixCache,
        scratch: &Path,
        filled: &mut dyn FnMut(usize),
    ) -> Result<Option<Self>, Error> {
        if net.frozen == 0 {
            return Ok(None);
        }
        let rows = (0..pool.data.len()).map(|_| Kept::Nowhere).collect();
        let mut prefix = Self { net, pool, reader, rows, spill: None };
        let (mut room, mut disk) = (limits.memory_mib << 20, limits.disk_mib << 20);
        let mut done = 0;
        for group in pool.data.reading_order().chunks(GROUP) {
            // Rows come by length: the first that does not fit is smaller than all that follow.
            if room == 0 && disk == 0 {
                break;
            }
            for (&position, row) in group.iter().zip(prefix.run(group)) {
                let bytes = row.numel() as u64 * BYTES;
                prefix.rows[position as usize] = if bytes <= room {
                    room -= bytes;
                    Kept::Memory(row)
                } else if bytes <= disk {
                    (room, disk) = (0, disk - bytes);
                    prefix.spilled(&row, scratch)?
                } else {
                    (room, disk) = (0, 0);
                    Kept::Nowhere
                };
            }
            done += group.len();
            filled(done);
        }
        Ok(Some(prefix))
    }

    /// The rows at `positions`, padded to the longest, after the frozen blocks.
    pub fn take(&self, positions: &[i64]) -> Result<Input, Error> {
        let kept = positions.iter().map(|&position| self.kept(position)).collect::<Result<Vec<_>, _>>()?;
        let missing: Vec<i64> =
            positions.iter().zip(&kept).filter(|(_, row)| row.is_none()).map(|(&position, _)| position).collect();
        let mut computed = self.run(&missing).into_iter();
        let rows: Vec<Tensor> = kept.into_iter().filter_map(|row| row.or_else(|| computed.next())).collect();
        let (x, mask) = padded(&rows);
        let device = self.net.head.weight.device();
        let embedded = Embedded::new(x.to_device(device), mask.map(|mask| mask.to_device(device)));
        Ok(Input::Hidden(Embedded { done: self.net.frozen, ..embedded }))
    }

    fn kept(&self, position: i64) -> Result<Option<Tensor>, Error> {
        match (&self.rows[position as usize], &self.spill) {
            (Kept::Memory(row), _) => Ok(Some(row.shallow_clone())),
            (Kept::Disk(start, shape), Some(spill)) => spill.read(*start, shape).map(Some),
            _ => Ok(None),
        }
    }

    /// Each row's output, on the CPU.
    fn run(&self, positions: &[i64]) -> Vec<Tensor> {
        if positions.is_empty() {
            return Vec::new();
        }
        let _guard = tch::no_grad_guard();
        let input = self.reader.apply(self.pool.data.take(positions).0);
        let Embedded { x, mask, .. } = self.net.body.advance(self.net.body.embed(&input), self.net.frozen);
        let lengths = mask.map(|mask| mask.sum_dim_intlist(&[1i64][..], false, Kind::Int64).to_device(Device::Cpu));
        let x = x.to_device(Device::Cpu);
        let row = |number: i64| match &lengths {
            Some(lengths) => x.get(number).narrow(0, 0, lengths.int64_value(&[number])).copy(),
            None => x.get(number).copy(),
        };
        (0..positions.len() as i64).map(row).collect()
    }

    fn spilled(&mut self, row: &Tensor, scratch: &Path) -> Result<Kept, Error> {
        let spill = match &mut self.spill {
            Some(spill) => spill,
            none => none.insert(Spill::new(scratch)?),
        };
        Ok(Kept::Disk(spill.write(row)?, row.size()))
    }
}

impl Spill {
    fn new(folder: &Path) -> Result<Self, Error> {
        let file = tempfile::tempfile_in(folder).map_err(|source| Error::Write { file: folder.to_owned(), source })?;
        Ok(Self { file, bytes: 0, folder: folder.to_owned() })
    }

    fn write(&mut self, row: &Tensor) -> Result<u64, Error> {
        let bytes = files::f32_bytes(row);
        self.file.write_all(&bytes).map_err(|source| Error::Write { file: self.folder.clone(), source })?;
        let start = self.bytes;
        self.bytes += bytes.len() as u64;
        Ok(start)
    }

    fn read(&self, start: u64, shape: &[i64]) -> Result<Tensor, Error> {
        let mut bytes = vec![0; (shape.iter().product::<i64>() as u64 * BYTES) as usize];
        let read = |source| Error::Read { file: self.folder.clone(), source };
        self.file.read_exact_at(&mut bytes, start).map_err(read)?;
        Ok(Tensor::from_data_size(&bytes, shape, Kind::Float))
    }
}

/// Rows as one batch. What pads them is masked, so that its value does not matter.
fn padded(rows: &[Tensor]) -> (Tensor, Option<Tensor>) {
    let lengths: Vec<i64> = rows.iter().map(|row| row.size()[0]).collect();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    if lengths.iter().all(|&length| length == longest) {
        return (Tensor::stack(rows, 0), None);
    }
    let wide = |row: &Tensor| row.constant_pad_nd([0, 0, 0, longest - row.size()[0]]);
    let x = Tensor::stack(&rows.iter().map(wide).collect::<Vec<_>>(), 0);
    let places = Tensor::arange(longest, (Kind::Int64, Device::Cpu)).unsqueeze(0);
    let mask = places.lt_tensor(&Tensor::from_slice(&lengths).unsqueeze(1));
    (x, Some(mask))
}
