//! What kind of world a seed makes: most have some faults only, so that rare ones are not drowned by the others.

use store::log::Options;

use crate::dice::Dice;

/// Shares are of requests or of pieces of traffic; times are milliseconds.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Records between snapshots: small, so that retention follows closely.
    pub snapshot_every: u64,
    pub recovery_budget: u64,
    /// How many versions the pipeline keeps; all of them by default.
    pub versions_kept: Option<u64>,
    /// When nothing else fails any more, the store still refuses to remove anything, until everything has settled.
    pub removals_fail: bool,
    /// Whether there are versions before anything fails.
    pub warm_up: bool,
    pub faults_for: u64,
    /// Between one fault of a machine or a link and the next.
    pub calm_between: u64,
    pub crashes: bool,
    pub pauses: bool,
    pub partitions: bool,
    pub skews: bool,
    /// A listing may not show what is younger.
    pub list_lag: u64,
    /// The store never hears of it, and the client learns only that something failed.
    pub lost_requests: f64,
    /// Carried out, and the client learns only that something failed.
    pub lost_replies: f64,
    /// As lost replies, but carried out after the client was told.
    pub late_requests: f64,
    /// Carried out a second time, later.
    pub repeated_requests: f64,
    /// A request or a piece of traffic may be as slow as a second.
    pub slow: f64,
    /// Of pieces of traffic: the connection breaks over it.
    pub cuts: f64,
}

impl Setting {
    pub fn log(&self) -> Options {
        Options { snapshot_every: self.snapshot_every, block: self.snapshot_every, ..Options::default() }
    }

    pub fn draw(dice: &Dice) -> Self {
        let some =
            |share: f64, most: f64| if dice.chance(share) { most * dice.below(1000) as f64 / 1000.0 } else { 0.0 };
        Self {
            snapshot_every: 2 + dice.below(dice.one(&[4, 30])),
            recovery_budget: dice.one(&[2000, 4000, 8000]),
            versions_kept: dice.one(&[None, Some(1), Some(2)]),
            removals_fail: dice.chance(0.5),
            warm_up: dice.chance(0.7),
            faults_for: 20_000 + dice.below(30_000),
            calm_between: dice.one(&[2000, 5000, 10_000]),
            crashes: dice.chance(0.6),
            pauses: dice.chance(0.6),
            partitions: dice.chance(0.6),
            skews: dice.chance(0.5),
            list_lag: dice.one(&[0, 0, 500, 20_000]),
            lost_requests: some(0.5, 0.1),
            lost_replies: some(0.6, 0.1),
            late_requests: some(0.4, 0.05),
            repeated_requests: some(0.4, 0.1),
            slow: some(0.5, 0.05),
            cuts: some(0.6, 0.01),
        }
    }
}
