//! An accuracy matrix as a table whose cells are tinted by their value.
//!
//! A table rather than a picture: figures can be copied, searched and read aloud.

use maud::{Markup, html};

use super::Arm;

/// Tint from which light text reads better than dark text on `--hi`; see `style.css`.
const DARK_CELL: f64 = 0.75;

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
    let tint = value.clamp(0.0, 1.0);
    let classes = [(tint >= DARK_CELL).then_some("dark"), just_learned.then_some("new")];
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
        assert!(page.contains(r#"<td class="new" style="--v:0.500">50.0</td>"#), "{page}");
        assert!(page.contains(r#"<td class="dark new" style="--v:1.000">100.0</td>"#), "{page}");
        assert_eq!(page.matches("not measured").count(), 1);
    }
}
