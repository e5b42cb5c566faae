//! Ranks on CPUs: libtorch's own Gloo, over TCP.

use crate::group::{Group, Native};
use crate::shim::{self, CGroup};
use crate::{Error, Rendezvous};
use std::ffi::{c_int, c_void};
use std::ptr;
use std::time::Duration;
use tch::{Device, Tensor};

/// A group over Gloo.
pub type Gloo = Group<Connections>;

/// A Gloo process group; its connections close when it is dropped.
pub struct Connections(*mut CGroup);

impl Gloo {
    /// Meets the other ranks at `at`. Peers reach this rank at `own_host`, an address of this machine.
    ///
    /// Each later operation fails after `timeout`.
    pub fn join(at: &Rendezvous, rank: usize, world: usize, own_host: &str, timeout: Duration) -> Result<Self, Error> {
        let operation = "join";
        if rank >= world {
            return Err(Error::NoSuchRank { operation, rank, named: rank, world });
        }
        let connections = Connections::open(at, rank, world, own_host, timeout).map_err(|message| Error::Native {
            operation,
            rank,
            message,
        })?;
        Ok(Self::new(rank, world, connections))
    }
}

impl Connections {
    fn open(at: &Rendezvous, rank: usize, world: usize, own_host: &str, timeout: Duration) -> Result<Self, String> {
        let own_host = shim::c_string(own_host)?;
        let (rank, world) = (rank as c_int, world as c_int);
        let timeout_ms = shim::milliseconds(timeout);
        at.meet(move |at| {
            let mut group = ptr::null_mut();
            // SAFETY: every pointer lives through the call, which writes `group` where it succeeds.
            unsafe {
                shim::check(shim::perennial_gloo_join(at, rank, world, own_host.as_ptr(), timeout_ms, &mut group))?
            };
            Ok(Self(group))
        })
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        // SAFETY: made by `open`, freed once.
        unsafe { shim::perennial_gloo_free(self.0) }
    }
}

/// The C++ `at::Tensor` behind a tensor.
fn pointer(tensor: &Tensor) -> *mut c_void {
    tensor.as_ptr().cast_mut().cast()
}

// SAFETY of the calls below: the group is alive until dropped, tensors are borrowed for the call, and it returns only
// when the library is done with their memory.
impl Native for Connections {
    fn device(&self) -> Device {
        Device::Cpu
    }

    fn all_reduce(&self, tensor: &Tensor) -> Result<(), String> {
        // SAFETY: as above.
        unsafe { shim::check(shim::perennial_gloo_all_reduce(self.0, pointer(tensor))) }
    }

    fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), String> {
        // SAFETY: as above.
        unsafe { shim::check(shim::perennial_gloo_broadcast(self.0, pointer(tensor), root as c_int)) }
    }

    fn all_gather(&self, tensor: &Tensor, output: &Tensor) -> Result<(), String> {
        // SAFETY: as above.
        unsafe { shim::check(shim::perennial_gloo_all_gather(self.0, pointer(tensor), pointer(output))) }
    }

    fn barrier(&self) -> Result<(), String> {
        // SAFETY: as above.
        unsafe { shim::check(shim::perennial_gloo_barrier(self.0)) }
    }
}
