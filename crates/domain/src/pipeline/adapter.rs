//! What of a model trains.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::number::Positive;

/// What trains.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Adapter {
    /// Every parameter.
    #[default]
    Full,
    /// Low-rank updates of chosen linear layers (Hu et al., 2021), and the head.
    Lora(Lora),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    pub r: NonZeroU32,
    /// The update is scaled by `alpha / r`, or `alpha / sqrt(r)` with `use_rslora`.
    #[serde(default = "Lora::default_alpha")]
    pub alpha: Positive,
    #[serde(default)]
    pub use_rslora: bool,
    /// Names of the linear layers to adapt, as their last path segment.
    #[serde(default = "Lora::default_targets")]
    pub target_modules: Vec<String>,
    /// `all`, or `last:2`: the blocks to adapt. What lies below them is run once a row instead of once a step.
    #[serde(default)]
    pub layers: Layers,
}

impl Lora {
    fn default_alpha() -> Positive {
        Positive(16.0)
    }
    pub fn default_targets() -> Vec<String> {
        vec!["query".to_owned(), "value".to_owned()]
    }
    /// The factor on `B·A·x`.
    pub fn scale(&self) -> f64 {
        let r = f64::from(self.r.get());
        self.alpha.get() / if self.use_rslora { r.sqrt() } else { r }
    }
}

/// Which of a model's blocks get adapters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum Layers {
    #[default]
    All,
    /// So many, counted from the top.
    Last(NonZeroU32),
}

impl TryFrom<String> for Layers {
    type Error = String;
    fn try_from(given: String) -> Result<Self, String> {
        let last = given.strip_prefix("last:").and_then(|count| count.parse().ok());
        match (given.as_str(), last) {
            ("all", _) => Ok(Self::All),
            (_, Some(count)) => Ok(Self::Last(count)),
            _ => Err(format!("`{given}` is neither `all` nor `last:N` with N from 1")),
        }
    }
}

impl From<Layers> for String {
    fn from(layers: Layers) -> Self {
        match layers {
            Layers::All => "all".to_owned(),
            Layers::Last(count) => format!("last:{count}"),
        }
    }
}
