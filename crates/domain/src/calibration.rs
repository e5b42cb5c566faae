//! Whether a model's confidence can be believed.

use crate::matrix::mean;

/// Equal-width bins of confidence, as in Guo et al. (2017).
pub const BINS: usize = 15;

/// One answer of a classifier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    /// The probability of the class it chose, the highest of all.
    pub confidence: f64,
    pub right: bool,
}

impl Answer {
    /// None without classes. Of equally likely classes the first is chosen.
    pub fn of(probabilities: &[f64], label: usize) -> Option<Self> {
        let first_highest = |best: (usize, f64), next: (usize, f64)| if next.1 > best.1 { next } else { best };
        let (chosen, confidence) = probabilities.iter().copied().enumerate().reduce(first_highest)?;
        Some(Self { confidence, right: chosen == label })
    }
}

/// `Σ_b |B_b|/n · |accuracy(B_b) − confidence(B_b)|` over [`BINS`] bins (Guo et al., 2017); none without answers.
///
/// A bin holds its upper edge and not its lower one; the first holds 0 too.
pub fn expected_calibration_error(answers: &[Answer]) -> Option<f64> {
    let mut excess = [0.0; BINS];
    for answer in answers {
        excess[bin(answer.confidence)] += answer.confidence - right(answer);
    }
    let sum: f64 = excess.iter().map(|bin| bin.abs()).sum();
    (!answers.is_empty()).then(|| sum / answers.len() as f64)
}

fn bin(confidence: f64) -> usize {
    ((confidence * BINS as f64).ceil() as usize).clamp(1, BINS) - 1
}

fn right(answer: &Answer) -> f64 {
    f64::from(u8::from(answer.right))
}

/// Mean over answers of `(confidence − right)²`: the Brier score of "the answer is right", in `0..=1`.
pub fn confidence_brier(answers: &[Answer]) -> Option<f64> {
    mean(answers.iter().map(|answer| Some((answer.confidence - right(answer)).powi(2))))
}

/// Mean over items of `Σ_c (p_c − [c = label])²` (Brier, 1950), in `0..=2`; each item as (probabilities, label).
///
/// A label beyond the probabilities is a class that the model does not know yet, and gives probability 0 to.
pub fn brier<'a>(items: impl IntoIterator<Item = (&'a [f64], usize)>) -> Option<f64> {
    mean(items.into_iter().map(|(probabilities, label)| {
        let squares: f64 = probabilities.iter().map(|p| p * p).sum();
        let truth = probabilities.get(label).copied().unwrap_or(0.0);
        Some(squares - 2.0 * truth + 1.0)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::Draw;

    fn answer(confidence: f64, right: bool) -> Answer {
        Answer { confidence, right }
    }

    fn near(given: Option<f64>, wanted: f64) {
        assert!((given.unwrap() - wanted).abs() < 1e-12, "{given:?} {wanted}");
    }

    #[test]
    fn the_error_of_two_bins_worked_by_hand() {
        // 0.95 and 0.97 share the last bin: half are right of 0.96. 0.5 stands alone and is right.
        let answers = [answer(0.95, true), answer(0.97, false), answer(0.5, true)];
        near(expected_calibration_error(&answers), 2.0 / 3.0 * (0.96 - 0.5) + 1.0 / 3.0 * 0.5);
    }

    #[test]
    fn confidence_that_comes_true_has_no_error() {
        let answers: Vec<Answer> = (0..10).map(|i| answer(0.7, i < 7)).collect();
        near(expected_calibration_error(&answers), 0.0);
        near(expected_calibration_error(&[answer(1.0, true), answer(0.0, false)]), 0.0);
    }

    #[test]
    fn sure_and_always_wrong_is_the_worst() {
        let answers = [answer(1.0, false); 4];
        near(expected_calibration_error(&answers), 1.0);
        near(confidence_brier(&answers), 1.0);
    }

    #[test]
    fn a_bin_holds_its_upper_edge() {
        assert_eq!((bin(0.0), bin(1.0), bin(0.2), bin(0.2 + 1e-9)), (0, 14, 2, 3));
    }

    #[test]
    fn the_error_lies_between_the_gap_of_the_means_and_the_mean_gap() {
        for seed in 0..20 {
            let draw = |key| Draw::new(seed).at(key);
            let answers: Vec<Answer> =
                (0..200).map(|i| answer(draw(i).at(0).unit(), draw(i).at(1).unit() < 0.6)).collect();
            let gaps: Vec<f64> = answers.iter().map(|a| a.confidence - right(a)).collect();
            let over_all = (gaps.iter().sum::<f64>() / 200.0).abs();
            let each = gaps.iter().map(|gap| gap.abs()).sum::<f64>() / 200.0;
            let error = expected_calibration_error(&answers).unwrap();
            assert!(over_all <= error + 1e-12 && error <= each + 1e-12, "{over_all} {error} {each}");
        }
    }

    #[test]
    fn the_first_of_the_highest_probabilities_is_the_answer() {
        assert_eq!(Answer::of(&[0.2, 0.4, 0.4], 1), Some(answer(0.4, true)));
        assert_eq!(Answer::of(&[0.2, 0.4, 0.4], 2), Some(answer(0.4, false)));
        assert_eq!(Answer::of(&[], 0), None);
    }

    #[test]
    fn brier_scores_worked_by_hand() {
        near(brier([(&[0.7, 0.2, 0.1][..], 0)]), 0.09 + 0.04 + 0.01);
        near(brier([(&[1.0, 0.0][..], 0), (&[1.0, 0.0][..], 1)]), 1.0);
        near(confidence_brier(&[answer(0.7, true), answer(0.6, false)]), (0.09 + 0.36) / 2.0);
    }

    #[test]
    fn a_class_that_the_model_does_not_know_has_no_probability() {
        near(brier([(&[1.0, 0.0][..], 2)]), 2.0);
    }

    #[test]
    fn over_two_classes_brier_is_twice_that_of_the_confidence() {
        let items = [([0.9, 0.1], 0), ([0.3, 0.7], 0), ([0.45, 0.55], 1)];
        let answers: Vec<Answer> = items.iter().filter_map(|(p, label)| Answer::of(p, *label)).collect();
        let whole = brier(items.iter().map(|(p, label)| (&p[..], *label)));
        near(whole, 2.0 * confidence_brier(&answers).unwrap());
    }

    #[test]
    fn without_answers_there_is_no_score() {
        let items: [(&[f64], usize); 0] = [];
        assert_eq!((expected_calibration_error(&[]), confidence_brier(&[]), brier(items)), (None, None, None));
    }
}
