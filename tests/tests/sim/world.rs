//! What everything in a simulation shares: dice, time, the store, the network, and an account of what happened.

use std::collections::VecDeque;
use std::fmt::Display;
use std::hash::{DefaultHasher, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::dice::Dice;
use crate::net::Net;
use crate::setting::Setting;
use crate::store::Bucket;

/// If it is set, every line of the account is printed as it comes.
pub const TELL: &str = "PERENNIAL_SIM_TELL";
/// Lines that a failure shows.
const TAIL: usize = 400;

pub struct World {
    pub dice: Dice,
    pub setting: Setting,
    pub bucket: Bucket,
    pub net: Net,
    start: Instant,
    wild: AtomicBool,
    over: AtomicBool,
    settled: AtomicBool,
    moments: AtomicU64,
    account: Mutex<Account>,
}

#[derive(Default)]
struct Account {
    digest: DefaultHasher,
    tail: VecDeque<String>,
}

impl World {
    pub fn new(seed: u64) -> Arc<Self> {
        let dice = Dice::new(seed);
        let world = Self {
            setting: Setting::draw(&dice),
            dice,
            bucket: Bucket::default(),
            net: Net::default(),
            start: Instant::now(),
            wild: AtomicBool::new(false),
            over: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            moments: AtomicU64::new(0),
            account: Mutex::default(),
        };
        world.note("world", format!("{:?}", world.setting));
        Arc::new(world)
    }

    /// Since the simulation began.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Counts: what happens later gets a larger number.
    pub fn moment(&self) -> u64 {
        self.moments.fetch_add(1, Ordering::Relaxed)
    }

    /// From here on things fail.
    pub fn go_wild(&self) {
        self.wild.store(true, Ordering::Relaxed);
    }

    /// From here on nothing fails any more, except for removals in some worlds.
    pub fn calm_down(&self) {
        self.wild.store(false, Ordering::Relaxed);
        self.over.store(true, Ordering::Relaxed);
    }

    pub fn is_wild(&self) -> bool {
        self.wild.load(Ordering::Relaxed)
    }

    /// Whether what could fail has failed.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// From here on nothing whatever fails.
    pub fn settle(&self) {
        self.settled.store(true, Ordering::Relaxed);
    }

    /// Whether the store does not remove anything now.
    pub fn refuses_removals(&self) -> bool {
        self.setting.removals_fail && self.is_over() && !self.settled.load(Ordering::Relaxed)
    }

    /// Whether a fault of this share happens now.
    pub fn fault(&self, share: f64) -> bool {
        share > 0.0 && self.is_wild() && self.dice.chance(share)
    }

    /// Of a request or a piece of traffic, one way.
    pub fn latency(&self) -> Duration {
        if self.fault(self.setting.slow) { self.dice.time(50, 1000) } else { self.dice.time(0, 4) }
    }

    /// Adds a line to the account.
    pub fn note(&self, who: &str, what: impl Display) {
        let line = format!("{:>9.3} {who}: {what}", self.elapsed().as_secs_f64());
        let mut account = self.account.lock().unwrap();
        account.digest.write(line.as_bytes());
        if std::env::var_os(TELL).is_some() {
            println!("{line}");
        } else {
            account.tail.push_back(line);
            if account.tail.len() > TAIL {
                account.tail.pop_front();
            }
        }
    }

    /// Of the account: two runs of a seed agree on it.
    pub fn digest(&self) -> u64 {
        self.account.lock().unwrap().digest.finish()
    }

    /// A promise is broken: the simulation ends here.
    pub fn broken(&self, what: impl Display) -> ! {
        let account = self.account.lock().unwrap();
        account.tail.iter().for_each(|line| println!("{line}"));
        println!("{:>9.3} BROKEN: {what}", self.start.elapsed().as_secs_f64());
        std::process::exit(1);
    }
}
