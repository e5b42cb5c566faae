//! Whether a model's confidence can be believed.

use std::iter::Sum;

use serde::{Deserialize, Serialize};

/// Equal-width bins of confidence, as in Guo et al. (2017).
pub const BINS: usize = 15;

/// One answer of a classifier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    /// The probability of the class it chose, the highest of all.
    pub confidence: f64,
    pub right: bool,
    /// `Σ_c (p_c − [c = label])²` (Brier, 1950), in `0..=2`.
    pub brier: f64,
}

impl Answer {
    /// None without classes. Of equally likely classes the first is chosen.
    ///
    /// A label beyond the probabilities is a class that the model does not know yet, and gives probability 0 to.
    pub fn of(probabilities: &[f64], label: usize) -> Option<Self> {
        let first_highest = |best: (usize, f64), next: (usize, f64)| if next.1 > best.1 { next } else { best };
        let (chosen, confidence) = probabilities.iter().copied().enumerate().reduce(first_highest)?;
        let squares: f64 = probabilities.iter().map(|p| p * p).sum();
        let truth = probabilities.get(label).copied().unwrap_or(0.0);
        Some(Self { confidence, right: chosen == label, brier: squares - 2.0 * truth + 1.0 })
    }
}

/// Answers to some items, as far as calibration asks. Those to more items add up.
///
/// Sums are whole numbers of 2⁻³², finer than the f32 that confidences come from, so that no order of items or parts
/// changes a bit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calibration {
    pub items: u64,
    /// `Σ (confidence − right)` over the answers of each of the [`BINS`] bins. A bin holds its upper edge and not its lower
    /// one; the first holds 0 too.
    excess: [i64; BINS],
    /// Sum over items.
    brier: i64,
}

/// One, in the units of the sums.
const ONE: f64 = (1u64 << 32) as f64;

impl Calibration {
    /// None where any answer was made of NaN.
    pub fn of(answers: impl IntoIterator<Item = Answer>) -> Option<Self> {
        let mut all = Self::default();
        for Answer { confidence, right, brier } in answers {
            let excess = confidence - f64::from(u8::from(right));
            all.items += 1;
            all.excess[bin(confidence)] += units(excess)?;
            all.brier += units(brier)?;
        }
        Some(all)
    }

    /// `Σ_b |B_b|/n · |accuracy(B_b) − confidence(B_b)|` (Guo et al., 2017); none without answers.
    pub fn expected_error(&self) -> Option<f64> {
        self.mean(self.excess.iter().map(|bin| bin.abs()).sum())
    }

    /// Mean over items of each answer's; none without answers.
    pub fn brier_score(&self) -> Option<f64> {
        self.mean(self.brier)
    }

    fn mean(&self, sum: i64) -> Option<f64> {
        (self.items > 0).then(|| sum as f64 / ONE / self.items as f64)
    }
}

fn units(value: f64) -> Option<i64> {
    value.is_finite().then(|| (value * ONE).round() as i64)
}

impl<'a> Sum<&'a Calibration> for Calibration {
    fn sum<I: Iterator<Item = &'a Calibration>>(parts: I) -> Self {
        let mut all = Self::default();
        for part in parts {
            all.items += part.items;
            all.excess.iter_mut().zip(&part.excess).for_each(|(sum, excess)| *sum += excess);
            all.brier += part.brier;
        }
        all
    }
}

