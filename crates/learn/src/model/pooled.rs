//! What is compared of a block's output: sums of its squares along some of its axes (Douillard et al., 2020).

use domain::pipeline::FeaturePooling;
use tch::{Kind, Tensor};

use super::normalised;

/// (rows, width), (rows, tokens, width) or (rows, channels, side, side) -> (rows, columns), each row divided by its norm.
///
/// A sequence is a map with one axis; tokens outside `mask` (rows, tokens) count nothing. A vector stays as it is.
pub fn pooled(x: &Tensor, mask: Option<&Tensor>, pooling: FeaturePooling) -> Tensor {
    let x = x.to_kind(Kind::Float);
    let sum = |x: &Tensor, axes: &[i64]| x.sum_dim_intlist(axes, false, Kind::Float).flatten(1, -1);
    let columns = match (x.dim(), pooling) {
        (2, _) => return normalised(&x),
        (_, FeaturePooling::Pixel) => shown(&x.square(), mask).flatten(1, -1),
        (3, FeaturePooling::Channel) => sum(&shown(&x.square(), mask), &[2]),
        (3, FeaturePooling::Gap) => mean(&shown(&x.square(), mask), mask),
        (3, FeaturePooling::Spatial) => sum(&shown(&x.square(), mask), &[1]),
        (_, FeaturePooling::Channel) => sum(&x.square(), &[1]),
        (_, FeaturePooling::Gap) => x.square().mean_dim(&[2i64, 3][..], false, Kind::Float),
        (_, FeaturePooling::Spatial) => {
            let squares = x.square();
            Tensor::cat(&[sum(&squares, &[3]), sum(&squares, &[2])], 1)
        }
    };
    normalised(&columns)
}

/// (rows, tokens, width), zero where nothing stands.
fn shown(x: &Tensor, mask: Option<&Tensor>) -> Tensor {
    mask.map_or_else(|| x.shallow_clone(), |mask| x * mask.unsqueeze(-1).to_kind(Kind::Float))
}

/// Over tokens that stand there.
fn mean(x: &Tensor, mask: Option<&Tensor>) -> Tensor {
    let sum = x.sum_dim_intlist(&[1i64][..], false, Kind::Float);
    match mask {
        Some(mask) => sum / mask.sum_dim_intlist(&[1i64][..], true, Kind::Float),
        None => sum / x.size()[1] as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(x: &Tensor) -> Vec<f32> {
        Vec::try_from(x.reshape([-1])).unwrap()
    }

    /// Before rows are divided by their norms.
    fn raw(x: &Tensor, pooling: FeaturePooling) -> Vec<f32> {
        let columns = numbers(&pooled(x, None, pooling));
        let scale = columns[0];
        columns.iter().map(|value| value / scale).collect()
    }

    fn near(found: &[f32], expected: &[f32]) -> bool {
        found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5)
    }

    #[test]
    fn a_map_is_summed_along_the_axes_that_are_named() {
        // One row, two channels of 2 × 2.
        let map = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 2.0]).view([1, 2, 2, 2]);
        assert_eq!(numbers(&pooled(&map, None, FeaturePooling::Pixel)).len(), 8);
        // Squares summed over channels: 1 4 9 20.
        assert!(near(&raw(&map, FeaturePooling::Channel), &[1.0, 4.0, 9.0, 20.0]));
        // Over channels' maps: 30 and 4.
        assert!(near(&raw(&map, FeaturePooling::Gap), &[1.0, 4.0 / 30.0]));
        // Rows 5 25 0 4, then columns 10 20 0 4.
        assert!(near(&raw(&map, FeaturePooling::Spatial), &[1.0, 5.0, 0.0, 0.8, 2.0, 4.0, 0.0, 0.8]));
    }

    #[test]
    fn padding_counts_nothing() {
        let words = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0, 9.0, 9.0]).view([1, 3, 2]);
        let mask = Tensor::from_slice(&[true, true, false]).view([1, 3]);
        for pooling in [FeaturePooling::Spatial, FeaturePooling::Gap] {
            assert_eq!(pooled(&words, Some(&mask), pooling), pooled(&words.narrow(1, 0, 2), None, pooling));
        }
    }

    #[test]
    fn rows_have_norm_one() {
        let map = Tensor::randn([3, 4, 5, 5], tch::kind::FLOAT_CPU);
        let norms = pooled(&map, None, FeaturePooling::Spatial).norm_scalaropt_dim(2.0, &[1i64][..], false);
        assert!((norms - 1.0).abs().max().double_value(&[]) < 1e-5);
    }
}
