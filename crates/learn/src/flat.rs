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

    /// The partial of a micro-batch without rows.
    pub fn nothing(&self) -> Tensor {
        let length = self.values.numel() as i64 + 1;
        Tensor::zeros([length], (self.values.kind(), self.values.device()))
    }
}
