//! What a model reads, micro-batch by micro-batch.

use tch::Tensor;

use crate::model::Embedded;

/// Rows of a micro-batch.
pub enum Input {
    /// (rows, channels, side, side): bytes as they are stored, f32 once they are normalised.
    Pixels(Tensor),
    Tokens(Tokens),
    /// Rows of either kind, some blocks into the model.
    Hidden(Embedded),
}

/// Texts, padded to the longest of their micro-batch.
pub struct Tokens {
    /// (rows, length), i64
    pub ids: Tensor,
    /// (rows, length), bool: whether a token stands there. None where nothing is padded.
    pub mask: Option<Tensor>,
}

impl Input {
    pub fn rows(&self) -> i64 {
        match self {
            Self::Pixels(pixels) => pixels.size()[0],
            Self::Tokens(tokens) => tokens.ids.size()[0],
            Self::Hidden(embedded) => embedded.x.size()[0],
        }
    }

    /// The rows `start..start + rows`. Padding stays as it is.
    pub fn narrow(&self, start: i64, rows: i64) -> Self {
        match self {
            Self::Pixels(pixels) => Self::Pixels(pixels.narrow(0, start, rows)),
            Self::Tokens(Tokens { ids, mask }) => Self::Tokens(Tokens {
                ids: ids.narrow(0, start, rows),
                mask: mask.as_ref().map(|mask| mask.narrow(0, start, rows)),
            }),
            Self::Hidden(Embedded { x, mask, done, .. }) => {
                let mask = mask.as_ref().map(|mask| mask.narrow(0, start, rows));
                Self::Hidden(Embedded { done: *done, ..Embedded::new(x.narrow(0, start, rows), mask) })
            }
        }
    }

    /// This one's rows, then `other`'s, which were cut from the same micro-batch.
    pub fn then(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Pixels(first), Self::Pixels(second)) => Self::Pixels(Tensor::cat(&[first, second], 0)),
            (Self::Tokens(first), Self::Tokens(second)) => Self::Tokens(Tokens {
                ids: Tensor::cat(&[&first.ids, &second.ids], 0),
                mask: joined(first.mask.as_ref(), second.mask.as_ref()),
            }),
            (Self::Hidden(first), Self::Hidden(second)) => {
                let (x, mask) =
                    (Tensor::cat(&[&first.x, &second.x], 0), joined(first.mask.as_ref(), second.mask.as_ref()));
                Self::Hidden(Embedded { done: first.done, ..Embedded::new(x, mask) })
            }
            _ => panic!("images and texts in one micro-batch"),
        }
    }

    /// Of a model that takes images.
    pub fn pixels(&self) -> &Tensor {
        match self {
            Self::Pixels(pixels) => pixels,
            _ => panic!("the reader gives a model what it takes"),
        }
    }

    /// Of a model that takes texts.
    pub fn tokens(&self) -> &Tokens {
        match self {
            Self::Tokens(tokens) => tokens,
            _ => panic!("the reader gives a model what it takes"),
        }
    }
}

/// Masks of rows cut from one micro-batch: both or neither.
fn joined(first: Option<&Tensor>, second: Option<&Tensor>) -> Option<Tensor> {
    first.zip(second).map(|(first, second)| Tensor::cat(&[first, second], 0))
}
