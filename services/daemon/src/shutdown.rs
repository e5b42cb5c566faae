//! From a signal to an orderly end, and from a late one to an end anyway.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long an orderly end may take. Kubernetes kills after 30 s unless told otherwise.
pub const GRACE: Duration = Duration::from_secs(25);

/// A token that SIGTERM and SIGINT cancel.
///
/// The process exits with status 1 if it is still there after `grace`, or at the second signal.
pub fn on_signal(grace: Duration) -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let cancel = token.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        info!(signal = name, grace_seconds = grace.as_secs(), "shutting down");
        cancel.cancel();
        tokio::select! {
            () = tokio::time::sleep(grace) => warn!("still busy at the deadline: exiting"),
            _ = terminate.recv() => warn!("second signal: exiting"),
            _ = interrupt.recv() => warn!("second signal: exiting"),
        }
        std::process::exit(1);
    });
    Ok(token)
}
