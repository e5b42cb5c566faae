//! Rows as tensors: decoded once, made into what a model reads batch by batch.

mod augment;
pub mod images;
mod processor;
pub mod texts;

use std::collections::HashMap;
use std::path::Path;

use domain::chunk::Row;
use domain::draw::Draw;
use domain::manifest::Preprocessing;
use domain::pipeline::Augmentation;
use tch::{Device, Kind, Tensor};

use crate::Error;
use crate::input::Input;
use images::Preprocess;
use texts::{TextReader, Texts};

/// How rows become what the model reads.
pub enum Reader {
    Images(Preprocess),
    Texts(TextReader),
}

impl Reader {
    /// `place` names where the rows come from, for errors.
    pub fn decode(&self, rows: &[Row], place: &str, labels: &[String]) -> Result<Dataset, Error> {
        let refused = |row: &Row, reason| Error::Row { row: row.id.clone(), place: place.to_owned(), reason };
        let positions: HashMap<&str, i64> = labels.iter().map(String::as_str).zip(0..).collect();
        let label = |row: &Row| {
            let known = positions.get(row.label.as_str()).copied();
            known.ok_or_else(|| refused(row, format!("label `{}` is not among the run's labels", row.label)))
        };
        let labels: Vec<i64> = rows.iter().map(label).collect::<Result<_, _>>()?;
        let stored = self.stored(rows).map_err(|(position, reason)| refused(&rows[position], reason))?;
        Ok(Dataset { stored, labels: Tensor::from_slice(&labels) })
    }

    /// Rows whose labels nobody asks for; the error names the row at fault.
    pub(crate) fn decode_inputs(&self, rows: &[Row]) -> Result<Dataset, (usize, String)> {
        let labels = Tensor::zeros([rows.len() as i64], (Kind::Int64, Device::Cpu));
        Ok(Dataset { stored: self.stored(rows)?, labels })
    }

    fn stored(&self, rows: &[Row]) -> Result<Stored, (usize, String)> {
        match self {
            Self::Images(preprocess) => images::decode(rows, preprocess.geometry).map(Stored::Pixels),
            Self::Texts(reader) => reader.encode(rows).map(Stored::Texts),
        }
    }

    /// Rows as [`Dataset::take`] gives them -> as the model reads them.
    pub fn apply(&self, input: Input) -> Input {
        match (self, input) {
            (Self::Images(preprocess), Input::Pixels(pixels)) => Input::Pixels(preprocess.apply(&pixels)),
            (_, input) => input,
        }
    }

    /// The same for training: each image varied anew.
    pub fn varied(&self, input: Input, how: &[Augmentation], draw: Draw) -> Input {
        match (self, input) {
            (Self::Images(preprocess), Input::Pixels(pixels)) => {
                Input::Pixels(preprocess.apply(&augment::varied(&pixels, how, draw)))
            }
            (_, input) => self.apply(input),
        }
    }

    /// What a version's manifest says of it.
    pub fn described(&self) -> Preprocessing {
        match self {
            Self::Images(preprocess) => preprocess.described(),
            Self::Texts(reader) => Preprocessing::Text { max_length: reader.max_length },
        }
    }

    /// What transformers reads beside the weights: names of the files in `folder`.
    pub fn save(&self, folder: &Path) -> Result<&'static str, Error> {
        match self {
            Self::Images(preprocess) => {
                preprocess.save(&folder.join(images::PREPROCESSOR)).map(|()| images::PREPROCESSOR)
            }
            Self::Texts(reader) => reader.save(&folder.join(texts::TOKENIZER)).map(|()| texts::TOKENIZER),
        }
    }
}

/// Decoded rows.
pub struct Dataset {
    stored: Stored,
    /// (rows), positions in the run's labels
    labels: Tensor,
}

enum Stored {
    /// (rows, channels, side, side), bytes
    Pixels(Tensor),
    Texts(Texts),
}

impl Dataset {
    pub fn len(&self) -> usize {
        self.labels.numel()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// This one's rows, then `other`'s, which the same reader decoded.
    pub fn then(self, other: &Self) -> Self {
        let stored = match (self.stored, &other.stored) {
            (Stored::Pixels(mine), Stored::Pixels(theirs)) => Stored::Pixels(Tensor::cat(&[&mine, theirs], 0)),
            (Stored::Texts(mine), Stored::Texts(theirs)) => Stored::Texts(mine.then(theirs)),
            _ => panic!("one reader decodes images or texts"),
        };
        Self { stored, labels: Tensor::cat(&[&self.labels, &other.labels], 0) }
    }

    pub fn to_device(self, device: Device) -> Self {
        let stored = match self.stored {
            Stored::Pixels(pixels) => Stored::Pixels(pixels.to_device(device)),
            Stored::Texts(texts) => Stored::Texts(texts.to_device(device)),
        };
        Self { stored, labels: self.labels.to_device(device) }
    }

    /// The rows at `positions`, and their labels (n). Pixels are bytes yet.
    pub fn take(&self, positions: &[i64]) -> (Input, Tensor) {
        let rows = Tensor::from_slice(positions).to_device(self.labels.device());
        let input = match &self.stored {
            Stored::Pixels(pixels) => Input::Pixels(pixels.index_select(0, &rows)),
            Stored::Texts(texts) => Input::Tokens(texts.take(positions)),
        };
        (input, self.labels.index_select(0, &rows))
    }

    /// Of the rows at `positions`.
    pub fn labels(&self, positions: &[i64]) -> Tensor {
        self.labels.index_select(0, &Tensor::from_slice(positions).to_device(self.labels.device()))
    }

    /// Of every row.
    pub fn all_labels(&self) -> Vec<u32> {
        let labels = Vec::<i64>::try_from(&self.labels).expect("a vector of i64");
        labels.into_iter().map(|label| label as u32).collect()
    }

    /// Every row once, in the order in which they are cheapest to read.
    pub fn reading_order(&self) -> Vec<i64> {
        match &self.stored {
            Stored::Pixels(_) => (0..self.len() as i64).collect(),
            Stored::Texts(texts) => texts.by_length(),
        }
    }
}
