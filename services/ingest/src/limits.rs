//! What one push may cost this process.

use std::time::Duration;

use perennial_proto::limits::MAX_FRAME_BYTES;

use crate::admission::Allowance;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub max_frame_bytes: usize,
    pub max_chunk_bytes: u64,
    /// Bytes that decoding one chunk may hold at a time, about, but for 32 a row.
    pub decode_memory: u64,
    /// What a resumable push may have to send again.
    pub part_bytes: usize,
    /// Longest silence of a stream or a store before its transfer is given up.
    pub idle: Duration,
    /// Deadline of each call to the control role.
    pub control: Duration,
    pub client: Allowance,
    pub namespace: Allowance,
    /// Chunks decoded at once; more wait their turn on disk.
    pub sealing: usize,
    /// Chunks that this process acknowledged and that wait until their rows are checked; pushes beyond are told to come back.
    pub unchecked: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_frame_bytes: MAX_FRAME_BYTES,
            max_chunk_bytes: 512 << 20,
            decode_memory: 256 << 20,
            part_bytes: 8 << 20,
            idle: Duration::from_secs(30),
            control: Duration::from_secs(30),
            client: Allowance::UNLIMITED,
            namespace: Allowance::UNLIMITED,
            sealing: 2,
            unchecked: 4096,
        }
    }
}
