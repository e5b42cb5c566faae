//! What memory keeps of its rows besides where they are: a net's answers at some moment, one row a slot.

use std::collections::HashMap;
use std::ops::Range;

use domain::buffer::Snapshot;
use domain::id::ChunkId;
use tch::{Kind, Tensor};

/// Columns of an answer: pooled features, then logits. 0 of what is not kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Widths {
    pub features: usize,
    pub classes: usize,
}

impl Widths {
    const fn all(self) -> usize {
        self.features + self.classes
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    widths: Widths,
    /// NaN where a row or a class has none.
    values: Vec<f32>,
}

impl Kept {
    /// None of any slot.
    pub fn unknown(slots: usize, widths: Widths) -> Self {
        Self { widths, values: vec![f32::NAN; slots * widths.all()] }
    }

    /// Of the first `slots` slots: what is stored, (slots, features) and (slots, classes then), as far as it fits.
    pub fn read(features: Option<&Tensor>, logits: Option<&Tensor>, slots: usize, widths: Widths) -> Self {
        let mut kept = Self::unknown(slots, widths);
        let same = |stored: &&Tensor| stored.size()[1] as usize == widths.features;
        if let Some(stored) = features.filter(same) {
            kept.fill(stored, 0, widths.features);
        }
        if let Some(stored) = logits {
            kept.fill(stored, widths.features, widths.classes);
        }
        kept
    }

    fn fill(&mut self, stored: &Tensor, start: usize, columns: usize) {
        let width = stored.size()[1] as usize;
        let known = width.min(columns);
        let slots = self.values.len().checked_div(self.widths.all()).unwrap_or(0);
        for (slot, row) in numbers(stored).chunks_exact(width.max(1)).enumerate().take(slots) {
            self.row(slot)[start..start + known].copy_from_slice(&row[..known]);
        }
    }

    fn row(&mut self, slot: usize) -> &mut [f32] {
        let width = self.widths.all();
        &mut self.values[slot * width..][..width]
    }

    /// Takes over what `answer` says of a slot; nothing is known of it without.
    pub fn set(&mut self, slot: usize, answer: Option<&[f32]>) {
        let width = self.widths.all();
        if self.values.len() < (slot + 1) * width {
            self.values.resize((slot + 1) * width, f32::NAN);
        }
        match answer {
            Some(answer) => self.row(slot).copy_from_slice(answer),
            None => self.row(slot).fill(f32::NAN),
        }
    }

    /// `γ·old + (1 − γ)·new`, or `new` where nothing was known.
    pub fn blend(&mut self, slot: usize, new: &[f32], decay: f32) {
        for (old, new) in self.row(slot).iter_mut().zip(new) {
            *old = if old.is_finite() { decay * *old + (1.0 - decay) * new } else { *new };
        }
    }

    /// (slots, columns)
    pub fn take(&self, slots: &[usize]) -> Tensor {
        let width = self.widths.all();
        let rows = slots.iter().map(|slot| &self.values[slot * width..][..width]);
        let rows: Vec<f32> = rows.flatten().copied().collect();
        Tensor::from_slice(&rows).view([slots.len() as i64, width as i64])
    }

    /// Whether a slot has features, where they are kept, and logits, where they are.
    pub fn knows(&self, slot: usize) -> bool {
        let row = &self.values[slot * self.widths.all()..][..self.widths.all()];
        self.parts().into_iter().all(|part| known(&row[part]))
    }

    /// Takes over what `answer` says of a slot's features, or logits, where there are none.
    pub fn complete(&mut self, slot: usize, answer: &[f32]) {
        let parts = self.parts();
        let row = self.row(slot);
        for part in parts {
            if !known(&row[part.clone()]) {
                row[part.clone()].copy_from_slice(&answer[part]);
            }
        }
    }

    fn parts(&self) -> [Range<usize>; 2] {
        [0..self.widths.features, self.widths.features..self.widths.all()]
    }

    /// Of an answer.
    pub fn columns(&self) -> usize {
        self.widths.all()
    }

    fn part(&self, start: usize, columns: usize) -> Option<Tensor> {
        let all = Tensor::from_slice(&self.values).view([-1, self.widths.all().max(1) as i64]);
        (columns > 0).then(|| all.narrow(1, start as i64, columns as i64).contiguous())
    }

