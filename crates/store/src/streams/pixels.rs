//! Images as samples, and back.

use std::io::Cursor;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{DynamicImage, ExtendedColorType, ImageEncoder, ImageReader};

/// Eight-bit samples, channels interleaved.
pub(super) struct Pixels {
    pub width: usize,
    pub height: usize,
    /// 1 of a grey image, else 3.
    pub channels: usize,
    pub samples: Vec<u8>,
}

pub(super) fn decode(bytes: &[u8]) -> image::ImageResult<Pixels> {
    let image = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?.decode()?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    let (channels, samples) = match image {
        DynamicImage::ImageLuma8(_) | DynamicImage::ImageLumaA8(_) | DynamicImage::ImageLuma16(_) => {
            (1, image.into_luma8().into_raw())
        }
        _ => (3, image.into_rgb8().into_raw()),
    };
    Ok(Pixels { width, height, channels, samples })
}

pub(super) fn encode(pixels: &Pixels) -> image::ImageResult<Vec<u8>> {
    let colour = if pixels.channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    let mut bytes = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Adaptive);
    encoder.write_image(&pixels.samples, pixels.width as u32, pixels.height as u32, colour)?;
    Ok(bytes)
}
