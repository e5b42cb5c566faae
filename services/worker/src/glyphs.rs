//! Drawn images to train on where there is no data: ten glyphs in eight looks.
//!
//! A pure function of (seed, domain, index): no file, no clock. The looks are far enough apart that a
//! model fine-tuned on one forgets another.

use std::io::Cursor;

use domain::chunk::{Payload, Row};
use domain::draw::Draw;
use image::{GrayImage, ImageFormat, Luma};

/// Pixels on a side; one grey channel.
pub const SIDE: u32 = 28;

/// Label names. Row `i` shows class `i % 10`.
pub const CLASSES: [&str; 10] =
    ["ring", "triangle", "square", "cross", "star", "arrow", "spiral", "zigzag", "ladder", "fork"];

/// Names of the looks. The first is the plain one, on which the demo pretrains.
pub const DOMAINS: [&str; 8] = ["plain", "inverted", "thick", "turned", "striped", "dotted", "outlined", "mirrored"];

type Point = [f64; 2];
/// A straight stroke between two points of the square from −1 to 1, y downwards.
type Stroke = [Point; 2];

/// How a domain draws a glyph.
struct Look {
    /// Half the stroke's width, in units of the glyph.
    width: f64,
    /// Radians added to every glyph.
    turn: f64,
    mirror: bool,
    /// Only dots along the strokes.
    dotted: bool,
    /// Only the edges of the strokes.
    outlined: bool,
    /// Grey of paper and ink.
    paper: f64,
    ink: f64,
    /// Height of slanted stripes on the paper.
    stripes: f64,
}

const PLAIN: Look =
    Look { width: 0.09, turn: 0.0, mirror: false, dotted: false, outlined: false, paper: 0.05, ink: 0.9, stripes: 0.0 };

fn look(domain: usize) -> Look {
    use std::f64::consts::PI;
    match DOMAINS[domain % DOMAINS.len()] {
        "inverted" => Look { paper: 0.95, ink: 0.1, ..PLAIN },
        "thick" => Look { width: 0.26, turn: 0.5 * PI, ..PLAIN },
        "turned" => Look { turn: 0.75 * PI, ink: 0.6, ..PLAIN },
        "striped" => Look { width: 0.13, stripes: 0.5, turn: PI, ..PLAIN },
        "dotted" => Look { width: 0.1, dotted: true, turn: -0.5 * PI, ..PLAIN },
        "outlined" => Look { width: 0.2, outlined: true, paper: 0.4, ink: 1.0, ..PLAIN },
        "mirrored" => Look { mirror: true, turn: 0.25 * PI, paper: 0.6, ink: 0.0, ..PLAIN },
        _ => PLAIN,
    }
}

/// `n` labelled PNG images, the classes in turn.
///
/// Domains beyond the last start over with the first.
pub fn glyphs(domain: usize, n: usize, seed: u64) -> Vec<Row> {
    let domain = domain % DOMAINS.len();
    (0..n).map(|index| glyph(domain, index, seed)).collect()
}

fn glyph(domain: usize, index: usize, seed: u64) -> Row {
    let class = index % CLASSES.len();
    let draw = Draw::new(seed).named("glyph").at(domain as u64).at(class as u64).at(index as u64);
    let image = png(&paint(&look(domain), &strokes(CLASSES[class]), draw));
    Row::new(format!("{}-{seed}-{index}", DOMAINS[domain]), Payload::Image(image), CLASSES[class])
}

fn png(image: &GrayImage) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).expect("memory takes any PNG");
    bytes.into_inner()
}

/// What makes one drawing differ from the next.
struct Jitter {
    shift: Point,
    scale: f64,
    angle: f64,
    width: f64,
}

impl Jitter {
    fn drawn(draw: Draw, look: &Look) -> Self {
        let within = |key: u64, low: f64, high: f64| low + (high - low) * draw.at(key).unit();
        Self {
            shift: [within(0, -0.15, 0.15), within(1, -0.15, 0.15)],
            scale: within(2, 0.6, 0.8),
            angle: look.turn + within(3, -0.25, 0.25),
            width: look.width * within(4, 0.8, 1.25),
        }
    }

    fn moved(&self, [x, y]: Point, mirror: bool) -> Point {
        let x = if mirror { -x } else { x };
        let (sin, cos) = self.angle.sin_cos();
        let turned = [x * cos - y * sin, x * sin + y * cos];
        [0, 1].map(|axis| turned[axis] * self.scale + self.shift[axis])
    }
}

fn paint(look: &Look, strokes: &[Stroke], draw: Draw) -> GrayImage {
    let jitter = Jitter::drawn(draw.named("jitter"), look);
    let dots = if look.dotted { dots(strokes) } else { strokes.to_vec() };
    let moved: Vec<Stroke> = dots.iter().map(|stroke| stroke.map(|end| jitter.moved(end, look.mirror))).collect();
    let (noise, phase) = (draw.named("noise"), draw.named("stripes").unit());
    let half = f64::from(SIDE) / 2.0;
    GrayImage::from_fn(SIDE, SIDE, |column, row| {
        let at = [column, row].map(|pixel| (f64::from(pixel) + 0.5 - half) / half);
        let distance = moved.iter().map(|stroke| distance(at, stroke)).fold(f64::INFINITY, f64::min);
        let ink = coverage(distance, jitter.width, look.outlined);
        let wave = (std::f64::consts::TAU * (1.5 * (at[0] + at[1]) + phase)).sin();
        let paper = look.paper + look.stripes * 0.5 * (1.0 + wave);
        let grain = 0.03 * noise.at(u64::from(row * SIDE + column)).normal();
        let grey = paper + (look.ink - paper) * ink + grain;
        Luma([(grey.clamp(0.0, 1.0) * 255.0).round() as u8])
    })
}

