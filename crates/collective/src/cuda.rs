//! The CUDA half of libtorch, loaded at run time, so that one binary serves machines with and without a GPU.

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::env;
use std::error::Error as _;
use std::ffi::OsString;
use std::path::Path;

const LIBRARY: &str = "libtorch_cuda.so";

/// Whether libtorch can use CUDA in this process. `Loaded` says nothing of a GPU: ask `tch::Cuda` for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CudaState {
    Loaded,
    /// Why not, in the dynamic linker's words.
    Absent(String),
}

/// Loads `libtorch_cuda.so`: by its bare name, then from the folder that `PERENNIAL_LIBTORCH` names.
///
/// The ORDER matters: it must be the first statement of `main`, before any other call into libtorch. ATen looks for its
/// CUDA half once, the first time that anything asks (`tch::Cuda::is_available` does), and keeps the answer: loaded
/// later, every CUDA call fails with "Cannot initialize CUDA without ATen_cuda library".
///
/// It must be of the same build as `libtorch_cpu.so`, which the linker took before `main`: on a GPU machine point
/// `LD_LIBRARY_PATH` at a folder that holds both.
pub fn load_cuda() -> CudaState {
    let folder = env::var_os("PERENNIAL_LIBTORCH").filter(|folder| !folder.is_empty());
    let in_folder = folder.map(|folder| Path::new(&folder).join(LIBRARY).into_os_string());
    let mut reason = String::new();
    for name in [Some(OsString::from(LIBRARY)), in_folder].into_iter().flatten() {
        // SAFETY: its initialisers are libtorch's own, made to be run by a `dlopen`.
        match unsafe { Library::open(Some(&name), RTLD_NOW | RTLD_GLOBAL) } {
            Ok(library) => {
                // ATen keeps pointers into it for good.
                std::mem::forget(library);
                return CudaState::Loaded;
            }
            Err(error) => reason = error.source().map_or_else(|| error.to_string(), ToString::to_string),
        }
    }
    CudaState::Absent(reason)
}
