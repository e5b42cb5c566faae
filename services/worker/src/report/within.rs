//! Accuracy on each task within updates: a picture a task, a line an arm, so that dips are seen.

use domain::stability::Trace;
use maud::{Markup, html};

use super::chart::{BOTTOM, HEIGHT, LEFT, RIGHT, SERIES, TOP, WIDTH, percents, px, y};
use super::{Arm, key, percent};

/// Accuracies by step, oldest first.
type Line = Vec<(u64, f64)>;

/// Nothing where no arm was measured within its updates.
pub fn section(arms: &[Arm]) -> Markup {
    let measured: Vec<(usize, &Arm, &Trace)> =
        arms.iter().enumerate().filter_map(|(number, arm)| Some((number, arm, arm.within.as_ref()?))).collect();
    let Some((_, first, _)) = measured.first() else { return html! {} };
    html! {
        section {
            h2 { "Accuracy within updates" }
            div.figures {
                @for (number, arm, trace) in &measured { (figures(*number, arm, trace)) }
            }
            p.note {
                "min-ACC: mean over all tasks but the last of the lowest accuracy since each was learned; outlined below. \
                 WC-ACC: the mean of those and of the last task’s accuracy at the end. Upright lines: ends of updates. \
                 Between measurements accuracy may have been lower still."
            }
            div.charts {
                @for (task, name) in first.tasks.iter().enumerate() { (chart(task, name, &measured)) }
            }
        }
    }
}

fn figures(number: usize, arm: &Arm, trace: &Trace) -> Markup {
    html! {
        div.figure {
            h3 { (key(number)) (arm.name) }
            dl {
                div { dt { "min-ACC" } dd { (percent(trace.min_accuracy())) } }
                div { dt { "WC-ACC" } dd { (percent(trace.worst_case_accuracy())) } }
            }
        }
    }
}

fn chart(task: usize, name: &str, measured: &[(usize, &Arm, &Trace)]) -> Markup {
    let steps = measured.iter().flat_map(|(.., trace)| trace.points()).map(|point| point.step).max().unwrap_or(0);
    let ends = measured.first().map_or_else(Vec::new, |(.., trace)| ends(trace));
    // At most about eight numbers below the axis.
    let every = ends.len().div_ceil(8).max(1);
    let caption = format!("Task {}, {name}", task + 1);
    html! {
        figure.chart {
            figcaption { (caption) }
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(caption) {
                (percents())
                @for (at, end) in ends.iter().rev().enumerate() {
                    line.grid x1=(px(x(*end, steps))) x2=(px(x(*end, steps))) y1=(px(TOP)) y2=(px(HEIGHT - BOTTOM)) {}
                    @if at.is_multiple_of(every) {
                        text.axis.middle x=(px(x(*end, steps))) y=(HEIGHT - BOTTOM + 18.0) { (end) }
                    }
                }
                text.axis.middle x=((LEFT + WIDTH - RIGHT) / 2.0) y=(HEIGHT - 6.0) { "step" }
                @for (number, arm, trace) in measured { (line(*number, &arm.name, &of(trace, task), lowest(trace, task), steps)) }
            }
        }
    }
}

/// The last step of each update.
fn ends(trace: &Trace) -> Vec<u64> {
    let points = trace.points();
    let last = |(at, point): (usize, &domain::stability::Point)| {
        points.get(at + 1).is_none_or(|next| next.update != point.update).then_some(point.step)
    };
    points.iter().enumerate().filter_map(last).collect()
}

fn of(trace: &Trace, task: usize) -> Line {
    let at = |point: &domain::stability::Point| Some((point.step, (*point.accuracies.get(task)?)?));
    trace.points().iter().filter_map(at).collect()
}

/// Where the task's min-ACC lies.
fn lowest(trace: &Trace, task: usize) -> Option<(u64, f64)> {
    let min = (*trace.min_accuracies().get(task)?)?;
    // The last such step: before it was learned a task may have been as low.
    of(trace, task).into_iter().rev().find(|(_, accuracy)| *accuracy == min)
}

fn x(step: u64, steps: u64) -> f64 {
    LEFT + step as f64 / steps.max(1) as f64 * (WIDTH - LEFT - RIGHT)
}

fn line(number: usize, name: &str, line: &Line, lowest: Option<(u64, f64)>, steps: u64) -> Markup {
    let path: Vec<String> =
        line.iter().map(|(step, value)| format!("{} {}", px(x(*step, steps)), px(y(*value)))).collect();
    html! {
        g class={ "fine s" (number % SERIES) } {
            @if !path.is_empty() { path d=(format!("M{}", path.join("L"))) {} }
            @if let Some((step, value)) = lowest {
                circle cx=(px(x(step, steps))) cy=(px(y(value))) r="3.5" {
                    title { (format!("{name}, lowest at step {step}: {:.1} %", 100.0 * value)) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::arm;
    use super::*;
    use domain::stability::Point;

    /// Task 0 falls to 0.25 at step 30 of 40.
    fn dip() -> Arm {
        let point = |step, update, accuracies: &[Option<f64>]| Point { step, update, accuracies: accuracies.to_vec() };
        let points = vec![
            point(10, 0, &[Some(0.25), None]),
            point(20, 0, &[Some(0.9), None]),
            point(30, 1, &[Some(0.25), Some(0.5)]),
            point(40, 1, &[Some(0.8), Some(0.75)]),
        ];
        Arm { within: Some(Trace::of_stream(points)), ..arm("seed 0", &[]) }
    }

    #[test]
    fn each_task_has_a_picture_with_its_dip_and_the_ends_of_updates() {
        let page = section(&[dip()]).into_string();
        assert_eq!((page.matches("<svg").count(), page.matches("<circle").count()), (2, 1));
        assert!(page.contains("seed 0, lowest at step 30: 25.0 %") && page.contains("Task 2, a&lt;b"), "{page}");
        assert!(page.contains(&format!("M{} {}L", px(x(10, 40)), px(y(0.25)))), "{page}");
        assert!(page.contains("25.0 %</dd>") && page.contains("50.0 %</dd>"), "min-ACC and WC-ACC: {page}");
        assert_eq!(ends(dip().within.as_ref().unwrap()), [20, 40]);
    }

    #[test]
    fn without_measurements_there_is_no_section() {
        assert_eq!(section(&[arm("x", &[&[Some(0.5)]])]).into_string(), "");
    }
}
