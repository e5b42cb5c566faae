//! Ranks on NVIDIA GPUs: NCCL, loaded at run time.
//!
//! The communicator is non-blocking, so that every wait, that of the meeting too, is a poll with a deadline.

use crate::group::{Group, Native, first_line};
use crate::{Error, Rendezvous};
use cudarc::driver::{CudaContext, sys as cuda};
use cudarc::nccl::result::{self, NcclError, NcclStatus};
use cudarc::nccl::sys::{self as nccl, ncclComm_t, ncclDataType_t, ncclRedOp_t, ncclResult_t};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};

/// A group over NCCL.
pub type Nccl = Group<Communicator>;

/// An NCCL communicator, aborted when dropped: after an operation nothing of it is outstanding, and after a failure
/// everything is to be given up.
pub struct Communicator {
    comm: ncclComm_t,
    /// Keeps the device's primary context, which libtorch shares.
    _context: Arc<CudaContext>,
    device: usize,
    timeout: Duration,
}

/// Whether a group over NCCL can be formed in this process, or why not.
pub fn available() -> Result<(), String> {
    // SAFETY: both only try to open a library by name.
    let (driver, nccl) = unsafe { (cuda::is_culib_present(), nccl::is_culib_present()) };
    if !driver {
        return Err("no NVIDIA driver: libcuda.so is not found".into());
    }
    if !nccl {
        return Err(
            "libnccl.so is not found; where only libnccl.so.2 is, link it in a folder of LD_LIBRARY_PATH".into()
        );
    }
    match CudaContext::device_count() {
        Err(error) => return Err(format!("the NVIDIA driver does not start: {error}")),
        Ok(0) => return Err("no CUDA device".into()),
        Ok(_) => {}
    }
    if !tch::Cuda::is_available() {
        return Err("libtorch has no CUDA here: `load_cuda` found none, or came too late".into());
    }
    Ok(())
}

impl Nccl {
    /// Meets the other ranks at `at`, to work on `device` of this process.
    ///
    /// Each later operation fails after `timeout`.
    pub fn join(at: &Rendezvous, rank: usize, world: usize, device: i32, timeout: Duration) -> Result<Self, Error> {
        let operation = "join";
        if rank >= world {
            return Err(Error::NoSuchRank { operation, rank, named: rank, world });
        }
        let comm = available()
            .and_then(|()| Communicator::open(at, rank, world, device, timeout))
            .map_err(|message| Error::Native { operation, rank, message })?;
        Ok(Self::new(rank, world, comm))
    }
}

impl Communicator {
    fn open(at: &Rendezvous, rank: usize, world: usize, device: i32, timeout: Duration) -> Result<Self, String> {
        let started = now();
        let device = usize::try_from(device).map_err(|_| format!("there is no device {device}"))?;
        let context = CudaContext::new(device).map_err(|e| e.to_string())?;
        context.bind_to_thread().map_err(|e| e.to_string())?;
        let id = unique_id(at, rank)?;
        let mut this = Self { comm: ptr::null_mut(), _context: context, device, timeout: at.patience };
        let mut config = config();
        // SAFETY: `config` is what NCCL's own initialiser makes and lives through the call.
        let begun =
            unsafe { result::comm_init_rank_config(&mut this.comm, world as c_int, id, rank as c_int, &mut config) };
        this.begun(begun)?;
        this.settled(started)?;
        this.timeout = timeout;
        Ok(this)
    }

    /// Begins one operation on the legacy default stream, the one libtorch uses, and waits for its end.
    fn run(&self, begin: impl FnOnce() -> Result<NcclStatus, NcclError>) -> Result<(), String> {
        let started = now();
        self.begun(begin())?;
        self.settled(started)
    }

    fn begun(&self, result: Result<NcclStatus, NcclError>) -> Result<(), String> {
        result.map(drop).map_err(|NcclError(code)| self.text(code))
    }

