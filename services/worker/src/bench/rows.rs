//! Flags of what an update does with its rows.

use std::num::NonZeroU32;

use domain::pipeline::{
    Augmentation, Metric, Ratio, Rule, Selection, SelectionWeights, Share, ShrinkPerturb, Training, Validation,
};

use super::flags::{number, one_of, parameters};

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Rows of a step")]
pub struct Rows {
    /// How images are varied while training, in this order
    #[arg(long, value_name = "HOW,…", value_delimiter = ',', value_parser = one_of::<Augmentation>(Augmentation::ALL.map(Augmentation::name)))]
    pub augment: Vec<Augmentation>,
    /// Which new rows of each micro-batch are back-propagated
    #[arg(long, value_name = "RULE", default_value = "all", value_parser = one_of::<Rule>(Rule::ALL.map(Rule::name)))]
    select: Rule,
    /// The share of rows that --select chooses. Default: 0.5
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, value_parser = number::<Ratio>)]
    keep: Option<Ratio>,
    /// What chosen rows count. Default: matched for gradient-matching, else equal
    #[arg(long, value_parser = one_of::<SelectionWeights>(["equal", "matched", "normalised"]))]
    select_weights: Option<SelectionWeights>,
    /// Set this share of each task's training rows aside; the epoch that does best on them is kept
    #[arg(long, value_name = "SHARE", default_value = "0", allow_negative_numbers = true, value_parser = number::<Share>)]
    validation_fraction: Share,
    /// What the best epoch is best in
    #[arg(long, default_value = "loss", value_parser = one_of::<Metric>(["loss", "accuracy"]))]
    validation_metric: Metric,
    /// Stop after so many epochs in a row without a better one
    #[arg(long, value_name = "EPOCHS")]
    patience: Option<NonZeroU32>,
    /// What is done to the weights before each update: shrink=0.95,sigma=0.001. Default: nothing, but for super-er
    #[arg(long, value_name = "shrink=…,sigma=…", value_parser = reinitialize)]
    reinitialize: Option<ShrinkPerturb>,
}

impl Rows {
    pub fn training(&self, training: Training) -> Training {
        let Self { validation_fraction: fraction, validation_metric: metric, patience, .. } = *self;
        Training {
            selection: Selection {
                rule: self.select,
                keep: self.keep.unwrap_or(Selection::default().keep),
                weights: self.select_weights,
            },
            validation: Validation { fraction, metric, patience },
            reinitialize: self.reinitialize,
            ..training
        }
    }
}

fn reinitialize(given: &str) -> Result<ShrinkPerturb, String> {
    serde_json::to_value(parameters(given)?).and_then(serde_json::from_value).map_err(|e| e.to_string())
}
