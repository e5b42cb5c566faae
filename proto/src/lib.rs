//! The wire, and nothing else: generated messages, clients and servers, and their conversion from
//! and to the domain.

pub mod convert;
pub mod limits;
pub mod status;

/// `perennial.v1`.
#[allow(clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("perennial.v1");
}

/// Every message and service, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
