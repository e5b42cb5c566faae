//! The life of one process: whether it runs, sleeps, or is dead.
//!
//! Its tasks share a thread with all others and cannot be stopped between two lines. What stops is everything that others
//! could notice: each request and each answer, at the store and on the wire, passes [`Life::awake`].

use std::sync::Arc;

use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    Runs,
    Sleeps,
    /// With `told`, its connections break; else nobody is told, as when a machine loses its power.
    Dead {
        told: bool,
    },
}

#[derive(Debug)]
pub struct Life(watch::Sender<Pace>);

impl Life {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(Pace::Runs)))
    }

    pub fn is_dead(&self) -> bool {
        matches!(*self.0.borrow(), Pace::Dead { .. })
    }

    /// The dead do not come back.
    pub fn set(&self, pace: Pace) {
        self.0.send_if_modified(|now| {
            let alive = !matches!(now, Pace::Dead { .. });
            if alive {
                *now = pace;
            }
            alive
        });
    }

    /// Waits until it runs: for ever, if it is dead.
    pub async fn awake(&self) {
        self.until(|pace| pace == Pace::Runs).await;
    }

    pub async fn died(&self) {
        self.until(|pace| matches!(pace, Pace::Dead { .. })).await;
    }

    /// Waits until others are told that it is dead.
    pub async fn broke(&self) {
        self.until(|pace| pace == Pace::Dead { told: true }).await;
    }

    async fn until(&self, when: impl Fn(Pace) -> bool) {
        // The sender is in `self`: it does not close meanwhile.
        let _ = self.0.subscribe().wait_for(|pace| when(*pace)).await;
    }
}
