//! Lines over updates, as inline SVG coloured by the page's style sheet.

use maud::{Markup, html};

/// Series that can be told apart; more repeat the marks of the first.
pub const SERIES: usize = 4;

pub const WIDTH: f64 = 480.0;
pub const HEIGHT: f64 = 250.0;
pub const LEFT: f64 = 46.0;
pub const RIGHT: f64 = 58.0;
pub const TOP: f64 = 12.0;
pub const BOTTOM: f64 = 40.0;
/// Between the values written at the lines' ends.
const LINE: f64 = 15.0;

/// One line a series; a value that was not measured leaves a gap.
pub fn lines(caption: &str, series: &[(String, Vec<Option<f64>>)]) -> Markup {
    let updates = series.iter().map(|(_, values)| values.len()).max().unwrap_or(0);
    let ends = ends(series);
    html! {
        figure.chart {
            figcaption { (caption) }
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(caption) {
                (grid(updates))
                @for (number, (name, values)) in series.iter().enumerate() { (line(number, name, values, updates)) }
                @for (number, value, height) in ends {
                    text class={ "end s" (number % SERIES) } x=(WIDTH - RIGHT + 9.0) y=(px(height + 4.0)) { (format!("{:.0} %", 100.0 * value)) }
                }
            }
        }
    }
}

fn x(update: usize, updates: usize) -> f64 {
    // A single update stands in the middle.
    let at = if updates < 2 { 0.5 } else { update as f64 / (updates - 1) as f64 };
    LEFT + at * (WIDTH - LEFT - RIGHT)
}

pub fn y(value: f64) -> f64 {
    TOP + (1.0 - value.clamp(0.0, 1.0)) * (HEIGHT - TOP - BOTTOM)
}

pub fn px(length: f64) -> String {
    format!("{length:.1}")
}

fn grid(updates: usize) -> Markup {
    // At most about ten numbers below the axis.
    let every = updates.div_ceil(10).max(1);
    html! {
        (percents())
        @for update in (0..updates).step_by(every) {
            text.axis.middle x=(px(x(update, updates))) y=(HEIGHT - BOTTOM + 18.0) { (update + 1) }
        }
        text.axis.middle x=((LEFT + WIDTH - RIGHT) / 2.0) y=(HEIGHT - 6.0) { "update" }
    }
}

/// Level lines and what they stand for.
pub fn percents() -> Markup {
    html! {
        @for percent in [0u32, 25, 50, 75, 100] {
            @let height = y(f64::from(percent) / 100.0);
            line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(px(height)) y2=(px(height)) {}
            text.axis.right x=(LEFT - 8.0) y=(px(height + 4.0)) { (percent) @if percent == 100 { " %" } }
        }
    }
}

fn line(number: usize, name: &str, values: &[Option<f64>], updates: usize) -> Markup {
    let points: Vec<(usize, f64)> =
        values.iter().enumerate().filter_map(|(update, value)| Some((update, (*value)?))).collect();
    html! {
        g class={ "s" (number % SERIES) } {
            path d=(path(values, updates)) {}
            @for (update, value) in points {
                circle cx=(px(x(update, updates))) cy=(px(y(value))) r="3.5" {
                    title { (format!("{name}, update {}: {:.1} %", update + 1, 100.0 * value)) }
                }
            }
        }
    }
}

fn path(values: &[Option<f64>], updates: usize) -> String {
    let mut pen = 'M';
    let mut path = String::new();
    for (update, value) in values.iter().enumerate() {
        match value {
            Some(value) => {
                path.push_str(&format!("{pen}{} {}", px(x(update, updates)), px(y(*value))));
                pen = 'L';
            }
            None => pen = 'M',
        }
    }
    path
}

/// Each line's last value and where to write it: (series, value, height), pushed apart where they would overlap.
fn ends(series: &[(String, Vec<Option<f64>>)]) -> Vec<(usize, f64, f64)> {
    let last = |values: &[Option<f64>]| values.last().copied().flatten();
    let mut ends: Vec<(usize, f64, f64)> =
        series.iter().enumerate().filter_map(|(number, (_, values))| last(values).map(|v| (number, v, y(v)))).collect();
    ends.sort_by(|a, b| a.2.total_cmp(&b.2));
    for lower in 1..ends.len() {
        ends[lower].2 = ends[lower].2.max(ends[lower - 1].2 + LINE);
    }
    // Where that left the picture, everything moves up.
    let over = ends.last().map_or(0.0, |end| (end.2 - y(0.0)).max(0.0));
    ends.iter_mut().for_each(|end| end.2 -= over);
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[&[Option<f64>]]) -> Vec<(String, Vec<Option<f64>>)> {
        values.iter().enumerate().map(|(i, values)| (format!("arm {i}"), values.to_vec())).collect()
    }

    #[test]
    fn a_gap_lifts_the_pen() {
        let path = path(&[Some(1.0), Some(0.5), None, Some(0.0)], 4);
        assert_eq!((path.matches('M').count(), path.matches('L').count()), (2, 1));
    }

    #[test]
    fn values_at_the_ends_do_not_overlap_or_leave_the_picture() {
        let ends = ends(&series(&[&[Some(0.02)], &[Some(0.01)], &[Some(0.0)]]));
        assert!(ends.windows(2).all(|pair| pair[1].2 - pair[0].2 >= LINE - 1e-9), "{ends:?}");
        assert!(ends.iter().all(|end| end.2 <= y(0.0) + 1e-9), "{ends:?}");
    }

    #[test]
    fn every_point_says_what_it_is() {
        let page = lines("mean", &series(&[&[Some(0.5), Some(0.915)], &[None, Some(0.25)]])).into_string();
        assert!(page.contains("arm 0, update 2: 91.5 %") && page.contains("arm 1, update 2: 25.0 %"));
        assert_eq!(page.matches("<circle").count(), 3);
    }
}
