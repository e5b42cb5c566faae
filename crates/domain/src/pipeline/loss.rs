//! How the terms of a method's loss are put together.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::method::Method;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Loss {
    /// The method's numbers by name, where they are not its defaults: `{alpha: 0.2, beta: 0.5}`.
    pub parameters: BTreeMap<String, f64>,
    pub normalization: Normalization,
    pub replay_draws: ReplayDraws,
    /// Of `cls-er` and `super-er`.
    pub deploys: Option<Deploys>,
    /// Of `pod-er` and `super-er`.
    pub feature_pooling: FeaturePooling,
    /// Leaves classes out of the cross-entropy of which the update reads no row.
    pub mask_absent_classes: bool,
}

impl Loss {
    /// What the method's parameter `name` is.
    ///
    /// # Panics
    /// If the method has none of that name.
    pub fn parameter(&self, method: Method, name: &str) -> f64 {
        let known = method.parameters().iter().find(|parameter| parameter.name == name);
        let default = known.unwrap_or_else(|| panic!("`{}` takes no `{name}`", method.name())).default;
        self.parameters.get(name).copied().unwrap_or(default)
    }

    /// Otherwise what is wrong: the value given, and the reason.
    pub(super) fn check(&self, method: Method) -> Result<(), (String, String)> {
        for (name, &value) in &self.parameters {
            let given = format!("naming `{name}: {value}`");
            match method.parameters().iter().find(|parameter| parameter.name == name) {
                None => return Err((given, unknown(method))),
                Some(known) if !known.range.holds(value) => return Err((given, known.range.described().to_owned())),
                Some(_) => (),
            }
        }
        if method.has_copies() {
            self.check_copies(method)?;
        }
        Ok(())
    }

    /// Otherwise the key that the method would pass over, and what it says.
    pub(super) fn idle(&self, method: Method) -> Option<(&'static str, &'static str)> {
        let keys = [
            ("loss.normalization", "sum", self.normalization != Normalization::default() && !method.weighs_terms()),
            (
                "loss.replay_draws",
                "shared",
                self.replay_draws != ReplayDraws::default() && method != Method::DerPlusPlus,
            ),
            ("loss.deploys", "set", self.deploys.is_some() && !method.has_copies()),
            (
                "loss.feature_pooling",
                "set",
                self.feature_pooling != FeaturePooling::default() && !method.keeps_features(),
            ),
            ("loss.mask_absent_classes", "true", self.mask_absent_classes && !method.masks()),
        ];
        keys.into_iter().find(|(.., is_idle)| *is_idle).map(|(key, value, _)| (key, value))
    }

    /// The plastic copy follows the working weights more closely than the stable one.
    fn check_copies(&self, method: Method) -> Result<(), (String, String)> {
        let of = |name| self.parameter(method, name);
        let pairs = [("plastic_frequency", "stable_frequency"), ("stable_decay", "plastic_decay")];
        let [often, slow] = pairs.map(|(larger, smaller)| (of(larger), of(smaller)));
        if often.0 <= often.1 {
            let given = format!("naming `plastic_frequency: {}`", often.0);
            return Err((given, format!("must be above `stable_frequency`, {}", often.1)));
        }
        if slow.0 < slow.1 {
            let given = format!("naming `plastic_decay: {}`", slow.1);
            return Err((given, format!("must not be above `stable_decay`, {}", slow.0)));
        }
        Ok(())
    }
}

fn unknown(method: Method) -> String {
    let names: Vec<&str> = method.parameters().iter().map(|parameter| parameter.name).collect();
    match names.is_empty() {
        true => format!("`{}` takes none", method.name()),
        false => format!("`{}` takes {}", method.name(), names.join(", ")),
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Normalization {
    /// Terms are added as in the papers.
    #[default]
    None,
    /// Their sum is divided by the sum of their weights, as in Renate.
    Sum,
}

/// Whether terms of a loss that replay see the same remembered rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReplayDraws {
    /// Each term draws its own, as in the paper of `der++`.
    #[default]
    Independent,
    /// One draw for all terms, as in Renate.
    Shared,
}

/// Which weights become the version, where a slow copy of them teaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Deploys {
    /// The slow copy, as in the paper of `cls-er`, whose default it is.
    Stable,
    /// The weights that trained, as in Renate. The default of `super-er`.
    Working,
}

/// How the output of a block, (rows, tokens, width) or (rows, channels, side, side), is pooled before it is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FeaturePooling {
    /// Sums over rows of the map, and over its columns, beside each other.
    #[default]
    Spatial,
    /// Sums over channels.
    Channel,
    /// Means over the map, one a channel.
    Gap,
    /// As it is.
    Pixel,
}