/// 1 on the stroke, 0 off it, with an edge one pixel wide.
fn coverage(distance: f64, width: f64, outlined: bool) -> f64 {
    let pixel = 2.0 / f64::from(SIDE);
    let inside = |depth: f64| (depth / pixel + 0.5).clamp(0.0, 1.0);
    match outlined {
        true => inside(0.6 * pixel - (distance - width).abs()),
        false => inside(width - distance),
    }
}

/// From a point to the nearest point of a stroke.
fn distance([x, y]: Point, [[x0, y0], [x1, y1]]: &Stroke) -> f64 {
    let (dx, dy) = (x1 - x0, y1 - y0);
    let length = dx * dx + dy * dy;
    let along = if length > 0.0 { ((x - x0) * dx + (y - y0) * dy) / length } else { 0.0 };
    let along = along.clamp(0.0, 1.0);
    (x - x0 - along * dx).hypot(y - y0 - along * dy)
}

/// Strokes of length zero, evenly spaced.
fn dots(strokes: &[Stroke]) -> Vec<Stroke> {
    const APART: f64 = 0.34;
    let cut = |&[a, b]: &Stroke| {
        let steps = ((b[0] - a[0]).hypot(b[1] - a[1]) / APART).ceil() as usize;
        (0..=steps).map(move |step| {
            let along = step as f64 / steps.max(1) as f64;
            let dot = [0, 1].map(|axis| a[axis] + along * (b[axis] - a[axis]));
            [dot, dot]
        })
    };
    strokes.iter().flat_map(cut).collect()
}

fn strokes(class: &str) -> Vec<Stroke> {
    let spokes = |radius: f64, turns: f64, n: usize| -> Vec<Point> {
        (0..n).map(|corner| around(radius, turns + corner as f64 / n as f64)).collect()
    };
    match class {
        "ring" => closed(&spokes(0.9, 0.0, 16)),
        "triangle" => closed(&spokes(1.0, -0.25, 3)),
        "square" => closed(&spokes(1.1, 0.125, 4)),
        "cross" => vec![[[-1.0, 0.0], [1.0, 0.0]], [[0.0, -1.0], [0.0, 1.0]]],
        "star" => spokes(1.0, -0.25, 5).into_iter().map(|tip| [[0.0, 0.0], tip]).collect(),
        "arrow" => open(&[[-0.5, -0.4], [0.0, -1.0], [0.5, -0.4]], &[[[0.0, -1.0], [0.0, 1.0]]]),
        "spiral" => {
            open(&(0..=14).map(|k| around(0.1 + 0.065 * f64::from(k), f64::from(k) / 8.0)).collect::<Vec<_>>(), &[])
        }
        "zigzag" => open(&[[-0.9, 0.7], [-0.45, -0.7], [0.0, 0.7], [0.45, -0.7], [0.9, 0.7]], &[]),
        "ladder" => vec![
            [[-0.5, -1.0], [-0.5, 1.0]],
            [[0.5, -1.0], [0.5, 1.0]],
            [[-0.5, -0.4], [0.5, -0.4]],
            [[-0.5, 0.4], [0.5, 0.4]],
        ],
        _ => open(&[[-0.6, -0.9], [-0.6, 0.0], [0.6, 0.0], [0.6, -0.9]], &[[[0.0, -0.9], [0.0, 1.0]]]),
    }
}

/// A point at `turns` of a circle.
fn around(radius: f64, turns: f64) -> Point {
    let (sin, cos) = (std::f64::consts::TAU * turns).sin_cos();
    [radius * cos, radius * sin]
}

fn open(points: &[Point], more: &[Stroke]) -> Vec<Stroke> {
    points.windows(2).map(|ends| [ends[0], ends[1]]).chain(more.iter().copied()).collect()
}

fn closed(points: &[Point]) -> Vec<Stroke> {
    let next = points.iter().cycle().skip(1);
    points.iter().zip(next).map(|(&a, &b)| [a, b]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glyph_depends_on_seed_domain_and_index_alone() {
        let rows = glyphs(3, 30, 7);
        assert_eq!(rows[..20], glyphs(3, 20, 7));
        assert_ne!(rows[0].payload, glyphs(3, 1, 8)[0].payload);
        assert_ne!(rows[0].payload, glyphs(4, 1, 7)[0].payload);
        assert_ne!(rows[0].payload, rows[10].payload);
        assert_eq!((rows[0].label.as_str(), rows[19].label.as_str()), ("ring", "fork"));
    }

    #[test]
    fn every_look_of_every_class_shows_on_its_paper() {
        for (domain, name) in DOMAINS.iter().enumerate() {
            for row in glyphs(domain, CLASSES.len(), 0) {
                let Payload::Image(bytes) = &row.payload else { panic!("not an image") };
                let image = image::load_from_memory(bytes).unwrap().to_luma8();
                assert_eq!(image.dimensions(), (SIDE, SIDE));
                let (low, high) = image.pixels().fold((255, 0), |(low, high), p| (p.0[0].min(low), p.0[0].max(high)));
                assert!(high - low > 100, "{name} {}: {low}..{high}", row.label);
            }
        }
    }

    #[test]
    fn domain_names_are_task_names() {
        assert!(DOMAINS.iter().all(|name| name.parse::<domain::id::TaskName>().is_ok()));
    }
}
