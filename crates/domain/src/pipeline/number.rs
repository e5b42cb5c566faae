//! Numbers with an invariant: one gate for YAML, wire and code.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{0}")]
pub struct InvalidNumber(String);

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $test:expr, $must:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "f64", into = "f64")]
        pub struct $name(pub(super) f64);

        impl $name {
            pub const fn get(self) -> f64 {
                self.0
            }
        }
        impl TryFrom<f64> for $name {
            type Error = InvalidNumber;
            fn try_from(value: f64) -> Result<Self, InvalidNumber> {
                let test: fn(f64) -> bool = $test;
                if test(value) {
                    Ok(Self(value))
                } else {
                    Err(InvalidNumber(format!("{value} is out of range: must be {}", $must)))
                }
            }
        }
        impl From<$name> for f64 {
            fn from(number: $name) -> f64 {
                number.0
            }
        }
    };
}

number!(
    /// A share in `[0, 1)`: of a batch drawn from memory, of rows held out.
    Share, |v| (0.0..1.0).contains(&v), "at least 0 and below 1"
);
number!(
    /// A share in `(0, 1]`: of rows or weights kept.
    Ratio, |v| v > 0.0 && v <= 1.0, "above 0 and at most 1"
);
number!(
    /// A finite number above zero.
    Positive, |v| v.is_finite() && v > 0.0, "above 0"
);
number!(
    /// A finite number, zero or above.
    NonNegative, |v| v.is_finite() && v >= 0.0, "0 or above"
);