    /// Polls until NCCL has handed its work to the device and the device has done it.
    fn settled(&self, started: Instant) -> Result<(), String> {
        while !(self.handed_over()? && self.done()?) {
            if started.elapsed() > self.timeout {
                return Err(format!("no answer from the other ranks within {:?}", self.timeout));
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    fn handed_over(&self) -> Result<bool, String> {
        let mut state = ncclResult_t::ncclSuccess;
        // SAFETY: the communicator is alive until dropped.
        let asked = unsafe { nccl::ncclCommGetAsyncError(self.comm, &mut state) };
        match asked.result().and_then(|_| state.result()) {
            Ok(status) => Ok(status == NcclStatus::Success),
            Err(NcclError(code)) => Err(self.text(code)),
        }
    }

    fn done(&self) -> Result<bool, String> {
        // SAFETY: null is the default stream of the context that `open` bound to this thread.
        match unsafe { cuda::cuStreamQuery(ptr::null_mut()) } {
            cuda::CUresult::CUDA_SUCCESS => Ok(true),
            cuda::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            error => Err(format!("the device failed: {error:?}")),
        }
    }

    fn text(&self, code: ncclResult_t) -> String {
        // SAFETY: both return static strings; the second takes any communicator, null too.
        let (kind, last) = unsafe { (nccl::ncclGetErrorString(code), nccl::ncclGetLastError(self.comm)) };
        [kind, last].map(c_text).into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(": ")
    }
}

fn c_text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, and a C string of NCCL's.
    first_line(&unsafe { CStr::from_ptr(text) }.to_string_lossy())
}

#[expect(clippy::disallowed_methods, reason = "a deadline is the only use made of it")]
fn now() -> Instant {
    Instant::now()
}

/// Rank 0 makes the id; the others learn it at the meeting place.
fn unique_id(at: &Rendezvous, rank: usize) -> Result<nccl::ncclUniqueId, String> {
    let mut id = nccl::ncclUniqueId { internal: [0; 128] };
    if rank == 0 {
        id = result::get_uniqueid().map_err(|NcclError(code)| format!("no unique id: {code:?}"))?;
    }
    let bytes = at.share(rank == 0, id.internal.map(|byte| byte as u8))?;
    Ok(nccl::ncclUniqueId { internal: bytes.map(|byte| byte as c_char) })
}

/// NCCL_CONFIG_INITIALIZER, which exists as a C macro only, with `blocking` off.
fn config() -> nccl::ncclConfig_t {
    const UNDEFINED: c_int = c_int::MIN;
    nccl::ncclConfig_t {
        size: size_of::<nccl::ncclConfig_t>(),
        magic: 0xcafe_beef,
        version: 22_800,
        blocking: 0,
        cgaClusterSize: UNDEFINED,
        minCTAs: UNDEFINED,
        maxCTAs: UNDEFINED,
        netName: ptr::null(),
        splitShare: UNDEFINED,
        trafficClass: UNDEFINED,
        commName: ptr::null(),
        collnetEnable: UNDEFINED,
        CTAPolicy: UNDEFINED,
        shrinkShare: UNDEFINED,
        nvlsCTAs: UNDEFINED,
        nChannelsPerNetPeer: UNDEFINED,
        nvlinkCentricSched: UNDEFINED,
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        if !self.comm.is_null() {
            // SAFETY: made by `open`, aborted once. There is nothing to do about a failure.
            let _ = unsafe { result::comm_abort(self.comm) };
        }
    }
}

/// Where the elements are, how many, and NCCL's name for their type.
fn elements(tensor: &Tensor) -> (*mut c_void, usize, ncclDataType_t) {
    let kind = match tensor.kind() {
        Kind::Float => ncclDataType_t::ncclFloat32,
        Kind::BFloat16 => ncclDataType_t::ncclBfloat16,
        Kind::Int64 => ncclDataType_t::ncclInt64,
        other => unreachable!("`Group` lets no {other:?} pass"),
    };
    (tensor.data_ptr(), tensor.numel(), kind)
}

// SAFETY of the calls below: memory is the device's, contiguous, and borrowed until `run` has seen the work done or the
// communicator is aborted.
impl Native for Communicator {
    fn device(&self) -> Device {
        Device::Cuda(self.device)
    }

    fn all_reduce(&self, tensor: &Tensor) -> Result<(), String> {
        let (data, count, kind) = elements(tensor);
        let sum = ncclRedOp_t::ncclSum;
        // SAFETY: as above.
        self.run(|| unsafe { result::all_reduce(data, data, count, kind, sum, self.comm, ptr::null_mut()) })
    }

    fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), String> {
        let (data, count, kind) = elements(tensor);
        // SAFETY: as above.
        self.run(|| unsafe { result::broadcast(data, data, count, kind, root as c_int, self.comm, ptr::null_mut()) })
    }

    fn all_gather(&self, tensor: &Tensor, output: &Tensor) -> Result<(), String> {
        let (data, count, kind) = elements(tensor);
        // SAFETY: as above; `output` holds `count` elements a rank.
        self.run(|| unsafe { result::all_gather(data, output.data_ptr(), count, kind, self.comm, ptr::null_mut()) })
    }

    /// A sum of one element from everyone.
    fn barrier(&self) -> Result<(), String> {
        let token = Tensor::f_zeros([1], (Kind::Int64, self.device())).map_err(|e| first_line(&e.to_string()))?;
        self.all_reduce(&token)
    }
}