    /// All of them: (slots, features), if any are kept.
    pub fn features(&self) -> Option<Tensor> {
        self.part(0, self.widths.features)
    }

    /// (slots, classes), if any are kept.
    pub fn logits(&self) -> Option<Tensor> {
        self.part(self.widths.features, self.widths.classes)
    }

    /// The same rows where they stand in `after`, which keeps some of `before`'s.
    pub fn follow(&self, before: &Snapshot, after: &Snapshot) -> Self {
        let mut moved = Self::unknown(after.slots.len(), self.widths);
        for (slot, origin) in origins(before, after).into_iter().enumerate() {
            if let Some(from) = origin {
                let width = self.widths.all();
                moved.row(slot).copy_from_slice(&self.values[from * width..][..width]);
            }
        }
        moved
    }
}

/// Rows (slots of `before`, columns) where they stand in `after`; NaN where they are new.
pub fn follow(stored: &Tensor, before: &Snapshot, after: &Snapshot) -> Tensor {
    let origins = origins(before, after);
    let index: Vec<i64> = origins.iter().map(|origin| origin.map_or(0, |slot| slot as i64)).collect();
    let new: Vec<bool> = origins.iter().map(Option::is_none).collect();
    if stored.numel() == 0 {
        return Tensor::full([index.len() as i64, stored.size()[1]], f64::NAN, (Kind::Float, stored.device()));
    }
    stored.index_select(0, &Tensor::from_slice(&index)).masked_fill(&Tensor::from_slice(&new).unsqueeze(1), f64::NAN)
}

/// Where each slot of `after` stood in `before`.
fn origins(before: &Snapshot, after: &Snapshot) -> Vec<Option<usize>> {
    let place = |snapshot: &Snapshot, slot: usize| {
        let slot = snapshot.slots[slot];
        (snapshot.chunks[slot.chunk as usize].clone(), slot.row)
    };
    let places: HashMap<(ChunkId, u32), usize> =
        (0..before.slots.len()).map(|slot| (place(before, slot), slot)).collect();
    (0..after.slots.len()).map(|slot| places.get(&place(after, slot)).copied()).collect()
}

fn known(part: &[f32]) -> bool {
    part.is_empty() || part.iter().any(|value| value.is_finite())
}

pub fn numbers(values: &Tensor) -> Vec<f32> {
    Vec::try_from(values.reshape([-1])).expect("a vector of f32")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTHS: Widths = Widths { features: 2, classes: 3 };

    #[test]
    fn a_head_that_grew_leaves_new_classes_unknown_and_other_features_are_not_taken() {
        let logits = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0]).view([2, 2]);
        let features = Tensor::ones([2, 3], tch::kind::FLOAT_CPU);
        let kept = Kept::read(Some(&features), Some(&logits), 2, WIDTHS);
        let row = numbers(&kept.take(&[1]));
        assert!(row[0].is_nan() && row[1].is_nan() && row[2..4] == [3.0, 4.0] && row[4].is_nan());
        assert!(!kept.knows(0));
        assert!(Kept::read(Some(&features.narrow(1, 0, 2)), Some(&logits), 2, WIDTHS).knows(0));
    }

    #[test]
    fn what_is_known_of_a_row_stays_when_the_rest_is_filled_in() {
        let logits = Tensor::from_slice(&[1f32, 2.0]).view([1, 2]);
        let mut kept = Kept::read(None, Some(&logits), 1, WIDTHS);
        kept.complete(0, &[7.0, 8.0, 9.0, 9.0, 9.0]);
        let row = numbers(&kept.take(&[0]));
        assert!(row[..4] == [7.0, 8.0, 1.0, 2.0] && row[4].is_nan() && kept.knows(0));
    }

    #[test]
    fn an_answer_blends_into_what_was_known() {
        let mut kept = Kept::unknown(1, Widths { features: 0, classes: 2 });
        kept.set(0, Some(&[1.0, f32::NAN]));
        kept.blend(0, &[3.0, 5.0], 0.75);
        assert_eq!(numbers(&kept.take(&[0])), [1.5, 5.0]);
    }
}
