//! Selective backprop (Jiang et al., 2019; Balles et al., 2023): which of a step's new rows are back-propagated.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::number::Ratio;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Every row.
    #[default]
    All,
    /// Any rows, drawn before the forward pass: training with smaller batches.
    Random,
    /// The rows with the largest losses.
    TopLoss,
    /// Rows drawn with probability ∝ `q^(1/keep − 1)`, q being the percentile of a row's loss in its micro-batch.
    SbFixed,
    /// Each row with probability `q^(1/keep − 1)`, q being its loss's percentile among the last 1,024 losses.
    SbHistory,
    /// Weighted rows whose last-layer gradients come nearest to the micro-batch's mean gradient.
    GradientMatching,
}

impl Rule {
    pub const ALL: [Self; 6] =
        [Self::All, Self::Random, Self::TopLoss, Self::SbFixed, Self::SbHistory, Self::GradientMatching];

    /// As a pipeline file writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Random => "random",
            Self::TopLoss => "top-loss",
            Self::SbFixed => "sb-fixed",
            Self::SbHistory => "sb-history",
            Self::GradientMatching => "gradient-matching",
        }
    }
}

/// What the rows that were chosen count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SelectionWeights {
    /// The same.
    Equal,
    /// What makes their last-layer gradients add up to the micro-batch's mean gradient, as well as they can.
    Matched,
    /// The same in proportion, adding up to 1.
    Normalised,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Selection {
    pub rule: Rule,
    /// ρ, the share of rows chosen of each micro-batch, one at least. With 1, every rule is `all`.
    pub keep: Ratio,
    /// Default: `matched` for `gradient-matching`, else `equal`.
    pub weights: Option<SelectionWeights>,
}

impl Default for Selection {
    fn default() -> Self {
        Self { rule: Rule::All, keep: Ratio(0.5), weights: None }
    }
}

impl Selection {
    pub fn is_all(&self) -> bool {
        self.rule == Rule::All || self.keep.get() >= 1.0
    }

    /// k, how many of so many rows are chosen: `⌈ρ·rows⌉`, one at least.
    pub fn count(&self, rows: usize) -> usize {
        // 0.55 · 100 is above 55.
        let share = (self.keep.get() * rows as f64 - 1e-9).ceil() as usize;
        if self.is_all() { rows } else { share.clamp(rows.min(1), rows) }
    }

    pub fn weights(&self) -> SelectionWeights {
        let usual = match self.rule {
            Rule::GradientMatching => SelectionWeights::Matched,
            _ => SelectionWeights::Equal,
        };
        self.weights.unwrap_or(usual)
    }

    /// Whether rows go through the net before any is chosen.
    pub fn looks(&self) -> bool {
        !self.is_all() && (self.rule != Rule::Random || self.weights() != SelectionWeights::Equal)
    }

    /// How much less than a whole step a step computes, a backward pass being two forward passes: `3/(1 + 3ρ)` where
    /// rows are looked at first, else `1/ρ`.
    pub fn speedup(&self) -> f64 {
        let kept = if self.is_all() { 1.0 } else { self.keep.get() };
        3.0 / (3.0 * kept + f64::from(u8::from(self.looks())))
    }

    /// Otherwise the key that would be passed over, and what it says.
    pub(super) fn idle(&self) -> Option<(&'static str, String)> {
        match (self.rule, self.weights) {
            (Rule::All, _) if self.keep != Self::default().keep => {
                Some(("training.selection.keep", self.keep.get().to_string()))
            }
            (Rule::All, Some(_)) => Some(("training.selection.weights", "set".to_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(rule: Rule, keep: f64) -> Selection {
        Selection { rule, keep: Ratio(keep), weights: None }
    }

    #[test]
    fn a_share_of_rows_is_rounded_up_and_one_at_least() {
        let count = |keep, rows| selection(Rule::TopLoss, keep).count(rows);
        assert_eq!([count(0.25, 128), count(0.1, 8), count(0.1, 11), count(0.55, 100)], [32, 1, 2, 55]);
        assert_eq!([count(1.0, 7), count(0.5, 0), count(0.5, 1)], [7, 0, 1]);
        assert_eq!(selection(Rule::All, 0.5).count(9), 9);
    }

    #[test]
    fn a_step_costs_what_its_passes_cost() {
        let speedup = |rule, keep| selection(rule, keep).speedup();
        assert_eq!(
            [speedup(Rule::All, 0.5), speedup(Rule::TopLoss, 1.0), speedup(Rule::Random, 0.25)],
            [1.0, 1.0, 4.0]
        );
        assert_eq!(speedup(Rule::GradientMatching, 0.5), 1.2);
        assert!((speedup(Rule::TopLoss, 0.25) - 1.714).abs() < 1e-3);
        let weighed = Selection { weights: Some(SelectionWeights::Matched), ..selection(Rule::Random, 0.5) };
        assert!(weighed.looks() && !selection(Rule::Random, 0.5).looks());
    }
}
