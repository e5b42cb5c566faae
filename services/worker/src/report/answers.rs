//! Calibration and flips as a table: a row an update of an arm.

use maud::{Markup, html};

use super::{Arm, key, percent};
use crate::scores::Answers;

/// Nothing where nothing is known.
pub fn section(arms: &[Arm]) -> Markup {
    if arms.iter().flat_map(|arm| &arm.answers).all(|of| *of == Answers::default()) {
        return html! {};
    }
    html! {
        section {
            h2 { "Calibration and flips" }
            p.note {
                "Over all held-out items that were measured, also those of tasks that have not trained yet, after each \
                 update. Calibration error: how far confidence and accuracy lie apart, \
                 in 15 bins. Negative flips: what the version before it got right and this one gets wrong, among all \
                 items (rate) and among its errors (impact); positive flips: the reverse, the impact among its right answers."
            }
            div.wide {
                table.plain {
                    thead { tr { @for column in COLUMNS { th scope="col" { (column) } } } }
                    tbody {
                        @for (number, arm) in arms.iter().enumerate() {
                            @for (update, answers) in arm.answers.iter().enumerate() { (row(number, arm, update, answers)) }
                        }
                    }
                }
            }
        }
    }
}

const COLUMNS: [&str; 8] = [
    "",
    "after",
    "calibration error",
    "Brier score",
    "negative flips, rate",
    "impact",
    "positive flips, rate",
    "impact",
];

fn row(number: usize, arm: &Arm, update: usize, answers: &Answers) -> Markup {
    let flips = answers.flips.as_ref();
    html! {
        tr {
            td { (key(number)) (arm.name) }
            td { (update + 1) " " @if let Some(task) = arm.tasks.get(update) { (task) } }
            td { (percent(answers.expected_calibration_error)) }
            td { (answers.brier_score.map_or_else(|| "–".to_owned(), |score| format!("{score:.3}"))) }
            td { (percent(flips.map(|of| of.negative_flip_rate))) }
            td { (percent(flips.map(|of| of.negative_flip_impact))) }
            td { (percent(flips.map(|of| of.positive_flip_rate))) }
            td { (percent(flips.map(|of| of.positive_flip_impact))) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::arm;
    use super::*;
    use domain::flips::Flips;

    #[test]
    fn a_row_holds_an_update_s_figures_and_nothing_known_is_no_section() {
        let mut told = arm("x", &[&[Some(0.5)], &[Some(0.6)]]);
        assert_eq!(section(std::slice::from_ref(&told)).into_string(), "");
        let flips = Flips { items: 200, negative: 10, positive: 20, right: 160 };
        let first = Answers { expected_calibration_error: Some(0.043), ..Answers::default() };
        let second = Answers { brier_score: Some(0.25), flips: Some(flips.into()), ..first };
        told.answers = vec![first, second];
        let page = section(&[told]).into_string();
        assert!(page.contains("<td>2 a&lt;b</td><td>4.3 %</td><td>0.250</td>"), "{page}");
        assert!(page.contains("<td>5.0 %</td><td>25.0 %</td><td>10.0 %</td><td>12.5 %</td>"), "{page}");
        assert!(page.contains("<td>1 plain</td><td>4.3 %</td><td>–</td><td>–</td>"), "{page}");
    }
}
