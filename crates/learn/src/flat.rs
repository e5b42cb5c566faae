//! What trains, as one flat f32 buffer: one gradient to reduce, one tensor to step.
//!
//! Running statistics stand behind what descends, so that whatever keeps, averages or swaps values has them too.

use tch::Tensor;

use crate::model::norm;

/// Of a step's statistics in the running ones, as PyTorch has it.
const MOMENTUM: f64 = 0.1;

/// Named leaves whose storage is one buffer, in the order they were given, running statistics last.
pub struct Flat {
    pub values: Tensor,
    leaves: Vec<(String, Tensor)>,
    /// How many of the values have a gradient: all but running statistics.
    descending: i64,
}

/// What one learning pass measured.
pub struct Pass {
    pub rows: i64,
    /// Laid out as the running ones are; None where there are none.
    pub statistics: Option<Tensor>,
}

impl Flat {
    /// Moves the leaves into one buffer; whoever holds a shallow clone of one sees the same storage.
    pub fn over(leaves: Vec<(String, Tensor)>) -> Self {
        let _guard = tch::no_grad_guard();
        let (mut leaves, running): (Vec<_>, Vec<_>) = leaves.into_iter().partition(|(name, _)| !norm::is_running(name));
        let descending = leaves.iter().map(|(_, leaf)| leaf.numel() as i64).sum();
        leaves.extend(running);
        let rows: Vec<Tensor> = leaves.iter().map(|(_, leaf)| leaf.detach().reshape([-1])).collect();
        let values = Tensor::cat(&rows, 0);
        let mut start = 0;
        let leaves = leaves
            .into_iter()
            .map(|(name, mut leaf)| {
                let length = leaf.numel() as i64;
                leaf.set_data(&values.narrow(0, start, length).view(&leaf.size()[..]));
                start += length;
                (name, leaf.requires_grad_(start <= descending))
            })
            .collect();
        Self { values, leaves, descending }
    }

    pub fn named(&self) -> &[(String, Tensor)] {
        &self.leaves
    }

    /// The part of `all`, which is laid out as the values are, that has a gradient.
    pub fn descending(&self, all: &Tensor) -> Tensor {
        all.narrow(0, 0, self.descending)
    }

    /// The other part of it.
    pub fn running(&self, all: &Tensor) -> Tensor {
        all.narrow(0, self.descending, self.values.numel() as i64 - self.descending)
    }

    /// Where a learning pass leaves its statistics: those that it cannot measure stay the running ones.
    pub fn statistics(&self) -> Option<Tensor> {
        self.runs().then(|| self.running(&self.values).copy())
    }

    /// Whether there are running statistics.
    fn runs(&self) -> bool {
        self.descending < self.values.numel() as i64
    }

    /// (values + 1): `∂loss/∂values`, then the loss. With running statistics (values + 2): in their place what the passes
    /// measured, times their rows, and the passes' rows at the end. Touches no leaf's own `grad`.
    pub fn partial(&self, loss: &Tensor, passes: &[Pass]) -> Tensor {
        let leaves: Vec<&Tensor> =
            self.leaves.iter().map(|(_, leaf)| leaf).filter(|leaf| leaf.requires_grad()).collect();
        let gradients = Tensor::run_backward(&[loss], &leaves, false, false);
        let mut parts: Vec<Tensor> = gradients.iter().map(|g| g.reshape([-1])).collect();
        let loss = loss.detach().reshape([1]);
        match self.runs() {
            true => {
                let [statistics, rows] = self.weighed(passes);
                parts.extend([statistics, loss, rows]);
            }
            false => parts.push(loss),
        }
        Tensor::cat(&parts, 0)
    }

    /// The passes' statistics times their rows, and their rows.
    fn weighed(&self, passes: &[Pass]) -> [Tensor; 2] {
        let seen = passes.iter().filter_map(|pass| Some(pass.statistics.as_ref()? * pass.rows));
        let sum = seen.fold(self.running(&self.values).zeros_like(), |sum, one| sum + one);
        let rows: i64 = passes.iter().map(|pass| pass.rows).sum();
        [sum, Tensor::full([1], rows, (self.values.kind(), self.values.device()))]
    }

    /// The gradient (values) and the loss of a step whose partials add up to `sum`. In the place of running statistics
    /// stand the step's own.
    pub fn slope(&self, sum: &Tensor) -> (Tensor, f64) {
        let count = self.values.numel() as i64;
        let (gradient, loss) = (sum.narrow(0, 0, count), sum.double_value(&[count]));
        if self.runs() {
            let rows = sum.double_value(&[count + 1]);
            match rows > 0.0 {
                true => drop(self.running(&gradient).g_div_scalar_(rows)),
                // No row went through: they stay as they are.
                false => self.running(&gradient).copy_(&self.running(&self.values)),
            }
        }
        (gradient, loss)
    }

    /// Running statistics go on to those of a step.
    pub fn follow(&mut self, step: &Tensor) {
        if self.runs() {
            let _guard = tch::no_grad_guard();
            let _ = self.running(&self.values).lerp_(&self.running(step), MOMENTUM);
        }
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
        let length = self.values.numel() as i64 + if self.runs() { 2 } else { 1 };
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
