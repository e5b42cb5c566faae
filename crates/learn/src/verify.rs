//! Whether what was written down is what was trained: the weights bit by bit, and the answers that the whole net makes of
//! a few rows.
//!
//! The rows are made of nothing but the model's geometry, so that they hold nobody's data and need nobody's. They never
//! change: who trains and who verifies may be of two releases.

use domain::chunk::{Payload, Row};
use domain::draw::Draw;
use domain::manifest::Candidate;
use domain::pipeline::Precision;
use tch::{Device, Kind, Tensor};

use crate::assemble::Assembled;
use crate::data::Reader;
use crate::data::images::Preprocess;
use crate::files;
use crate::input::Input;
use crate::model::Net;

/// Images that are answered.
const IMAGES: u64 = 3;
/// Texts that are answered; of different lengths, so that some are padded.
const TEXTS: [&str; 3] = [
    "yes",
    "The quick brown fox jumps over the lazy dog.",
    "Please cancel my order of 24 March: it came late, and two of the three boxes were empty.",
];
/// Logits kept of each.
const CLASSES: i64 = 64;

/// How far a logit may lie from the recorded one, as a share of the largest of them. Another processor, thread count or
/// device adds in another order, and a GPU's convolutions may round to ten bits; `auto` may have trained on frozen layers
/// in bf16, of eight bits, that are loaded in f32. Another net's answers differ by more.
fn tolerance(precisions: [Precision; 2]) -> f32 {
    if precisions.contains(&Precision::Bf16) { 0.1 } else { 0.01 }
}

/// Where a candidate is not what was trained.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Flaw {
    #[error("tensor `{0}` holds NaN or infinite values")]
    NotFinite(String),
    #[error("its weights have the SHA-256 {found}, and {wanted} was trained")]
    Weights { wanted: String, found: String },
    #[error("of golden row {row} it answers {found}, and {wanted} was answered by what was trained")]
    Golden { row: usize, wanted: String, found: String },
    /// It was stored as it is: another attempt would leave the same.
    #[error(
        "its adapter is all zero: {steps} steps changed nothing; check `training.learning_rate`, and that rows of two labels train"
    )]
    Untrained { steps: u64 },
}

impl Flaw {
    /// Whether the candidate is what was trained all the same.
    pub fn is_trained(&self) -> bool {
        matches!(self, Self::Untrained { .. })
    }
}

/// Compares a candidate, whose frozen layers were loaded in `precision`, with what its trainer said of it.
pub fn verify(loaded: &Assembled, precision: Precision, candidate: &Candidate) -> Result<(), Flaw> {
    let Assembled { net, trained, reader } = loaded;
    if let Some((name, _)) = trained.iter().find(|(_, tensor)| !files::is_finite(tensor)) {
        return Err(Flaw::NotFinite(name.clone()));
    }
    let (wanted, found) = (&candidate.weights_sha256, files::weights_digest(trained));
    if *wanted != found {
        return Err(Flaw::Weights { wanted: wanted.clone(), found });
    }
    if !candidate.golden.is_empty() {
        compare(&candidate.golden, &golden(net, reader), tolerance([precision, candidate.cost.precision]))?;
    }
    // What was imported made no step. With one label every answer is right, and nothing is there to be learned.
    let steps = candidate.cost.steps;
    if steps > 0 && net.head.bias.numel() > 1 && is_zero(trained) {
        return Err(Flaw::Untrained { steps });
    }
    Ok(())
}

/// Whether there is an adapter, and it changes nothing.
fn is_zero(trained: &[(String, Tensor)]) -> bool {
    let mut outer = trained.iter().filter(|(name, _)| name.contains(".lora_B.")).peekable();
    outer.peek().is_some() && outer.all(|(_, b)| b.count_nonzero(None::<i64>).int64_value(&[]) == 0)
}

