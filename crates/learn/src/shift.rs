//! Whether fresh rows still look like, and are labelled like, those of a reference. Each test takes both as samples of two
//! distributions and asks how often they would differ so much if the two were one.
//!
//! A small p says that something changed, not that it matters: with many rows the smallest change shows. And of many chunks that
//! are tested, one in twenty has p < 0.05 by chance.

mod concept;
mod ks;
mod labels;
mod mmd;

use std::collections::BTreeMap;

use domain::draw::Draw;
use domain::shift::{Detector, Moved, Tested};
use tch::{Kind, Tensor};

use concept::{Losses, concept};
use ks::ks;
use labels::{bbse, labels};
use mmd::{Mmd, mmd};

/// Of a permutation test. The smallest p is 1 over one more than this.
const PERMUTATIONS: usize = 1000;
/// Rows of each side that are looked at, drawn at random: a permutation test takes the square of them.
pub const ROWS: usize = 1000;
/// Names of what moved most.
const NAMED: usize = 5;

/// What a test found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    pub statistic: f64,
    pub p: f64,
}

/// Rows as the detectors see them.
pub struct Sample {
    /// (rows, width), of the frozen model.
    pub features: Tensor,
    /// (rows): None for a row that nobody has labelled.
    pub labels: Vec<Option<String>>,
    /// (rows): a version's cross-entropy on the row, nats. None for a row without a label, and where no version answers.
    pub losses: Vec<Option<f64>>,
    /// (rows): that version's answer.
    pub answers: Vec<Option<String>>,
}

impl Sample {
    fn rows(&self) -> u64 {
        self.labels.len() as u64
    }

    /// Where the rows of each label stand.
    fn by_label(&self) -> BTreeMap<&str, Vec<i64>> {
        let mut places: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for (place, label) in self.labels.iter().enumerate() {
            if let Some(label) = label {
                places.entry(label).or_default().push(place as i64);
            }
        }
        places
    }

    fn of(&self, places: &[i64]) -> Tensor {
        self.features.index_select(0, &Tensor::from_slice(places))
    }
}

/// Every test that has something to go on.
pub fn compare(reference: &Sample, fresh: &Sample, draw: Draw) -> Vec<Tested> {
    let found = [
        rows(reference, fresh, draw),
        features(reference, fresh),
        proportions(reference, fresh),
        loss(reference, fresh, draw),
    ];
    found.into_iter().flatten().collect()
}

fn rows(reference: &Sample, fresh: &Sample, draw: Draw) -> Option<Tested> {
    let Mmd { found, bandwidth } = mmd(&reference.features, &fresh.features, PERMUTATIONS, draw.named("mmd"))?;
    let before = reference.by_label();
    let moved = fresh.by_label().into_iter().filter_map(|(label, now)| {
        let then = before.get(label)?;
        let by = mmd::discrepancy(&reference.of(then), &fresh.of(&now), bandwidth)?;
        Some(Moved { name: label.to_owned(), by })
    });
    Some(tested(Detector::Mmd, found, [reference.rows(), fresh.rows()], moved.collect()))
}

fn features(reference: &Sample, fresh: &Sample) -> Option<Tested> {
    let (found, distances) = ks(&columns(&reference.features), &columns(&fresh.features))?;
    let moved = distances.into_iter().enumerate().map(|(at, by)| Moved { name: format!("feature {at}"), by });
    Some(tested(Detector::Ks, found, [reference.rows(), fresh.rows()], moved.collect()))
}

/// By the labels; of rows that nobody has labelled by the version's answers, where those on the reference say how to read them.
fn proportions(reference: &Sample, fresh: &Sample) -> Option<Tested> {
    let (before, now) = (counted(&reference.labels), counted(&fresh.labels));
    if now.is_empty() {
        return answered(reference, fresh);
    }
    let (found, changes) = labels(&before, &now)?;
    let moved = changes.into_iter().map(|(name, by)| Moved { name, by }).collect();
    Some(tested(Detector::Labels, found, [before.values().sum(), now.values().sum()], moved))
}

fn answered(reference: &Sample, fresh: &Sample) -> Option<Tested> {
    let (before, now) = (counted(&reference.answers), counted(&fresh.answers));
    let (found, _) = labels(&before, &now)?;
    let shares = counted(&reference.labels);
    let names: Vec<&String> = shares.keys().collect();
    let place = |label: &Option<String>| names.iter().position(|name| Some(*name) == label.as_ref());
    let classes = names.len() as i64;
    let joint = Tensor::zeros([classes, classes], (Kind::Double, tch::Device::Cpu));
    let of_fresh = Tensor::zeros([classes], (Kind::Double, tch::Device::Cpu));
    for (answer, label) in reference.answers.iter().zip(&reference.labels) {
        if let (Some(answer), Some(label)) = (place(answer), place(label)) {
            let _ = joint.get(answer as i64).get(label as i64).g_add_scalar_(1.0 / reference.labels.len() as f64);
        }
    }
    for answer in fresh.answers.iter().filter_map(place) {
        let _ = of_fresh.get(answer as i64).g_add_scalar_(1.0 / fresh.answers.len() as f64);
    }
    let all: u64 = shares.values().sum();
    let before_of = |name: &String| shares[name] as f64 / all as f64;
    let estimated = bbse(&joint, &of_fresh).unwrap_or_default();
    let moved =
        names.iter().zip(estimated).map(|(name, now)| Moved { name: (*name).clone(), by: now - before_of(name) });
    Some(tested(Detector::Labels, found, [before.values().sum(), now.values().sum()], moved.collect()))
}

fn counted(names: &[Option<String>]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    names.iter().flatten().for_each(|name| *counts.entry(name.clone()).or_default() += 1);
    counts
}

fn loss(reference: &Sample, fresh: &Sample, draw: Draw) -> Option<Tested> {
    let known = |sample: &Sample, places: &[i64]| -> Vec<f64> {
        places.iter().filter_map(|&place| sample.losses[place as usize]).collect()
    };
    let places = reference.by_label();
    // Of a label that the reference has no row of there is no concept that could have changed.
    let labels = fresh.by_label().into_iter().filter_map(|(label, now)| {
        let losses = Losses { reference: known(reference, places.get(label)?), fresh: known(fresh, &now) };
        (!losses.reference.is_empty() && !losses.fresh.is_empty()).then(|| (label.to_owned(), losses))
    });
    let (names, losses): (Vec<String>, Vec<Losses>) = labels.unzip();
    let found = concept(&losses, PERMUTATIONS, draw.named("concept"))?;
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let moved =
        names.into_iter().zip(&losses).map(|(name, of)| Moved { name, by: mean(&of.fresh) - mean(&of.reference) });
    let rows =
        [losses.iter().map(|of| of.reference.len() as u64).sum(), losses.iter().map(|of| of.fresh.len() as u64).sum()];
    Some(tested(Detector::Concept, found, rows, moved.collect()))
}

fn tested(detector: Detector, found: Found, rows: [u64; 2], mut moved: Vec<Moved>) -> Tested {
    // JSON has no other numbers.
    moved.retain(|moved| moved.by.is_finite());
    moved.sort_by(|a, b| b.by.abs().total_cmp(&a.by.abs()).then_with(|| a.name.cmp(&b.name)));
    moved.truncate(NAMED);
    Tested { detector, statistic: found.statistic, p_value: found.p, rows, moved }
}

/// Column by column.
fn columns(features: &Tensor) -> Vec<Vec<f64>> {
    let turned = features.to_kind(Kind::Double).transpose(0, 1).contiguous();
    Vec::try_from(turned).expect("a matrix of doubles")
}

#[cfg(test)]
mod tests;
