//! What Gloo and NCCL share: checks, agreement and memory layout around their raw operations.

use crate::{Collective, Error};
use std::cell::RefCell;
use tch::{Device, Kind, Tensor};

/// The operations of a native library, on contiguous tensors of its device that all ranks agree on.
///
/// An error is the library's own text. Dropping the value tears the connections down.
pub trait Native {
    fn device(&self) -> Device;
    fn all_reduce(&self, tensor: &Tensor) -> Result<(), String>;
    fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), String>;
    /// `output` has the shape of `tensor` behind one dimension more, the ranks.
    fn all_gather(&self, tensor: &Tensor, output: &Tensor) -> Result<(), String>;
    fn barrier(&self) -> Result<(), String>;
}

/// A group of ranks over a native library.
pub struct Group<N> {
    rank: usize,
    world: usize,
    native: RefCell<Option<N>>,
}

pub fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// One operation under way: knows what to say where it fails.
struct Call<'a, N> {
    operation: &'static str,
    rank: usize,
    world: usize,
    native: &'a N,
}

impl<N: Native> Call<'_, N> {
    fn check<T, E: ToString>(&self, result: Result<T, E>) -> Result<T, Error> {
        let &Self { operation, rank, .. } = self;
        result.map_err(|e| Error::Native { operation, rank, message: first_line(&e.to_string()) })
    }

    fn gather(&self, tensor: &Tensor) -> Result<Tensor, Error> {
        let shape = [&[self.world as i64], tensor.size().as_slice()].concat();
        let output = self.check(Tensor::f_empty(shape, (tensor.kind(), tensor.device())))?;
        self.check(self.native.all_gather(tensor, &output))?;
        Ok(output)
    }

    /// Refuses what the library cannot take, then lets the ranks compare what they are about to do, for the price of
    /// one small gather: where sizes differ, Gloo ends the process of the rank that expected less.
    fn agree(&self, tensor: &Tensor, root: usize) -> Result<(), Error> {
        let &Self { operation, rank, world, .. } = self;
        let (kind, device) = (tensor.kind(), tensor.device());
        if !matches!(kind, Kind::Float | Kind::BFloat16 | Kind::Int64) || device != self.native.device() {
            return Err(Error::Unsupported { operation, rank, kind, device });
        }
        if root >= world {
            return Err(Error::NoSuchRank { operation, rank, named: root, world });
        }
        let mine = signature(operation, tensor, root);
        let row = self.check(Tensor::f_from_slice(&mine).and_then(|row| row.f_to_device(device)))?;
        let rows = self.gather(&row)?.reshape(-1);
        let rows = self.check(Vec::<i64>::try_from(rows))?;
        match rows.chunks(mine.len()).position(|theirs| theirs != mine) {
            Some(peer) => Err(Error::Disagree { operation, rank, peer }),
            None => Ok(()),
        }
    }

    /// Runs `action` on the values of `tensor` in one run of memory: its own where it is contiguous, else a copy that
    /// is written back.
    fn in_place(&self, tensor: &Tensor, action: impl FnOnce(&Tensor) -> Result<(), String>) -> Result<(), Error> {
        if tensor.numel() == 0 {
            return Ok(());
        }
        let mut own = tensor.detach();
        let flat = self.check(own.f_contiguous())?;
        self.check(action(&flat))?;
        if !own.is_contiguous() {
            self.check(own.f_copy_(&flat))?;
        }
        Ok(())
    }
}

/// What every rank must have in common before bytes move.
fn signature(operation: &str, tensor: &Tensor, root: usize) -> [i64; 4] {
    let hash = |values: &mut dyn Iterator<Item = i64>| {
        values.fold(0x0cbf_29ce_8422_2325, |hash: i64, value| (hash ^ value).wrapping_mul(0x0100_0000_01b3))
    };
    let operation = hash(&mut operation.bytes().map(i64::from));
    let shape = hash(&mut tensor.size().into_iter());
    [operation, tensor.kind() as i64, shape, root as i64]
}

impl<N: Native> Group<N> {
    pub(crate) fn new(rank: usize, world: usize, native: N) -> Self {
        Self { rank, world, native: RefCell::new(Some(native)) }
    }

    /// Runs one operation. A failure drops the library's group at once: peers that wait for this rank hear of it when
    /// its connections close, not before.
    fn call<T>(&self, operation: &'static str, body: impl FnOnce(&Call<N>) -> Result<T, Error>) -> Result<T, Error> {
        let (rank, world) = (self.rank, self.world);
        let outcome = match self.native.borrow().as_ref() {
            Some(native) => body(&Call { operation, rank, world, native }),
            None => Err(Error::TornDown { operation, rank }),
        };
        if matches!(outcome, Err(Error::Native { .. })) {
            self.native.take();
        }
        outcome
    }
}

impl<N: Native> Collective for Group<N> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn all_reduce(&self, tensor: &mut Tensor) -> Result<(), Error> {
        self.call("all_reduce", |call| {
            call.agree(tensor, 0)?;
            call.in_place(tensor, |flat| call.native.all_reduce(flat))
        })
    }

    fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<(), Error> {
        self.call("broadcast", |call| {
            call.agree(tensor, root)?;
            call.in_place(tensor, |flat| call.native.broadcast(flat, root))
        })
    }

    fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, Error> {
        self.call("all_gather", |call| {
            call.agree(tensor, 0)?;
            let flat = call.check(tensor.detach().f_contiguous())?;
            if flat.numel() == 0 {
                return Ok((0..self.world).map(|_| flat.copy()).collect());
            }
            Ok(call.gather(&flat)?.unbind(0))
        })
    }

    fn barrier(&self) -> Result<(), Error> {
        self.call("barrier", |call| call.check(call.native.barrier()))
    }

    fn abort(&mut self) {
        self.native.take();
    }
}
