//! The log's time: this machine's, or later where another, whose clock is ahead, wrote the log before.

use std::sync::{Mutex, PoisonError};

use domain::Timestamp;

/// Never runs backwards. While it is ahead of the clock it runs at half its pace: what waits for it goes on, and the clock
/// catches up.
pub struct Time {
    clock: fn() -> Timestamp,
    base: Mutex<Base>,
}

/// Since the clock said `clock`, when it was `time`.
#[derive(Clone, Copy)]
struct Base {
    time: Timestamp,
    clock: Timestamp,
    last: Timestamp,
}

impl Time {
    /// `newest`: of the log's newest record.
    pub fn new(clock: fn() -> Timestamp, newest: Timestamp) -> Self {
        Self { clock, base: Mutex::new(Base { time: newest, clock: clock(), last: newest }) }
    }

    pub fn now(&self) -> Timestamp {
        self.at((self.clock)())
    }

    fn at(&self, clock: Timestamp) -> Timestamp {
        let mut base = self.base.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock.max(base.time + clock.saturating_sub(base.clock) / 2);
        if now < base.last {
            // The clock was set back.
            *base = Base { time: base.last, clock, last: base.last };
        } else {
            base.last = now;
        }
        base.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_the_clock_s_unless_the_log_is_ahead_and_then_goes_on_until_it_is_caught_up() {
        let time = Time::new(|| 1_000, 5_000);
        let passed = [1_000, 1_100, 3_000, 9_000, 9_001].map(|clock| time.at(clock));
        assert_eq!(passed, [5_000, 5_050, 6_000, 9_000, 9_001]);
        assert_eq!(Time::new(|| 7_000, 5_000).now(), 7_000);
    }

    #[test]
    fn a_clock_that_is_set_back_slows_time_down_and_never_turns_it() {
        let time = Time::new(|| 1_000, 0);
        let passed = [2_000, 500, 600, 1_500, 4_000].map(|clock| time.at(clock));
        assert_eq!(passed, [2_000, 2_000, 2_050, 2_500, 4_000]);
    }
}