/// The net's logits of the fixed rows, row by row; None where one is not finite.
pub fn golden(net: &Net, reader: &Reader) -> Vec<Vec<Option<f32>>> {
    let _guard = tch::no_grad_guard();
    let Some(rows) = rows(reader, net.head.weight.device()) else { return Vec::new() };
    let logits = net.forward(&reader.apply(rows));
    let kept = logits.narrow(1, 0, logits.size()[1].min(CLASSES)).to_kind(Kind::Float).to_device(Device::Cpu);
    let listed: Vec<Vec<f32>> = Vec::try_from(&kept).expect("a matrix of floats");
    let finite = |row: Vec<f32>| row.into_iter().map(|logit| Some(logit).filter(|logit| logit.is_finite())).collect();
    listed.into_iter().map(finite).collect()
}

/// None: the tokenizer makes no token of any of them.
fn rows(reader: &Reader, device: Device) -> Option<Input> {
    match reader {
        Reader::Images(preprocess) => Some(Input::Pixels(images(preprocess).to_device(device))),
        Reader::Texts(_) => {
            let row = |text: &str| Row::new("", Payload::Text(text.to_owned()), "");
            let texts = reader.decode_inputs(&TEXTS.map(row)).ok()?.to_device(device);
            let (input, _) = texts.take(&[0, 1, 2]);
            matches!(&input, Input::Tokens(tokens) if tokens.ids.size()[1] > 0).then_some(input)
        }
    }
}

/// (images, channels, side, side), bytes: noise.
fn images(preprocess: &Preprocess) -> Tensor {
    let (channels, side) = (preprocess.geometry.channels, preprocess.geometry.side);
    let draw = Draw::new(0).named("golden");
    let bytes: Vec<u8> = (0..IMAGES * (channels * side * side) as u64).map(|at| draw.at(at).below(256) as u8).collect();
    Tensor::from_slice(&bytes).view([IMAGES as i64, channels, side, side])
}

fn compare(wanted: &[Vec<Option<f32>>], found: &[Vec<Option<f32>>], tolerance: f32) -> Result<(), Flaw> {
    let largest = wanted.iter().flatten().flatten().fold(0.0_f32, |largest, logit| largest.max(logit.abs()));
    let near = |(wanted, found): (&Option<f32>, &Option<f32>)| match (wanted, found) {
        (Some(wanted), Some(found)) => (wanted - found).abs() <= tolerance * largest,
        (wanted, found) => wanted == found,
    };
    let same = |wanted: &Vec<_>, found: &Vec<_>| wanted.len() == found.len() && wanted.iter().zip(found).all(near);
    let none = Vec::new();
    let pairs = wanted.iter().zip(found.iter().chain(std::iter::repeat(&none)));
    match pairs.enumerate().find(|(_, (wanted, found))| !same(wanted, found)) {
        None => Ok(()),
        Some((row, (wanted, found))) => Err(Flaw::Golden { row, wanted: said(wanted), found: said(found) }),
    }
}

/// The first few logits.
fn said(logits: &[Option<f32>]) -> String {
    const SAID: usize = 4;
    let one = |logit: &Option<f32>| logit.map_or_else(|| "NaN".to_owned(), |logit| logit.to_string());
    let first: Vec<String> = logits.iter().take(SAID).map(one).collect();
    let more = if logits.len() > SAID { ", …" } else { "" };
    format!("[{}{more}]", first.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Geometry;
    use sha2::{Digest, Sha256};

    #[test]
    fn the_rows_are_those_of_the_first_release_that_had_them() {
        let pixels = images(&Preprocess::unit(Geometry { channels: 3, side: 8 }));
        let mut bytes = vec![0; pixels.numel()];
        pixels.copy_data_u8(&mut bytes, pixels.numel());
        let all = [bytes, TEXTS.concat().into_bytes()].concat();
        assert_eq!(
            hex::encode(Sha256::digest(all)),
            "679a1d57f03ebf7801ee17b64b24c91c4f341f3558c08e8a4605791a478cdfc9"
        );
    }
}
