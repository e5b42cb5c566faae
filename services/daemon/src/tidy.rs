//! What a control role clears away as it starts.

use domain::Timestamp;
use perennial_proto::status::chain;
use tracing::{info, warn};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Removes what writers left in the store that died more than a day before `now`. Nobody waits for it.
pub fn in_background(store: String, now: Timestamp) {
    drop(tokio::task::spawn_blocking(move || match store::leftovers::remove(&store, now.saturating_sub(DAY_MS)) {
        Ok(0) => {}
        Ok(files) => info!(files, "leftovers of broken writes removed"),
        Err(error) => warn!(error = chain(&error), "leftovers of broken writes stay"),
    }));
}
