//! The C interface of `shim/gloo.h`, as declared there, and the crossing of texts.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

#[repr(C)]
pub struct CGroup {
    _private: [u8; 0],
}

#[repr(C)]
pub struct CStore {
    _private: [u8; 0],
}

#[repr(C)]
pub struct CRendezvous {
    pub host: *const c_char,
    pub port: u16,
    pub prefix: *const c_char,
    pub timeout_ms: i64,
}

unsafe extern "C" {
    fn perennial_log_nothing();
    fn perennial_text_free(text: *mut c_char);
    pub fn perennial_store_serve(
        host: *const c_char,
        port: u16,
        listener: c_int,
        timeout_ms: i64,
        store: *mut *mut CStore,
    ) -> *mut c_char;
    pub fn perennial_store_free(store: *mut CStore);
    pub fn perennial_store_share(at: *const CRendezvous, sender: bool, bytes: *mut u8, length: usize) -> *mut c_char;
    pub fn perennial_gloo_join(
        at: *const CRendezvous,
        rank: c_int,
        world: c_int,
        own_host: *const c_char,
        timeout_ms: i64,
        group: *mut *mut CGroup,
    ) -> *mut c_char;
    pub fn perennial_gloo_free(group: *mut CGroup);
    pub fn perennial_gloo_all_reduce(group: *mut CGroup, tensor: *mut c_void) -> *mut c_char;
    pub fn perennial_gloo_broadcast(group: *mut CGroup, tensor: *mut c_void, root: c_int) -> *mut c_char;
    pub fn perennial_gloo_all_gather(group: *mut CGroup, tensor: *mut c_void, output: *mut c_void) -> *mut c_char;
    pub fn perennial_gloo_barrier(group: *mut CGroup) -> *mut c_char;
}

/// Turns the shim's answer into a result, and gives its text back.
///
/// # Safety
/// `answer` comes straight from one of the functions above.
pub unsafe fn check(answer: *mut c_char) -> Result<(), String> {
    if answer.is_null() {
        return Ok(());
    }
    // SAFETY: not null, so a C string of the shim's, freed once, after the copy.
    unsafe {
        let text = CStr::from_ptr(answer).to_string_lossy().into_owned();
        perennial_text_free(answer);
        Err(text)
    }
}

pub fn c_string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("`{}` holds a zero byte", text.escape_debug()))
}

/// Never zero, which c10d takes for "no timeout".
pub fn milliseconds(timeout: Duration) -> i64 {
    i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX).clamp(1, i64::from(i32::MAX))
}

/// Silences libtorch's own log, unless `TORCH_CPP_LOG_LEVEL` is set: a peer that comes late or dies is for the caller to
/// report, who has it as an error, and c10d would print a C++ stack trace about it at every level. To be called first in
/// `main`, before any other thread runs.
pub fn quiet_native_logs() {
    if std::env::var_os("TORCH_CPP_LOG_LEVEL").is_none() {
        // SAFETY: writes one integer that libtorch reads when it logs; no other thread runs yet.
        unsafe { perennial_log_nothing() }
    }
}

/// Runs `meet` on a thread of its own, and walks away from it a tenth after `timeout`: c10d waits without a bound where
/// a connected store falls silent. What comes too late is dropped on that thread.
pub fn by_deadline<T: 'static>(
    store: String,
    timeout: Duration,
    meet: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let run = move || drop(sender.send(meet().map(Handover)));
    thread::Builder::new().name("meeting".into()).spawn(run).map_err(|e| e.to_string())?;
    match receiver.recv_timeout(timeout + timeout / 10) {
        Ok(met) => met.map(|Handover(value)| value),
        Err(_) => Err(format!("no answer from the store at `{store}` within {timeout:?}")),
    }
}

/// A handle on its way from the thread that made it to the one that will use it.
struct Handover<T>(T);

// SAFETY: moved before its first use, and c10d ties no handle to the thread that made it.
unsafe impl<T> Send for Handover<T> {}
