//! Blocking work and everything else take turns, so that it does not matter how long a thread takes.
//!
//! What ingest reads, writes and decodes on a thread of its own runs only while the one thread of the simulation has nothing
//! else to do, and that one goes on only when there is no other.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use tokio::runtime::Builder;

#[derive(Default)]
struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The simulation has nothing else to do.
    idle: bool,
    /// Threads that block.
    threads: u32,
}

impl Turns {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    fn wait_while(&self, wait: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        self.changed.wait_while(self.state.lock().unwrap(), |state| wait(state)).unwrap()
    }
}

/// One thread blocks at a time, does what there is in its order, and ends.
pub fn take_turns(runtime: &mut Builder) {
    let turns = Arc::new(Turns::default());
    runtime.max_blocking_threads(1).thread_keep_alive(Duration::ZERO);
    let at = turns.clone();
    runtime.on_thread_start(move || at.wait_while(|state| !state.idle).threads += 1);
    let at = turns.clone();
    runtime.on_thread_stop(move || at.change(|state| state.threads -= 1));
    let at = turns.clone();
    runtime.on_thread_park(move || at.change(|state| state.idle = true));
    runtime.on_thread_unpark(move || turns.wait_while(|state| state.threads > 0).idle = false);
    // A task that such a thread wakes comes after those that are awake.
    runtime.global_queue_interval(u32::MAX);
}
