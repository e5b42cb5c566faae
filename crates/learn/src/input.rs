//! What a model reads, micro-batch by micro-batch.

use tch::Tensor;

/// Rows of a micro-batch.
pub enum Input {
    /// (rows, channels, side, side): bytes as they are stored, f32 once they are normalised.
    Pixels(Tensor),
    Tokens(Tokens),
}

/// Texts, padded to the longest of their micro-batch.
pub struct Tokens {
    /// (rows, length), i64
    pub ids: Tensor,
    /// (rows, length), bool: whether a token stands there. None where nothing is padded.
    pub mask: Option<Tensor>,
}

impl Input {
    /// The rows `start..start + rows`. Padding stays as it is.
    pub fn narrow(&self, start: i64, rows: i64) -> Self {
        match self {
            Self::Pixels(pixels) => Self::Pixels(pixels.narrow(0, start, rows)),
            Self::Tokens(Tokens { ids, mask }) => Self::Tokens(Tokens {
                ids: ids.narrow(0, start, rows),
                mask: mask.as_ref().map(|mask| mask.narrow(0, start, rows)),
            }),
        }
    }

    /// This one's rows, then `other`'s, which were cut from the same micro-batch.
    pub fn then(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Pixels(first), Self::Pixels(second)) => Self::Pixels(Tensor::cat(&[first, second], 0)),
            (Self::Tokens(first), Self::Tokens(second)) => Self::Tokens(Tokens {
                ids: Tensor::cat(&[&first.ids, &second.ids], 0),
                mask: first.mask.as_ref().zip(second.mask.as_ref()).map(|(a, b)| Tensor::cat(&[a, b], 0)),
            }),
            _ => panic!("images and texts in one micro-batch"),
        }
    }

    /// Of a model that takes images.
    pub fn pixels(&self) -> &Tensor {
        match self {
            Self::Pixels(pixels) => pixels,
            Self::Tokens(_) => panic!("the reader gives a model what it takes"),
        }
    }

    /// Of a model that takes texts.
    pub fn tokens(&self) -> &Tokens {
        match self {
            Self::Tokens(tokens) => tokens,
            Self::Pixels(_) => panic!("the reader gives a model what it takes"),
        }
    }
}
