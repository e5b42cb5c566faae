//! The rehearsal buffer's section of a pipeline file.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::number::Ratio;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Every row seen is kept with equal probability (Vitter, 1985).
    #[default]
    Reservoir,
    /// A row is kept while its label holds less than an equal share of the memory (GDumb; Prabhu et al., 2020).
    ClassBalanced,
    /// Every new row is kept, in place of a random one of a most frequent label (Renate; Wistuba et al., 2023).
    Greedy,
    /// The last rows are kept (Renate's sliding window; Wistuba et al., 2023).
    Window,
    /// Every row is kept. What `joint` uses.
    Infinite,
    /// After each chunk, of each label the rows that best keep its mean feature (iCaRL; Rebuffi et al., 2017).
    Herding,
    /// After each chunk, rows that leave no other far from a kept one (Gonzalez, 1985; Sener and Savarese, 2018).
    KCentre,
    /// After each chunk, weighted rows whose gradients add up to those of all rows (GMC; Balles et al., 2022).
    Gmc,
}

impl Policy {
    pub const ALL: [Self; 8] = [
        Self::Reservoir,
        Self::ClassBalanced,
        Self::Greedy,
        Self::Window,
        Self::Infinite,
        Self::Herding,
        Self::KCentre,
        Self::Gmc,
    ];

    /// As a pipeline file writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reservoir => "reservoir",
            Self::ClassBalanced => "class-balanced",
            Self::Greedy => "greedy",
            Self::Window => "window",
            Self::Infinite => "infinite",
            Self::Herding => "herding",
            Self::KCentre => "k-centre",
            Self::Gmc => "gmc",
        }
    }

    /// Whether rows are chosen among memory and chunk together, once the chunk has ended, instead of one by one.
    pub const fn selects(self) -> bool {
        matches!(self, Self::Herding | Self::KCentre | Self::Gmc)
    }
}

/// When rows are offered to the rehearsal buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BufferUpdate {
    /// All rows of the chunk, once, after its last step.
    Chunk,
    /// Each row, once, after the step that first saw it, so that replay reaches into the running chunk.
    Online,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rehearsal {
    /// Default: what the method is used with, for most `reservoir`.
    pub policy: Option<Policy>,
    /// Rows the buffer holds at most; `infinite` ignores it.
    pub memory_size: NonZeroU32,
    /// Default: `online` where a whole model sees each row once and the method allows it, else `chunk`.
    pub update: Option<BufferUpdate>,
    /// What the weights of remembered rows do, where the policy gives them any.
    pub weights: SlotWeights,
    /// γ: what memory keeps of a row, its logits and features, becomes `γ·old + (1 − γ)·new` where a step replays it.
    /// With 1, it stays as it was when the row entered.
    pub refresh_decay: Ratio,
    pub gmc: Gmc,
    /// Reports how far memory's gradient is from that of everything ever offered, as `gmc` sees gradients.
    pub measure_residual: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SlotWeights {
    /// A remembered row's loss counts by its weight, where memory has batches of its own. Not in `icarl`.
    #[default]
    Loss,
    /// A row is replayed as often as its weight says.
    Sampling,
    /// Every row counts the same.
    Unit,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GmcRows {
    /// Those whose gradients match, one after the other.
    #[default]
    Matched,
    /// A uniform draw of all rows offered, as `reservoir` has it: what weights alone can do.
    Uniform,
}

/// How `gmc` chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Gmc {
    /// Draws of the initial weights whose gradients are matched.
    pub initialisations: NonZeroU32,
    /// Matches each label's rows on their own, by the gradient of that label's row of the head.
    pub per_class: bool,
    /// Which rows are kept before they are weighed.
    pub rows: GmcRows,
    /// Matches the gradients of all weights, projected to so many numbers at random, instead of the last layer's, whose
    /// products need no projection. A backward pass for each row and draw.
    pub projection: Option<NonZeroU32>,
    /// Matches the gradient of everything ever offered instead of that of memory and chunk. Not `per_class`.
    pub carries_target: bool,
}

impl Default for Gmc {
    fn default() -> Self {
        Self {
            initialisations: NonZeroU32::new(10).expect("not zero"),
            per_class: false,
            rows: GmcRows::default(),
            projection: None,
            carries_target: true,
        }
    }
}

impl Default for Rehearsal {
    fn default() -> Self {
        Self {
            policy: None,
            memory_size: NonZeroU32::new(500).expect("not zero"),
            update: None,
            weights: SlotWeights::default(),
            refresh_decay: Ratio(1.0),
            gmc: Gmc::default(),
            measure_residual: false,
        }
    }
}
