//! Random projection by count sketch (Charikar, Chen and Farach-Colton, 2002): each value is added, with a random sign, to
//! one of a few sums. `⟨Ru, Rv⟩` is `⟨u, v⟩` on average, and deviates by about `‖u‖‖v‖/√columns`.

use domain::draw::Draw;
use rayon::prelude::*;
use tch::{Kind, Tensor};

pub struct Sketch {
    /// (values): the sum that each value goes to, and its sign.
    places: Tensor,
    signs: Tensor,
    columns: i64,
}

impl Sketch {
    pub fn new(values: usize, columns: i64, draw: Draw) -> Self {
        let drawn = |value: usize| {
            let draw = draw.at(value as u64);
            (draw.below(columns as u64) as i64, if draw.bits() & 1 == 0 { 1f32 } else { -1.0 })
        };
        let (places, signs): (Vec<i64>, Vec<f32>) = (0..values).into_par_iter().map(drawn).unzip();
        Self { places: Tensor::from_slice(&places), signs: Tensor::from_slice(&signs), columns }
    }

    /// (values) -> (columns)
    pub fn of(&self, vector: &Tensor) -> Tensor {
        let vector = vector.to_device(tch::Device::Cpu).to_kind(Kind::Float) * &self.signs;
        Tensor::zeros([self.columns], tch::kind::FLOAT_CPU).index_add(0, &self.places, &vector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::layers::Init;

    #[test]
    fn products_are_right_on_average_and_deviate_less_with_more_columns() {
        let [u, v] = ["u", "v"].map(|name| Init::Normal(1.0).draw(1, name, &[2000]));
        let norms = (u.norm() * v.norm()).double_value(&[]);
        let exact = u.dot(&v).double_value(&[]);
        let deviation = |columns: i64| {
            let errors: Vec<f64> = (0..200)
                .map(|seed| {
                    let sketch = Sketch::new(2000, columns, Draw::new(seed));
                    (sketch.of(&u).dot(&sketch.of(&v)).double_value(&[]) - exact) / norms
                })
                .collect();
            let mean = errors.iter().sum::<f64>() / 200.0;
            assert!(mean.abs() < 4.0 / (200.0 * columns as f64).sqrt(), "{mean}");
            (errors.iter().map(|error| error * error).sum::<f64>() / 200.0).sqrt()
        };
        let (few, many) = (deviation(16), deviation(256));
        assert!((few * 4.0 - 1.0).abs() < 0.25 && (many * 16.0 - 1.0).abs() < 0.25, "{few} {many}");
    }
}
