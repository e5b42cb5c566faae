//! What an update changed, item by item: which answers it mended and which it broke.
//!
//! Two models of equal accuracy can disagree on many items, and users notice what used to work. Definitions as in
//! Renate (Zappella et al., 2023) and Yan et al. (2021).

use std::iter::Sum;

use serde::{Deserialize, Serialize};

/// The answers of an old and a new model on the same items, counted. A share of nothing is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flips {
    pub items: u64,
    /// The old model was right, the new one is wrong.
    pub negative: u64,
    /// The old model was wrong, the new one is right.
    pub positive: u64,
    /// Items that the new model gets right, flipped or not.
    pub right: u64,
}

impl Flips {
    /// Each item as (was the old model right, is the new one).
    pub fn between(items: impl IntoIterator<Item = (bool, bool)>) -> Self {
        let mut flips = Self::default();
        for (old, new) in items {
            flips.items += 1;
            flips.negative += u64::from(old && !new);
            flips.positive += u64::from(!old && new);
            flips.right += u64::from(new);
        }
        flips
    }

    /// NFR: negative flips among all items.
    pub fn negative_rate(&self) -> f64 {
        share(self.negative, self.items)
    }

    /// NFI: negative flips among the new model's errors.
    pub fn negative_impact(&self) -> f64 {
        share(self.negative, self.items - self.right)
    }

    /// PFR: positive flips among all items.
    pub fn positive_rate(&self) -> f64 {
        share(self.positive, self.items)
    }

    /// PFI: positive flips among what the new model gets right.
    pub fn positive_impact(&self) -> f64 {
        share(self.positive, self.right)
    }
}

impl Sum for Flips {
    fn sum<I: Iterator<Item = Flips>>(parts: I) -> Self {
        parts.fold(Self::default(), |all, part| Self {
            items: all.items + part.items,
            negative: all.negative + part.negative,
            positive: all.positive + part.positive,
            right: all.right + part.right,
        })
    }
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// As results show it: field names are JSON keys, which scripts rely on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    pub items: u64,
    pub negative_flip_rate: f64,
    pub negative_flip_impact: f64,
    pub positive_flip_rate: f64,
    pub positive_flip_impact: f64,
}

impl From<Flips> for Figures {
    fn from(flips: Flips) -> Self {
        Self {
            items: flips.items,
            negative_flip_rate: flips.negative_rate(),
            negative_flip_impact: flips.negative_impact(),
            positive_flip_rate: flips.positive_rate(),
            positive_flip_impact: flips.positive_impact(),
        }
    }
}

/// Which items of a set a model gets right: a bit an item, the first item's the lowest of the first byte. As text,
/// hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Right(Vec<u8>);

impl Right {
    pub fn iter(&self) -> impl Iterator<Item = bool> {
        self.0.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1))
    }
}

impl FromIterator<bool> for Right {
    fn from_iter<I: IntoIterator<Item = bool>>(items: I) -> Self {
        let mut bytes = Vec::new();
        for (position, right) in items.into_iter().enumerate() {
            if position % 8 == 0 {
                bytes.push(0);
            }
            bytes[position / 8] |= u8::from(right) << (position % 8);
        }
        Self(bytes)
    }
}

impl From<Right> for String {
    fn from(right: Right) -> String {
        hex::encode(right.0)
    }
}

impl TryFrom<String> for Right {
    type Error = hex::FromHexError;
    fn try_from(text: String) -> Result<Self, hex::FromHexError> {
        hex::decode(text).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::Draw;

    fn near(given: f64, wanted: f64) {
        assert!((given - wanted).abs() < 1e-12, "{given} {wanted}");
    }

    #[test]
    fn the_rates_and_impacts_of_ten_items_counted_by_hand() {
        let of = |count, old, new| std::iter::repeat_n((old, new), count);
        let items = of(4, true, true).chain(of(1, true, false)).chain(of(3, false, true)).chain(of(2, false, false));
        let flips = Flips::between(items);
        near(flips.negative_rate(), 0.1);
        near(flips.negative_impact(), 1.0 / 3.0);
        near(flips.positive_rate(), 0.3);
        near(flips.positive_impact(), 3.0 / 7.0);
    }

    #[test]
    fn negative_less_positive_rate_is_what_accuracy_fell_by() {
        for seed in 0..50 {
            let right = |model: u64, item: u64| Draw::new(seed).at(model).at(item).below(3) > model;
            let items: Vec<(bool, bool)> = (0..97).map(|item| (right(0, item), right(1, item))).collect();
            let accuracy = |right: &dyn Fn(&(bool, bool)) -> bool| {
                items.iter().filter(|item| right(item)).count() as f64 / items.len() as f64
            };
            let flips = Flips::between(items.iter().copied());
            let fall = accuracy(&|item| item.0) - accuracy(&|item| item.1);
            near(flips.negative_rate() - flips.positive_rate(), fall);
        }
    }

    #[test]
    fn a_new_model_without_errors_has_no_negative_impact() {
        let flips = Flips::between([(true, true), (false, true)]);
        assert_eq!((flips.negative_rate(), flips.negative_impact()), (0.0, 0.0));
        assert_eq!(flips.positive_impact(), 0.5);
    }

    #[test]
    fn a_new_model_that_gets_nothing_right_has_no_positive_impact() {
        let flips = Flips::between([(true, false), (false, false)]);
        assert_eq!((flips.positive_rate(), flips.positive_impact()), (0.0, 0.0));
        assert_eq!((flips.negative_rate(), flips.negative_impact()), (0.5, 0.5));
    }

    #[test]
    fn flips_of_parts_add_up() {
        let items: Vec<(bool, bool)> = (0..90u64).map(|i| (i % 3 == 0, i % 4 == 0)).collect();
        let parts: Flips = items.chunks(13).map(|part| Flips::between(part.iter().copied())).sum();
        assert_eq!(parts, Flips::between(items));
    }

    #[test]
    fn which_items_are_right_reads_back() {
        for length in [0, 1, 7, 8, 9, 500] {
            let items: Vec<bool> = (0..length).map(|item| Draw::new(1).at(item).below(2) == 1).collect();
            let right: Right = items.iter().copied().collect();
            let read: Right = serde_json::from_str(&serde_json::to_string(&right).unwrap()).unwrap();
            assert_eq!(read.iter().take(items.len()).collect::<Vec<_>>(), items);
            assert!(read.iter().skip(items.len()).all(|right| !right));
        }
        assert_eq!(String::from([true, false, false, true].into_iter().collect::<Right>()), "09");
        assert!(serde_json::from_str::<Right>("\"0g\"").is_err());
    }

    #[test]
    fn nothing_flips_between_a_model_and_itself_or_without_items() {
        for items in [vec![], vec![(true, true), (false, false)]] {
            let flips = Flips::between(items);
            let figures =
                [flips.negative_rate(), flips.negative_impact(), flips.positive_rate(), flips.positive_impact()];
            assert_eq!(figures, [0.0; 4]);
        }
    }
}
