//! From a signal to an orderly end, and from a late one to an end anyway.

use std::time::Duration;

use futures::future::OptionFuture;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long an orderly end may take. Kubernetes kills after 30 s unless told otherwise.
pub const GRACE: Duration = Duration::from_secs(25);

/// A token that SIGTERM and SIGINT cancel, and with `with_parent` the end of standard input.
///
/// The process exits with status 1 if it is still there after `grace`, or at the second signal.
pub fn on_signal(grace: Duration, with_parent: bool) -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let parent = if with_parent { Some(parent_gone()?) } else { None };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let cancel = token.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            Some(_) = OptionFuture::from(parent) => "the parent's end",
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

/// Resolves when standard input ends.
fn parent_gone() -> std::io::Result<oneshot::Receiver<()>> {
    let (alive, gone) = oneshot::channel();
    // A thread of its own: a read of standard input cannot be cancelled, and must not delay the end.
    std::thread::Builder::new().name("parent".into()).spawn(move || {
        // An error is an end, too.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = alive.send(());
    })?;
    Ok(gone)
}
