//! Sums and copies tensors between the ranks of one attempt.
//!
//! All `unsafe` and all C++ of the project live here: libtorch's own c10d (Gloo, TCPStore) behind a small C shim, NCCL
//! through cudarc, and the loading of libtorch's CUDA half at run time. It does not know what the tensors mean, who
//! chose the ranks, or what to do when one dies: every wait has a deadline, an operation that fails ends its group, and
//! whoever owns the ranks forms a new group under a new prefix.

// The one crate that may: the workspace denies it elsewhere.
#![allow(unsafe_code)]

mod cuda;
mod gloo;
mod group;
pub mod nccl;
mod shim;
mod solo;
mod store;

pub use cuda::{CudaState, load_cuda};
pub use gloo::Gloo;
pub use nccl::Nccl;
pub use shim::quiet_native_logs;
pub use solo::Solo;
pub use store::{Rendezvous, StoreServer};

use tch::Tensor;

/// A group of ranks that call the same operations, in the same order, on tensors of the same shape and type.
///
/// Takes `f32`, `bf16` and `i64`, contiguous or not. Not `Send`: a group never leaves the thread that formed it.
pub trait Collective {
    fn rank(&self) -> usize;
    fn world(&self) -> usize;

    /// In-place sum over ranks.
    fn all_reduce(&self, tensor: &mut Tensor) -> Result<(), Error>;

    /// In place: every rank ends with `root`'s values.
    fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<(), Error>;

    /// One tensor of the same shape from every rank, in rank order.
    fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, Error>;

    /// Returns once every rank has called it.
    fn barrier(&self) -> Result<(), Error>;

    /// Tears the group down; every later call is an error. Best effort: a rank that waits inside an operation is only
    /// freed by its deadline, or by the kill of its process.
    fn abort(&mut self);
}

/// Why an operation did not happen. Apart from `Unsupported`, `NoSuchRank` and `Disagree`, which move nothing and leave
/// the group as it was, the group is gone for good.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{operation} failed on rank {rank}: {message}")]
    Native { operation: &'static str, rank: usize, message: String },
    #[error("{operation} on rank {rank} came after the group was torn down")]
    TornDown { operation: &'static str, rank: usize },
    #[error("{operation} on rank {rank} found rank {peer} in another operation, or with another shape, type or root")]
    Disagree { operation: &'static str, rank: usize, peer: usize },
    #[error("{operation} on rank {rank} does not take {kind:?} tensors on {device:?}")]
    Unsupported { operation: &'static str, rank: usize, kind: tch::Kind, device: tch::Device },
    #[error("{operation} on rank {rank} names rank {named} of {world}")]
    NoSuchRank { operation: &'static str, rank: usize, named: usize, world: usize },
    #[error("cannot host a store at `{host}:{port}`: {message}")]
    Store { host: String, port: u16, message: String },
}
