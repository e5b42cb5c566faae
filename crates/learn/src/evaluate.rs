//! Scores a model on frozen items.

use tch::{Kind, Reduction, Tensor};

use crate::data::{Dataset, Reader};
use crate::model::Net;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scored {
    pub items: u64,
    pub correct: u64,
    /// Mean cross-entropy, nats.
    pub loss: f64,
}

/// `batch` bounds memory; it changes the loss by rounding only. `done` counts the rows scored so far.
pub fn evaluate(net: &Net, dataset: &Dataset, reader: &Reader, batch: usize, done: &mut dyn FnMut(u64)) -> Scored {
    let _guard = tch::no_grad_guard();
    let items = dataset.len();
    let (mut correct, mut loss, mut scored) = (0, 0.0, 0);
    for rows in dataset.reading_order().chunks(batch) {
        let (rows, labels) = dataset.take(rows);
        let logits = net.answer(&reader.apply(rows));
        correct += logits.argmax(-1, false).eq_tensor(&labels).sum(Kind::Int64).int64_value(&[]);
        let sum = logits.cross_entropy_loss(&labels, None::<&Tensor>, Reduction::Sum, -100, 0.0);
        loss += sum.double_value(&[]);
        scored += labels.numel() as u64;
        done(scored);
    }
    Scored { items: items as u64, correct: correct as u64, loss: loss / items.max(1) as f64 }
}
