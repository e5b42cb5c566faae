//! Numbers with a unit, as people write them: `2 GiB`, `15s`.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{0}")]
pub struct InvalidUnit(String);

/// A number of bytes: `262144`, `256 KiB`, `2 GiB`, `1 GB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "NumberOrText", into = "String")]
pub struct Bytes(pub u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
    Other(serde_json::Value),
}

const UNITS: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl TryFrom<NumberOrText> for Bytes {
    type Error = InvalidUnit;
    fn try_from(given: NumberOrText) -> Result<Self, InvalidUnit> {
        match given {
            NumberOrText::Number(bytes) => Ok(Self(bytes)),
            NumberOrText::Text(text) => text.parse(),
            NumberOrText::Other(value) => Err(not_a_size(value)),
        }
    }
}

fn not_a_size(given: impl fmt::Display) -> InvalidUnit {
    InvalidUnit(format!(
        "{given} is not a size: write bytes, or a whole number with a unit such as `256 KiB` or `2 GiB`"
    ))
}

impl std::str::FromStr for Bytes {
    type Err = InvalidUnit;
    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = (&text[..digits], text[digits..].trim());
        let factor = match unit {
            "" => Some(1),
            unit => UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, factor)| *factor),
        };
        let bytes = number.parse::<u64>().ok().zip(factor);
        let bytes = bytes.and_then(|(number, factor)| number.checked_mul(factor));
        bytes.map(Self).ok_or_else(|| not_a_size(format_args!("`{text}`")))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |(_, factor): &&(&str, u64)| self.0 >= *factor && self.0.is_multiple_of(*factor);
        let (name, factor) = UNITS.iter().filter(|(name, _)| name.contains('i')).find(whole).unwrap_or(&("B", 1));
        write!(f, "{} {name}", self.0 / factor)
    }
}

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> String {
        bytes.to_string()
    }
}

/// How long it may take until lost work goes on elsewhere: 1 s to 1 h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RecoveryBudget(Duration);

impl Default for RecoveryBudget {
    fn default() -> Self {
        Self(Duration::from_secs(15))
    }
}

impl TryFrom<Duration> for RecoveryBudget {
    type Error = InvalidUnit;
    fn try_from(given: Duration) -> Result<Self, InvalidUnit> {
        if (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&given) {
            return Ok(Self(given));
        }
        let given = humantime::format_duration(given);
        Err(InvalidUnit(format!("{given} is out of range: must be 1s to 1h")))
    }
}

impl TryFrom<String> for RecoveryBudget {
    type Error = InvalidUnit;
    fn try_from(text: String) -> Result<Self, InvalidUnit> {
        duration(&text)?.try_into()
    }
}

fn duration(text: &str) -> Result<Duration, InvalidUnit> {
    humantime::parse_duration(text)
        .map_err(|_| InvalidUnit(format!("`{text}` is not a duration: write one such as `15s` or `2m`")))
}

/// From one time that something is done to the next: at least 100 ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Interval(pub Duration);

impl Default for Interval {
    fn default() -> Self {
        Self(Duration::from_secs(10))
    }
}

impl TryFrom<String> for Interval {
    type Error = InvalidUnit;
    fn try_from(text: String) -> Result<Self, InvalidUnit> {
        let given = duration(&text)?;
        if given < Duration::from_millis(100) {
            return Err(InvalidUnit(format!("{text} is out of range: must be 100ms or more")));
        }
        Ok(Self(given))
    }
}

impl From<Interval> for String {
    fn from(interval: Interval) -> String {
        humantime::format_duration(interval.0).to_string()
    }
}

impl From<RecoveryBudget> for String {
    fn from(budget: RecoveryBudget) -> String {
        humantime::format_duration(budget.0).to_string()
    }
}

impl RecoveryBudget {
    pub fn timeouts(self) -> Timeouts {
        Timeouts::from_budget(self.0)
    }
}

/// The deadlines that the one knob sets: `heartbeat < lease < collective < stall`, always.
///
/// The order is that of cause and effect. Several heartbeats may be lost before a lease is, and a dead
/// worker's lease ends before its peers give up the collective they wait in, so that they are told
/// rather than guess. A collective that hangs is reported as such, before its rank counts as stalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A worker is heard at least this often.
    pub heartbeat: Duration,
    /// A worker that was not heard for this long is lost.
    pub lease: Duration,
    /// Of one collective operation, the meeting of the ranks included.
    pub collective: Duration,
    /// A rank or an evaluation that has said nothing for this long is killed.
    pub stall: Duration,
}

impl Timeouts {
    pub fn from_budget(budget: Duration) -> Self {
        Self {
            heartbeat: (budget / 15).max(Duration::from_millis(100)),
            lease: budget * 2 / 5,
            collective: budget * 2,
            stall: budget * 40,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_keep_their_order_over_the_whole_range() {
        for seconds in 1..=3600 {
            let budget = RecoveryBudget::try_from(Duration::from_secs(seconds)).unwrap();
            let t = budget.timeouts();
            assert!(2 * t.heartbeat < t.lease, "{seconds}: {t:?}");
            assert!(t.lease < t.collective && t.collective < t.stall, "{seconds}: {t:?}");
        }
        let t = RecoveryBudget::default().timeouts();
        assert_eq!([t.heartbeat, t.lease, t.collective, t.stall].map(|d| d.as_secs()), [1, 6, 30, 600]);
    }

    #[test]
    fn sizes_read_back() {
        for (text, bytes) in [("262144", 1 << 18), ("256 KiB", 1 << 18), ("2GiB", 2 << 30), ("1 MB", 1_000_000)] {
            let parsed: Bytes = text.parse().unwrap();
            assert_eq!(parsed, Bytes(bytes));
            assert_eq!(parsed.to_string().parse(), Ok(parsed));
        }
        for bad in ["", "GiB", "1.5 GiB", "-1", "3 parsecs", "99999999999 TiB"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_budget_is_a_duration_within_reason() {
        assert!(RecoveryBudget::try_from("soon".to_owned()).unwrap_err().0.contains("such as `15s`"));
        assert!(RecoveryBudget::try_from("0s".to_owned()).is_err());
        assert!(Interval::try_from("10ms".to_owned()).unwrap_err().0.contains("100ms or more"));
        assert_eq!(String::from(RecoveryBudget::default()), "15s");
    }
}
