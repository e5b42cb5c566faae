//! An accuracy matrix as a table whose cells are tinted by their value.
//!
//! A table rather than a picture: figures can be copied, searched and read aloud.

use maud::{Markup, html};

use super::Arm;

/// Accuracies from which a cell is so far towards `--hi` that text on it must change its colour: in
/// the light theme, and in the dark one. See `style.css`.
const DEEP: f64 = 0.8;
const MIDDLE: f64 = 0.65;
/// Bends the tint, so that high accuracies are easier to tell apart.
const BEND: f64 = 1.4;

pub fn table(arm: &Arm) -> Markup {
    html! {
        div.wide {
            table.heat {
                thead {
                    tr {
                        th scope="col" { "after" }
                        @for task in &arm.tasks { th scope="col" title=(task) { (task) } }
                    }
                }
                tbody {
                    @for (update, row) in arm.matrix.rows.iter().enumerate() {
                        tr {
                            th scope="row" { (update + 1) " " @if let Some(task) = arm.tasks.get(update) { (task) } }
                            @for (task, value) in row.iter().enumerate() { (cell(*value, task == update)) }
                        }
                    }
                }
            }
        }
    }
}

fn cell(value: Option<f64>, just_learned: bool) -> Markup {
    let Some(value) = value else {
        return html! { td.none title="not measured" { "·" } };
    };
    let tint = value.clamp(0.0, 1.0).powf(BEND);
    let classes =
        [(value >= DEEP).then_some("deep"), (value >= MIDDLE).then_some("middle"), just_learned.then_some("new")];
    let classes = classes.into_iter().flatten().collect::<Vec<_>>().join(" ");
    html! { td class=(classes) style={ "--v:" (format!("{tint:.3}")) } { (format!("{:.1}", 100.0 * value)) } }
}

#[cfg(test)]
mod tests {
    use super::super::tests::arm;
    use super::*;

    #[test]
    fn cells_hold_their_value_and_gaps_say_so() {
        let page = table(&arm("x", &[&[Some(0.5), None], &[Some(0.4), Some(1.0)]])).into_string();
        assert!(page.contains(r#"<td class="new" style="--v:0.379">50.0</td>"#), "{page}");
        assert!(page.contains(r#"<td class="deep middle new" style="--v:1.000">100.0</td>"#), "{page}");
        assert_eq!(page.matches("not measured").count(), 1);
    }
}
