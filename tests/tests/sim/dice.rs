//! Draws, one after the other, from the seed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::draw::Draw;

pub struct Dice {
    draw: Draw,
    thrown: AtomicU64,
}

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self { draw: Draw::new(seed).named("simulation"), thrown: AtomicU64::new(0) }
    }

    fn throw(&self) -> Draw {
        self.draw.at(self.thrown.fetch_add(1, Ordering::Relaxed))
    }

    pub fn below(&self, bound: u64) -> u64 {
        self.throw().below(bound)
    }

    pub fn chance(&self, share: f64) -> bool {
        self.throw().unit() < share
    }

    /// Milliseconds, both ends included.
    pub fn time(&self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.below(most - least + 1))
    }

    pub fn one<T: Clone>(&self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }
}
