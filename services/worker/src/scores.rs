//! Figures over several runs of the same stream.

use domain::calibration::Calibration;
use domain::flips::{Figures, Flips};
use domain::matrix::AccuracyMatrix;
use serde::Serialize;

use crate::bench::flags::percent;

/// A figure over seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub mean: Option<f64>,
    /// Sample standard deviation; none for one value.
    pub std: Option<f64>,
}

impl Spread {
    pub fn over(values: impl Iterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.collect();
        let n = values.len() as f64;
        if values.is_empty() {
            return Self { mean: None, std: None };
        }
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let std = (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
        Self { mean: Some(mean), std }
    }

    /// `83.1 ± 0.4`
    pub fn percent(&self) -> String {
        match self.std {
            Some(std) => format!("{} ± {}", percent(self.mean), percent(Some(std))),
            None => percent(self.mean),
        }
    }
}

/// What became of single answers, and whether they were as sure as they are right. Field names are JSON keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Answers {
    pub expected_calibration_error: Option<f64>,
    pub brier_score: Option<f64>,
    /// None: there was no version before to flip from.
    pub flips: Option<Figures>,
}

impl Answers {
    pub fn new(calibration: Option<&Calibration>, flips: Option<Flips>) -> Self {
        Self {
            expected_calibration_error: calibration.and_then(Calibration::expected_error),
            brier_score: calibration.and_then(Calibration::brier_score),
            flips: flips.map(Figures::from),
        }
    }

    pub fn negative_flip_rate(&self) -> Option<f64> {
        self.flips.map(|flips| flips.negative_flip_rate)
    }

    pub fn positive_flip_rate(&self) -> Option<f64> {
        self.flips.map(|flips| flips.positive_flip_rate)
    }
}

/// Cell by cell; a cell that any run lacks has no mean.
pub fn mean_matrix(matrices: &[&AccuracyMatrix]) -> AccuracyMatrix {
    let cell = |update: usize, task: usize| -> Option<f64> {
        let cells = matrices.iter().map(|matrix| *matrix.rows.get(update)?.get(task)?);
        Some(cells.sum::<Option<f64>>()? / matrices.len() as f64)
    };
    let shape = matrices.first().map_or(&[][..], |matrix| &matrix.rows[..]);
    let rows = shape.iter().enumerate().map(|(update, row)| (0..row.len()).map(|task| cell(update, task)).collect());
    AccuracyMatrix::of_stream(rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deviation_is_that_of_a_sample() {
        let spread = Spread::over([0.1, 0.2, 0.3].into_iter());
        assert!((spread.mean.unwrap() - 0.2).abs() < 1e-12 && (spread.std.unwrap() - 0.1).abs() < 1e-12);
        assert_eq!(spread.percent(), "20.0 ± 10.0");
        assert_eq!(Spread::over([0.5].into_iter()), Spread { mean: Some(0.5), std: None });
    }

    #[test]
    fn a_mean_matrix_keeps_what_nobody_measured_empty() {
        let a = AccuracyMatrix::of_stream(vec![vec![Some(0.5), None], vec![Some(0.2), Some(1.0)]]);
        let b = AccuracyMatrix::of_stream(vec![vec![Some(0.7), None], vec![Some(0.4), Some(0.8)]]);
        let mean = mean_matrix(&[&a, &b]);
        assert_eq!(mean.rows[0][1], None);
        assert!((mean.rows[0][0].unwrap() - 0.6).abs() < 1e-12 && (mean.rows[1][1].unwrap() - 0.9).abs() < 1e-12);
    }
}
