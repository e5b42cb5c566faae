//! Which rows are held-out items: what measures a model must not have taught it.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::chunk::Payload;
use crate::pipeline::Contamination;

/// Words that two texts have in a row before that is no accident (Brown et al., 2020, appendix C).
const RUN: usize = 13;

/// Held-out items, to compare rows with.
pub struct HeldOut {
    prints: HashSet<[u8; 32]>,
    runs: HashSet<u64>,
}

impl HeldOut {
    /// `check` is not [`Contamination::Off`], or nothing is found.
    pub fn new<'a>(items: impl IntoIterator<Item = &'a Payload>, check: Contamination) -> Self {
        let mut held_out = Self { prints: HashSet::new(), runs: HashSet::new() };
        if check == Contamination::Off {
            return held_out;
        }
        for item in items {
            held_out.prints.insert(item.fingerprint());
            if let (Payload::Text(text), Contamination::Overlap) = (item, check) {
                held_out.runs.extend(runs(text));
            }
        }
        held_out
    }

    /// Whether the row is an item, or at least half of its runs of 13 words occur in items.
    pub fn has(&self, row: &Payload) -> bool {
        if self.prints.is_empty() {
            return false;
        }
        if self.prints.contains(&row.fingerprint()) {
            return true;
        }
        let Payload::Text(text) = row else { return false };
        let (mut all, mut known) = (0, 0);
        for run in runs(text).filter(|_| !self.runs.is_empty()) {
            all += 1;
            known += usize::from(self.runs.contains(&run));
        }
        known > 0 && 2 * known >= all
    }
}

/// A hash of every 13 words in a row; none of a shorter text.
fn runs(text: &str) -> impl Iterator<Item = u64> {
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    let hash = |run: &[String]| {
        // Of fixed keys: the same on every rank.
        let mut hasher = DefaultHasher::new();
        run.hash(&mut hasher);
        hasher.finish()
    };
    words.windows(RUN).map(hash).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(words: std::ops::Range<usize>) -> String {
        words.map(|word| format!("Word{word}")).collect::<Vec<_>>().join(" ")
    }

    fn of(texts: &[String], check: Contamination) -> HeldOut {
        let items: Vec<Payload> = texts.iter().cloned().map(Payload::Text).collect();
        HeldOut::new(&items, check)
    }

    fn has(held_out: &HeldOut, text: &str) -> bool {
        held_out.has(&Payload::Text(text.to_owned()))
    }

    #[test]
    fn an_item_is_known_in_whatever_spelling() {
        let held_out = of(&["Where is my card?".to_owned()], Contamination::Equal);
        assert!(has(&held_out, "  where IS\tmy card? ") && !has(&held_out, "where is my card"));
        let image = Payload::Image(vec![1, 2, 3]);
        let held_out = HeldOut::new([&image], Contamination::Overlap);
        assert!(held_out.has(&image) && !held_out.has(&Payload::Image(vec![1, 2])));
    }

    #[test]
    fn a_text_that_is_mostly_an_item_is_one_and_a_shared_footer_is_not() {
        let held_out = of(&[text(0..100)], Contamination::Overlap);
        assert!(has(&held_out, &format!("{} and more", text(20..60)).to_uppercase()));
        let footer = text(80..100);
        assert!(!has(&held_out, &format!("{} {footer}", text(200..260))));
        assert!(!has(&held_out, &text(0..12)), "too short to tell, and no item");
        assert!(!has(&of(&[text(0..100)], Contamination::Equal), &text(20..60)));
    }

    #[test]
    fn nothing_is_held_out_where_nobody_asks() {
        assert!(!has(&of(&["a".to_owned()], Contamination::Off), "a"));
    }
}
