//! The meeting place of ranks: c10d's TCPStore. It is hosted by whoever outlives the ranks, not by rank 0, whose death
//! would take it along.

use crate::Error;
use crate::shim::{self, CRendezvous, CStore};
use std::net::TcpListener;
use std::os::fd::IntoRawFd;
use std::ptr;
use std::time::Duration;

/// Where the ranks of one group meet. A new group needs a new prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendezvous {
    pub host: String,
    pub port: u16,
    pub prefix: String,
    /// Longest wait for the others to come: they may still be fetching what this rank has.
    pub patience: Duration,
}

impl Rendezvous {
    /// Calls `action` with the C form, by the deadline.
    pub(crate) fn meet<T: 'static>(
        &self,
        action: impl FnOnce(&CRendezvous) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let (host, prefix, port) = (shim::c_string(&self.host)?, shim::c_string(&self.prefix)?, self.port);
        let timeout_ms = shim::milliseconds(self.patience);
        shim::by_deadline(format!("{}:{port}", self.host), self.patience, move || {
            action(&CRendezvous { host: host.as_ptr(), port, prefix: prefix.as_ptr(), timeout_ms })
        })
    }

    /// Gives the sender's `bytes` to every other rank, which waits for them.
    pub(crate) fn share<const N: usize>(&self, sender: bool, mut bytes: [u8; N]) -> Result<[u8; N], String> {
        self.meet(move |at| {
            // SAFETY: `at` and `bytes` live through the call, which stays within `N` bytes.
            unsafe { shim::check(shim::perennial_store_share(at, sender, bytes.as_mut_ptr(), N))? };
            Ok(bytes)
        })
    }
}

/// A TCPStore hosted by this process; closed when dropped.
pub struct StoreServer {
    _store: Store,
    port: u16,
}

struct Store(*mut CStore);

// SAFETY: after `start` the handle is only ever freed, once; c10d's store may be freed by any thread.
unsafe impl Send for Store {}
// SAFETY: nothing is done through a shared reference.
unsafe impl Sync for Store {}

impl StoreServer {
    /// Listens on `host` alone; port 0 takes any free one. `timeout` bounds the start.
    pub fn start(host: &str, port: u16, timeout: Duration) -> Result<Self, Error> {
        serve(host, port, timeout).map_err(|message| Error::Store { host: host.to_owned(), port, message })
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

fn serve(host: &str, port: u16, timeout: Duration) -> Result<StoreServer, String> {
    let listener = TcpListener::bind((host, port)).map_err(|e| e.to_string())?;
    let port = listener.local_addr().map_err(|e| e.to_string())?.port();
    let (c_host, timeout_ms) = (shim::c_string(host)?, shim::milliseconds(timeout));
    let store = shim::by_deadline(format!("{host}:{port}"), timeout, move || {
        let mut store = ptr::null_mut();
        let listener = listener.into_raw_fd();
        // SAFETY: `c_host` and `store` live through the call; the listener is handed over.
        unsafe { shim::check(shim::perennial_store_serve(c_host.as_ptr(), port, listener, timeout_ms, &mut store))? };
        Ok(Store(store))
    })?;
    Ok(StoreServer { _store: store, port })
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: made by `serve`, freed once.
        unsafe { shim::perennial_store_free(self.0) }
    }
}
