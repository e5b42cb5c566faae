//! What a scenario sorts inputs by.

use domain::chunk::Payload;
use serde::Deserialize;

use super::pixels::{Pixels, decode};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Feature {
    /// Mean over an image's pixels and channels.
    #[default]
    Intensity,
    /// Mean of one channel; of a grey image all three are its intensity.
    Red,
    Green,
    Blue,
    /// Characters of a text.
    Length,
    /// Degrees in `0..360`; has a scenario of its own.
    #[serde(skip)]
    Hue,
}

impl Feature {
    pub(super) fn of(self, input: &Payload) -> Result<f64, String> {
        match (self, input) {
            (Self::Length, Payload::Text(text)) => Ok(text.chars().count() as f64),
            (Self::Length, Payload::Image(_)) => Err("an image has no `length`; sort by `intensity`".to_owned()),
            (_, Payload::Text(_)) => Err("a text can only be sorted by its `length`".to_owned()),
            (_, Payload::Image(bytes)) => self.of_pixels(&decode(bytes).map_err(|e| e.to_string())?),
        }
    }

    fn of_pixels(self, pixels: &Pixels) -> Result<f64, String> {
        let [red, green, blue] = mean_colour(pixels);
        match self {
            Self::Red => Ok(red),
            Self::Green => Ok(green),
            Self::Blue => Ok(blue),
            Self::Hue if pixels.channels == 1 => Err("a grey image has no hue; sort by `intensity`".to_owned()),
            Self::Hue => Ok(hue(red, green, blue)),
            Self::Intensity | Self::Length => Ok((red + green + blue) / 3.0),
        }
    }
}

fn mean_colour(pixels: &Pixels) -> [f64; 3] {
    let mut sums = [0u64; 3];
    for pixel in pixels.samples.chunks_exact(pixels.channels) {
        // Only grey images have fewer channels than colours.
        (0..3).for_each(|colour| sums[colour] += u64::from(pixel[colour % pixels.channels]));
    }
    sums.map(|sum| sum as f64 / (pixels.width * pixels.height) as f64)
}

/// As in HSV; 0 where there is no colour.
///
/// Of an image it is taken of the mean colour: hues are angles, and a mean of their numbers would call the two reds on
/// either side of 0 a green. So grey pixels say nothing and vivid ones say most.
fn hue(red: f64, green: f64, blue: f64) -> f64 {
    let highest = red.max(green).max(blue);
    let chroma = highest - red.min(green).min(blue);
    let sixth = match highest {
        _ if chroma == 0.0 => 0.0,
        _ if highest == red => (green - blue) / chroma,
        _ if highest == green => (blue - red) / chroma + 2.0,
        _ => (red - green) / chroma + 4.0,
    };
    (60.0 * sixth).rem_euclid(360.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hues_go_round_from_red() {
        let hues = [(9.0, 0.0, 0.0), (9.0, 9.0, 0.0), (0.0, 9.0, 0.0), (0.0, 0.0, 9.0), (9.0, 0.0, 9.0)];
        assert_eq!(hues.map(|(r, g, b)| hue(r, g, b)), [0.0, 60.0, 120.0, 240.0, 300.0]);
        assert_eq!(hue(5.0, 5.0, 5.0), 0.0);
    }

    #[test]
    fn grey_pixels_do_not_move_the_hue_and_grey_images_have_none() {
        let colour = Pixels { width: 1, height: 2, channels: 3, samples: vec![0, 200, 0, 90, 90, 90] };
        assert_eq!(Feature::Hue.of_pixels(&colour), Ok(120.0));
        let grey = Pixels { width: 1, height: 1, channels: 1, samples: vec![7] };
        assert!(Feature::Hue.of_pixels(&grey).unwrap_err().contains("`intensity`"));
    }

    #[test]
    fn intensity_is_the_mean_of_the_channels_and_a_grey_image_has_three_alike() {
        let colour = Pixels { width: 1, height: 2, channels: 3, samples: vec![30, 60, 90, 50, 0, 10] };
        let of = |feature: Feature, pixels| feature.of_pixels(pixels).unwrap();
        let channels = [Feature::Red, Feature::Green, Feature::Blue].map(|feature| of(feature, &colour));
        assert_eq!((channels, of(Feature::Intensity, &colour)), ([40.0, 30.0, 50.0], 40.0));
        let grey = Pixels { width: 2, height: 1, channels: 1, samples: vec![10, 20] };
        assert_eq!((of(Feature::Blue, &grey), of(Feature::Intensity, &grey)), (15.0, 15.0));
    }

    #[test]
    fn texts_have_a_length_in_characters_and_nothing_else() {
        let text = Payload::Text("größe".to_owned());
        assert_eq!(Feature::Length.of(&text), Ok(5.0));
        assert!(Feature::Intensity.of(&text).unwrap_err().contains("`length`"));
        assert!(Feature::Length.of(&Payload::Image(vec![])).unwrap_err().contains("`intensity`"));
    }
}
