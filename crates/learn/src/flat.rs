//! What trains, as one flat f32 buffer: one gradient to reduce, one tensor to step.

use tch::Tensor;

/// Named leaves whose storage is one buffer, in the order they were given.
pub struct Flat {
    pub values: Tensor,
    leaves: Vec<(String, Tensor)>,
}

impl Flat {
    /// Moves the leaves into one buffer; whoever holds a shallow clone of one sees the same storage.
    pub fn over(leaves: Vec<(String, Tensor)>) -> Self {
        let _guard = tch::no_grad_guard();
        let rows: Vec<Tensor> = leaves.iter().map(|(_, leaf)| leaf.detach().reshape([-1])).collect();
        let values = Tensor::cat(&rows, 0);
        let mut start = 0;
        let leaves = leaves
            .into_iter()
            .map(|(name, mut leaf)| {
                let length = leaf.numel() as i64;
                leaf.set_data(&values.narrow(0, start, length).view(&leaf.size()[..]));
                start += length;
                (name, leaf.requires_grad_(true))
            })
            .collect();
        Self { values, leaves }
    }

    pub fn named(&self) -> &[(String, Tensor)] {
        &self.leaves
    }

    /// (values + 1): `∂loss/∂values`, then the loss itself. Touches no leaf's own `grad`.
    pub fn partial(&self, loss: &Tensor) -> Tensor {
        let leaves: Vec<&Tensor> = self.leaves.iter().map(|(_, leaf)| leaf).collect();
        let gradients = Tensor::run_backward(&[loss], &leaves, false, false);
        let mut rows: Vec<Tensor> = gradients.iter().map(|g| g.reshape([-1])).collect();
        rows.push(loss.detach().reshape([1]));
        Tensor::cat(&rows, 0)
    }

    /// What `ask` returns while the leaves hold `values`, without gradient.
    pub fn with<T>(&self, values: &Tensor, ask: impl FnOnce() -> T) -> T {
        let _guard = tch::no_grad_guard();
        let mut own = self.values.shallow_clone();
        let kept = own.copy();
        own.copy_(values);
        let answer = ask();
        own.copy_(&kept);
        answer
    }

    /// A tensor laid out as the values are, leaf by leaf.
    pub fn split(&self, values: &Tensor) -> Vec<(String, Tensor)> {
        let mut start = 0;
        let part = |(name, leaf): &(String, Tensor)| {
            let length = leaf.numel() as i64;
            start += length;
            (name.clone(), values.narrow(0, start - length, length).view(&leaf.size()[..]))
        };
        self.leaves.iter().map(part).collect()
    }

    /// The other way; NaN in rows that a leaf has gained since. None if a part is missing or has another shape.
    pub fn join(&self, part: impl Fn(&str) -> Option<Tensor>) -> Option<Tensor> {
        let parts = self.leaves.iter().map(|(name, leaf)| Some(grown(&part(name)?, leaf)?.reshape([-1])));
        Some(Tensor::cat(&parts.collect::<Option<Vec<_>>>()?, 0).to_device(self.values.device()))
    }

    /// The partial of a micro-batch without rows.
    pub fn nothing(&self) -> Tensor {
        let length = self.values.numel() as i64 + 1;
        Tensor::zeros([length], (self.values.kind(), self.values.device()))
    }
}

/// `part` with the rows that it lacks of `leaf`'s as NaN; None if it is not made of `leaf`'s first rows.
fn grown(part: &Tensor, leaf: &Tensor) -> Option<Tensor> {
    let (mut missing, known) = (leaf.size(), part.size());
    if missing == known {
        return Some(part.shallow_clone());
    }
    if missing.len() != known.len() || missing[1..] != known[1..] || missing[0] < known[0] {
        return None;
    }
    missing[0] -= known[0];
    let new = Tensor::full(&missing[..], f64::NAN, (part.kind(), part.device()));
    Some(Tensor::cat(&[part, &new], 0))
}
