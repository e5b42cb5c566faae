//! What a model makes of rows that nobody has labelled.

use domain::chunk::Row;
use tch::{Device, Kind, Tensor};

use crate::data::Reader;
use crate::input::Input;
use crate::model::Net;

/// A row that this model cannot read.
#[derive(Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Among the rows that were given.
    pub position: usize,
    pub reason: String,
}

/// Each row's probabilities in the order of the head's rows. Where tasks have heads, a row of `task` has none of the others'
/// labels. `batch` bounds memory; it changes a probability by rounding only.
pub fn predict(
    net: &Net,
    reader: &Reader,
    rows: &[Row],
    task: Option<&str>,
    batch: usize,
    device: Device,
) -> Result<Vec<Vec<f32>>, Unreadable> {
    each(reader, rows, batch, device, |input| net.answer_within(input, task).softmax(-1, Kind::Float))
}

/// Each row's pooled features. `batch` as for [`predict`].
pub fn features(
    net: &Net,
    reader: &Reader,
    rows: &[Row],
    batch: usize,
    device: Device,
) -> Result<Vec<Vec<f32>>, Unreadable> {
    each(reader, rows, batch, device, |input| net.features(input).to_kind(Kind::Float))
}

/// What `look` makes of each row. Rows are read in the order in which little is padded, and answered in their own.
fn each(
    reader: &Reader,
    rows: &[Row],
    batch: usize,
    device: Device,
    look: impl Fn(&Input) -> Tensor,
) -> Result<Vec<Vec<f32>>, Unreadable> {
    let _guard = tch::no_grad_guard();
    // Images are all of one size. Decoding more than a batch of them would only take memory.
    let window = if matches!(reader, Reader::Images(_)) { batch } else { rows.len().max(1) };
    let mut found = vec![Vec::new(); rows.len()];
    for (number, rows) in rows.chunks(window).enumerate() {
        let start = number * window;
        let refused = |(position, reason)| Unreadable { position: start + position, reason };
        let dataset = reader.decode_inputs(rows).map_err(refused)?.to_device(device);
        for positions in dataset.reading_order().chunks(batch) {
            let (input, _) = dataset.take(positions);
            for (position, row) in positions.iter().zip(split(&look(&reader.apply(input)))) {
                found[start + *position as usize] = row;
            }
        }
    }
    Ok(found)
}

fn split(probabilities: &Tensor) -> Vec<Vec<f32>> {
    Vec::try_from(probabilities.to_device(Device::Cpu)).expect("a matrix of floats")
}

/// The positions of the `top` highest scores, highest first; of equal ones the earlier label is first.
pub fn best(scores: &[f32], top: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order.truncate(top);
    order
}

#[cfg(test)]
mod tests {
    use super::best;

    #[test]
    fn the_best_come_first_and_equal_ones_in_the_order_of_labels() {
        assert_eq!(best(&[0.1, 0.4, 0.1, 0.4], 3), [1, 3, 0]);
        assert_eq!(best(&[0.5], 9), [0]);
    }
}