fn bin(confidence: f64) -> usize {
    ((confidence * BINS as f64).ceil() as usize).clamp(1, BINS) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::Draw;

    fn answer(confidence: f64, right: bool) -> Answer {
        Answer { confidence, right, brier: 0.0 }
    }

    fn whole(answers: &[Answer]) -> Calibration {
        Calibration::of(answers.iter().copied()).unwrap()
    }

    fn error(answers: &[Answer]) -> Option<f64> {
        whole(answers).expected_error()
    }

    fn brier(items: &[(&[f64], usize)]) -> Option<f64> {
        Calibration::of(items.iter().filter_map(|(p, label)| Answer::of(p, *label))).unwrap().brier_score()
    }

    fn near(given: Option<f64>, wanted: f64) {
        assert!((given.unwrap() - wanted).abs() < 1e-9, "{given:?} {wanted}");
    }

    #[test]
    fn the_error_of_two_bins_worked_by_hand() {
        // 0.95 and 0.97 share the last bin: half are right of 0.96. 0.5 stands alone and is right.
        let answers = [answer(0.95, true), answer(0.97, false), answer(0.5, true)];
        near(error(&answers), 2.0 / 3.0 * (0.96 - 0.5) + 1.0 / 3.0 * 0.5);
    }

    #[test]
    fn confidence_that_comes_true_has_no_error() {
        let answers: Vec<Answer> = (0..10).map(|i| answer(0.7, i < 7)).collect();
        near(error(&answers), 0.0);
        near(error(&[answer(1.0, true), answer(0.0, false)]), 0.0);
    }

    #[test]
    fn sure_and_always_wrong_is_the_worst() {
        near(error(&[answer(1.0, false); 4]), 1.0);
        near(brier(&[(&[1.0, 0.0], 1)]), 2.0);
    }

    #[test]
    fn a_bin_holds_its_upper_edge() {
        assert_eq!((bin(0.0), bin(1.0), bin(0.2), bin(0.2 + 1e-9)), (0, 14, 2, 3));
    }

    #[test]
    fn the_error_lies_between_the_gap_of_the_means_and_the_mean_gap() {
        for seed in 0..20 {
            let answers = drawn(seed);
            let gaps: Vec<f64> = answers.iter().map(|a| a.confidence - f64::from(u8::from(a.right))).collect();
            let over_all = (gaps.iter().sum::<f64>() / 200.0).abs();
            let each = gaps.iter().map(|gap| gap.abs()).sum::<f64>() / 200.0;
            let error = error(&answers).unwrap();
            assert!(over_all <= error + 1e-9 && error <= each + 1e-9, "{over_all} {error} {each}");
        }
    }

    fn drawn(seed: u64) -> Vec<Answer> {
        let draw = |key| Draw::new(seed).at(key);
        let answer = |i| Answer {
            confidence: draw(i).at(0).unit(),
            right: draw(i).at(1).unit() < 0.6,
            brier: 2.0 * draw(i).at(2).unit(),
        };
        (0..200).map(answer).collect()
    }

    #[test]
    fn parts_in_any_order_add_up_to_the_same_bits() {
        let mut answers = drawn(3);
        let all = whole(&answers);
        let mut parts: Vec<Calibration> = answers.chunks(37).map(whole).collect();
        parts.reverse();
        assert_eq!(parts.iter().sum::<Calibration>(), all);
        answers.sort_by(|a, b| a.brier.total_cmp(&b.brier));
        assert_eq!(whole(&answers), all);
    }

    #[test]
    fn errors_of_opposite_sign_in_one_bin_cancel_over_all_but_not_part_by_part() {
        let parts = [answer(0.94, true), answer(0.95, false)].map(|part| whole(&[part]));
        near(parts.iter().sum::<Calibration>().expected_error(), (0.95 - 0.06) / 2.0);
    }

    #[test]
    fn the_first_of_the_highest_probabilities_is_the_answer() {
        let answered = |label| Answer::of(&[0.2, 0.4, 0.4], label).map(|a| (a.confidence, a.right));
        assert_eq!((answered(1), answered(2)), (Some((0.4, true)), Some((0.4, false))));
        assert_eq!(Answer::of(&[], 0), None);
    }

    #[test]
    fn brier_scores_worked_by_hand() {
        near(brier(&[(&[0.7, 0.2, 0.1], 0)]), 0.09 + 0.04 + 0.01);
        near(brier(&[(&[1.0, 0.0], 0), (&[1.0, 0.0], 1)]), 1.0);
    }

    #[test]
    fn a_class_that_the_model_does_not_know_has_no_probability() {
        near(brier(&[(&[1.0, 0.0], 2)]), 2.0);
    }

    #[test]
    fn over_two_classes_brier_is_twice_the_square_of_confidence_less_right() {
        for (p, label) in [([0.9, 0.1], 0), ([0.3, 0.7], 0), ([0.45, 0.55], 1)] {
            let answer = Answer::of(&p, label).unwrap();
            near(Some(answer.brier), 2.0 * (answer.confidence - f64::from(u8::from(answer.right))).powi(2));
        }
    }

    #[test]
    fn without_answers_there_is_no_score_and_with_nan_no_calibration() {
        let none = Calibration::default();
        assert_eq!((none.expected_error(), none.brier_score()), (None, None));
        assert_eq!(Calibration::of(Answer::of(&[f64::NAN, f64::NAN], 0)), None);
    }
}
