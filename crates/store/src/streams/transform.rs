//! How a stream changes its images.

use domain::chunk::Payload;
use domain::draw::Draw;
use serde::Deserialize;

use super::pixels::{Pixels, decode, encode};

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Transform {
    #[default]
    Identity,
    /// Counter-clockwise about the image's centre, bilinear; what comes from outside is 0.
    Rotate { degrees: f64 },
    /// One permutation for all images of a size.
    PermutePixels { seed: u64 },
}

impl Transform {
    /// The changed input; one that stays as it is keeps its bytes.
    pub(super) fn apply(&self, input: &Payload) -> Result<Payload, String> {
        if self.changes_nothing() {
            return Ok(input.clone());
        }
        let Payload::Image(bytes) = input else {
            return Err("only images can be transformed".to_owned());
        };
        let pixels = decode(bytes).map_err(|e| e.to_string())?;
        let changed = match self {
            Self::Identity => pixels,
            Self::Rotate { degrees } => rotate(&pixels, degrees.to_radians()),
            Self::PermutePixels { seed } => permute(&pixels, *seed),
        };
        encode(&changed).map(Payload::Image).map_err(|e| e.to_string())
    }

    fn changes_nothing(&self) -> bool {
        match self {
            Self::Identity => true,
            Self::Rotate { degrees } => degrees % 360.0 == 0.0,
            Self::PermutePixels { .. } => false,
        }
    }
}

fn rotate(source: &Pixels, angle: f64) -> Pixels {
    let (sin, cos) = angle.sin_cos();
    let (cx, cy) = ((source.width as f64 - 1.0) / 2.0, (source.height as f64 - 1.0) / 2.0);
    let mut samples = Vec::with_capacity(source.samples.len());
    for y in 0..source.height {
        for x in 0..source.width {
            // Turned back to where this pixel came from; y grows downwards.
            let (dx, dy) = (x as f64 - cx, y as f64 - cy);
            let (sx, sy) = (cx + cos * dx - sin * dy, cy + sin * dx + cos * dy);
            samples.extend((0..source.channels).map(|channel| source.bilinear(sx, sy, channel)));
        }
    }
    Pixels { samples, ..*source }
}

impl Pixels {
    fn at(&self, x: i64, y: i64, channel: usize) -> f64 {
        let inside = (0..self.width as i64).contains(&x) && (0..self.height as i64).contains(&y);
        if !inside {
            return 0.0;
        }
        f64::from(self.samples[(y as usize * self.width + x as usize) * self.channels + channel])
    }

    fn bilinear(&self, x: f64, y: f64, channel: usize) -> u8 {
        let (left, top) = (x.floor(), y.floor());
        let (right, down) = (x - left, y - top);
        let (left, top) = (left as i64, top as i64);
        let upper = self.at(left, top, channel) * (1.0 - right) + self.at(left + 1, top, channel) * right;
        let lower = self.at(left, top + 1, channel) * (1.0 - right) + self.at(left + 1, top + 1, channel) * right;
        (upper * (1.0 - down) + lower * down).round() as u8
    }
}

fn permute(source: &Pixels, seed: u64) -> Pixels {
    let order = Draw::new(seed).permutation(source.width * source.height);
    let pixel = |&from: &usize| &source.samples[from * source.channels..(from + 1) * source.channels];
    let samples = order.iter().flat_map(pixel).copied().collect();
    Pixels { samples, ..*source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(width: usize, height: usize, samples: &[u8]) -> Pixels {
        Pixels { width, height, channels: 1, samples: samples.to_vec() }
    }

    #[test]
    fn a_quarter_turn_is_counter_clockwise_and_exact() {
        #[rustfmt::skip]
        let before = grey(3, 3, &[1, 2, 3,
                                  4, 5, 6,
                                  7, 8, 9]);
        #[rustfmt::skip]
        let after = [3, 6, 9,
                     2, 5, 8,
                     1, 4, 7];
        assert_eq!(rotate(&before, 90f64.to_radians()).samples, after);
    }

    #[test]
    fn what_comes_from_outside_is_zero() {
        let turned = rotate(&grey(8, 8, &[200; 64]), 45f64.to_radians());
        assert_eq!((turned.samples[0], turned.samples[63]), (0, 0));
        assert_eq!(turned.samples[3 * 8 + 3], 200);
    }

    #[test]
    fn a_permutation_keeps_the_pixels_of_colour_together() {
        let samples: Vec<u8> = (0..12).flat_map(|i| [i, i, i]).collect();
        let source = Pixels { width: 4, height: 3, channels: 3, samples };
        let permuted = permute(&source, 1001);
        assert_ne!(permuted.samples, source.samples);
        assert!(permuted.samples.chunks(3).all(|p| p[0] == p[1] && p[1] == p[2]));
        let mut sorted = permuted.samples;
        sorted.sort_unstable();
        assert_eq!(sorted, source.samples);
    }

    #[test]
    fn what_does_not_change_keeps_its_bytes() {
        let image = Payload::Image(b"not even an image".to_vec());
        for transform in [Transform::Identity, Transform::Rotate { degrees: 0.0 }] {
            assert_eq!(transform.apply(&image), Ok(image.clone()));
        }
        assert!(Transform::Rotate { degrees: 36.0 }.apply(&image).is_err());
    }

    #[test]
    fn a_changed_image_is_a_lossless_png() {
        let bytes = encode(&grey(5, 5, &[7; 25])).unwrap();
        let Payload::Image(permuted) = (Transform::PermutePixels { seed: 1 }).apply(&Payload::Image(bytes)).unwrap()
        else {
            panic!("an image stays one");
        };
        assert_eq!(decode(&permuted).unwrap().samples, [7; 25]);
    }
}
