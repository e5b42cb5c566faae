//! Wrong labels, for what is to be robust to them.

use std::collections::BTreeSet;

use domain::chunk::Row;
use domain::draw::Draw;
use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelNoise {
    /// Of the training rows.
    share: f64,
    #[serde(default)]
    seed: u64,
}

impl LabelNoise {
    /// Why it cannot be, if it cannot.
    pub fn wrong(&self) -> Option<String> {
        (!(0.0..=1.0).contains(&self.share)).then(|| format!("`label_noise.share` is {}: must be 0 to 1", self.share))
    }

    /// A row's label depends on the seed, its id and the labels of the rows beside it alone.
    pub fn apply(&self, rows: &mut [Row]) {
        let labels: BTreeSet<String> = rows.iter().map(|row| row.label.clone()).collect();
        for row in rows {
            let draw = Draw::new(self.seed).named("label noise").named(&row.id);
            let others: Vec<&String> = labels.iter().filter(|label| **label != row.label).collect();
            if draw.unit() < self.share && !others.is_empty() {
                row.label = others[draw.named("label").below(others.len() as u64) as usize].clone();
            }
        }
    }
}
