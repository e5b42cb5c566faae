//! The group of one rank: nothing to send, so nothing can fail on the way.

use crate::{Collective, Error};
use tch::Tensor;

/// World size one, without a library or a socket.
pub struct Solo;

impl Collective for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn all_reduce(&self, _tensor: &mut Tensor) -> Result<(), Error> {
        Ok(())
    }

    fn broadcast(&self, _tensor: &mut Tensor, root: usize) -> Result<(), Error> {
        match root {
            0 => Ok(()),
            named => Err(Error::NoSuchRank { operation: "broadcast", rank: 0, named, world: 1 }),
        }
    }

    fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, Error> {
        Ok(vec![tensor.detach().copy()])
    }

    fn barrier(&self) -> Result<(), Error> {
        Ok(())
    }

    fn abort(&mut self) {}
}
