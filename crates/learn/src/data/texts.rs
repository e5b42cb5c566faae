//! Texts as token ids.

use std::path::{Path, PathBuf};

use domain::chunk::{Payload, Row};
use domain::pipeline::Input as Settings;
use tch::Tensor;
use tokenizers::{Tokenizer, TruncationParams};

use crate::Error;
use crate::files;
use crate::input::Tokens;
use crate::model::TextLimits;

pub const TOKENIZER: &str = "tokenizer.json";
/// Tokens of a text, where the pipeline says nothing and the model takes as many.
const DEFAULT_LENGTH: i64 = 128;

/// How a text becomes token ids: by the model's own tokenizer, cut to a length.
pub struct TextReader {
    tokenizer: Box<Tokenizer>,
    pub max_length: i64,
    file: PathBuf,
}

impl TextReader {
    /// From the `tokenizer.json` of a model's folder. Truncation and padding are ours, whatever the file says.
    pub fn load(folder: &Path, settings: &Settings, limits: TextLimits) -> Result<Self, Error> {
        let file = folder.join(TOKENIZER);
        let text = files::read_bytes(&file)?;
        let mut tokenizer = Tokenizer::from_bytes(&text).map_err(|e| files::damaged(&file, e))?;
        let tokens = tokenizer.get_vocab_size(true) as i64;
        if tokens > limits.vocabulary {
            let reason = format!("the model knows {}: the tokenizer is another model's", limits.vocabulary);
            return Err(Error::Config { file, field: "vocabulary", given: format!("{tokens} tokens"), reason });
        }
        let max_length = settings.max_length.map_or(DEFAULT_LENGTH.min(limits.positions), |n| i64::from(n.get()));
        if max_length > limits.positions {
            let reason = format!("the model takes at most {} tokens; lower `input.max_length`", limits.positions);
            return Err(Error::Config { file, field: "input.max_length", given: max_length.to_string(), reason });
        }
        let truncation = TruncationParams { max_length: max_length as usize, ..TruncationParams::default() };
        tokenizer.with_padding(None);
        tokenizer.with_truncation(Some(truncation)).map_err(|e| files::damaged(&file, e))?;
        Ok(Self { tokenizer: Box::new(tokenizer), max_length, file })
    }

    /// The tokenizer as it was found.
    pub fn save(&self, file: &Path) -> Result<(), Error> {
        files::write_bytes(file, &files::read_bytes(&self.file)?)
    }

    /// Ids of every text, special tokens among them; the error names the row at fault.
    pub fn encode(&self, rows: &[Row]) -> Result<Texts, (usize, String)> {
        let text = |(position, row): (usize, &'_ Row)| match &row.payload {
            Payload::Text(text) => Ok(text.clone()),
            Payload::Image(_) => Err((position, "it is an image, and the model takes text".to_owned())),
        };
        let texts: Vec<String> = rows.iter().enumerate().map(text).collect::<Result<_, _>>()?;
        let encoded = self.tokenizer.encode_batch_fast(texts, true).map_err(|e| (0, e.to_string()))?;
        let ids: Vec<&[u32]> = encoded.iter().map(|encoding| encoding.get_ids()).collect();
        Ok(Texts::padded(&ids))
    }
}

/// Token ids of many texts.
pub struct Texts {
    /// (rows, longest), i64, padded with zeros
    ids: Tensor,
    lengths: Vec<i64>,
}

impl Texts {
    fn padded(rows: &[&[u32]]) -> Self {
        let lengths: Vec<i64> = rows.iter().map(|row| row.len() as i64).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mut ids = vec![0i64; rows.len() * longest as usize];
        for (padded, row) in ids.chunks_mut(longest.max(1) as usize).zip(rows) {
            padded.iter_mut().zip(*row).for_each(|(slot, id)| *slot = i64::from(*id));
        }
        Self { ids: Tensor::from_slice(&ids).view([rows.len() as i64, longest]), lengths }
    }

    /// This one's rows, then `other`'s.
    pub fn then(self, other: &Self) -> Self {
        let longest = self.ids.size()[1].max(other.ids.size()[1]);
        let wide = |texts: &Self| texts.ids.constant_pad_nd([0, longest - texts.ids.size()[1]]);
        let ids = Tensor::cat(&[wide(&self), wide(other)], 0);
        Self { ids, lengths: [self.lengths, other.lengths.clone()].concat() }
    }

    pub fn to_device(&self, device: tch::Device) -> Self {
        Self { ids: self.ids.to_device(device), lengths: self.lengths.clone() }
    }

    /// The rows at `positions`, padded to the longest of them.
    pub fn take(&self, positions: &[i64]) -> Tokens {
        let lengths: Vec<i64> = positions.iter().map(|&position| self.lengths[position as usize]).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let device = self.ids.device();
        let rows = Tensor::from_slice(positions).to_device(device);
        let padded = lengths.iter().any(|&length| length < longest);
        let mask = padded.then(|| {
            let places = Tensor::arange(longest, (tch::Kind::Int64, device));
            let lengths = Tensor::from_slice(&lengths).to_device(device).unsqueeze(1);
            places.unsqueeze(0).lt_tensor(&lengths)
        });
        Tokens { ids: self.ids.narrow(1, 0, longest).index_select(0, &rows), mask }
    }

    /// Rows of like length beside each other, so that little is padded.
    pub fn by_length(&self) -> Vec<i64> {
        let mut order: Vec<i64> = (0..self.lengths.len() as i64).collect();
        order.sort_by_key(|&row| self.lengths[row as usize]);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(tokens: &Tokens) -> Vec<Vec<i64>> {
        Vec::try_from(&tokens.ids).unwrap()
    }

    #[test]
    fn a_batch_is_padded_to_its_own_longest_text() {
        let texts = Texts::padded(&[&[5, 6, 7], &[8], &[9, 10]]);
        let long = texts.take(&[1, 0]);
        assert_eq!(ids(&long), [[8, 0, 0], [5, 6, 7]]);
        let mask: Vec<Vec<bool>> = Vec::try_from(long.mask.as_ref().unwrap()).unwrap();
        assert_eq!(mask, [[true, false, false], [true, true, true]]);
        assert_eq!(ids(&texts.take(&[2, 1])), [[9, 10], [8, 0]]);
        assert!(texts.take(&[2]).mask.is_none());
        assert_eq!(texts.by_length(), [1, 2, 0]);
    }

    #[test]
    fn joined_sets_keep_every_id() {
        let joined = Texts::padded(&[&[1]]).then(&Texts::padded(&[&[2, 3], &[4]]));
        assert_eq!(ids(&joined.take(&[0, 1, 2])), [[1, 0], [2, 3], [4, 0]]);
    }
}
