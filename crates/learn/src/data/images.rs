//! Images as pixels.

use std::path::Path;

use domain::chunk::{Payload, Row};
use domain::manifest::Preprocessing;
use domain::pipeline::{Input, Normalize};
use image::DynamicImage;
use image::imageops::FilterType;
use rayon::prelude::*;
use serde_json::json;
use tch::{Kind, Tensor};

use super::Dataset;
use super::processor::{self, Refused, Stated};
use crate::Error;
use crate::files;
use crate::model::Geometry;

pub const PREPROCESSOR: &str = "preprocessor_config.json";

/// Bytes (rows, channels, side, side); the error names the row at fault.
pub fn decode(rows: &[Row], geometry: Geometry) -> Result<Tensor, (usize, String)> {
    let Geometry { channels, side } = geometry;
    let mut pixels = vec![0u8; rows.len() * (channels * side * side) as usize];
    pixels.par_chunks_mut((channels * side * side) as usize).zip(rows).enumerate().try_for_each(
        |(position, (pixels, row))| decode_one(&row.payload, geometry, pixels).map_err(|reason| (position, reason)),
    )?;
    Ok(Tensor::from_slice(&pixels).view([rows.len() as i64, channels, side, side]))
}

/// An image file as planar bytes, brought to the model's channels and size.
fn decode_one(payload: &Payload, geometry: Geometry, pixels: &mut [u8]) -> Result<(), String> {
    let Payload::Image(bytes) = payload else {
        return Err("it is text, and the model takes images".to_owned());
    };
    let image = image::load_from_memory(bytes).map_err(|e| format!("not a readable image: {e}"))?;
    let side = geometry.side as u32;
    let image = if image.width() == side && image.height() == side {
        image
    } else {
        image.resize_exact(side, side, FilterType::Triangle)
    };
    match geometry.channels {
        1 => pixels.copy_from_slice(image.to_luma8().as_raw()),
        _ => planar(&image, pixels),
    }
    Ok(())
}

fn planar(image: &DynamicImage, pixels: &mut [u8]) {
    let rgb = image.to_rgb8();
    let plane = pixels.len() / 3;
    for (position, pixel) in rgb.pixels().enumerate() {
        for (channel, &value) in pixel.0.iter().enumerate() {
            pixels[channel * plane + position] = value;
        }
    }
}

/// Channels and height of one row's image: the geometry of a model that nobody gave one.
pub fn geometry_of(row: &Row) -> Result<Geometry, Error> {
    let refused = |reason| Error::Row { row: row.id.clone(), place: "the first rows".to_owned(), reason };
    let Payload::Image(bytes) = &row.payload else {
        return Err(refused("it is text, and the model takes images".to_owned()));
    };
    let image = image::load_from_memory(bytes).map_err(|e| refused(format!("not a readable image: {e}")))?;
    Ok(Geometry { channels: if image.color().has_color() { 3 } else { 1 }, side: i64::from(image.height()) })
}

/// How bytes become numbers: `(x / 255 − mean) / std`, channel by channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    pub geometry: Geometry,
    pub mean: Vec<f64>,
    pub std: Vec<f64>,
}

impl Preprocess {
    /// Divided by 255 and nothing else.
    pub fn unit(geometry: Geometry) -> Self {
        let channels = geometry.channels as usize;
        Self { geometry, mean: vec![0.0; channels], std: vec![1.0; channels] }
    }

    /// Mean 0 and deviation 1 over the first `rows` of the dataset's images. A constant channel is only centred.
    pub fn standard(geometry: Geometry, dataset: &Dataset, rows: usize) -> Self {
        let (input, _) = dataset.take(&(0..rows as i64).collect::<Vec<_>>());
        let pixels = input.pixels();
        let (mut mean, mut std) = (Vec::new(), Vec::new());
        for channel in 0..geometry.channels {
            let counts = pixels.select(1, channel).flatten(0, -1).to_kind(Kind::Int64).bincount(None::<&Tensor>, 256);
            let counts: Vec<i64> = counts.try_into().expect("a row of counts");
            let (m, s) = moments(&counts);
            mean.push(m);
            std.push(if s > 0.0 { s } else { 1.0 });
        }
        Self { geometry, mean, std }
    }

    /// What the pipeline asks for, given what the model's folder or parent version says.
    pub fn choose(input: &Input, given: Option<Self>, geometry: Geometry) -> Self {
        match (input.normalize, given) {
            (Some(Normalize::Unit), _) | (_, None) => Self::unit(geometry),
            (_, Some(given)) => given,
        }
    }

    /// Bytes (n, channels, side, side) -> f32 of the same shape.
    pub fn apply(&self, pixels: &Tensor) -> Tensor {
        let pixels = pixels.to_kind(Kind::Float);
        if self.mean.iter().all(|&m| m == 0.0) && self.std.iter().all(|&s| s == 1.0) {
            return pixels * (1.0 / 255.0);
        }
        let device = pixels.device();
        let column = |values: Vec<f64>| {
            let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
            Tensor::from_slice(&values).view([1, -1, 1, 1]).to_device(device)
        };
        let scale = self.std.iter().map(|s| 1.0 / (255.0 * s)).collect();
        let shift = self.mean.iter().zip(&self.std).map(|(m, s)| -m / s).collect();
        pixels * column(scale) + column(shift)
    }

    /// None if there is no such file.
    pub fn load(file: &Path, geometry: Option<Geometry>) -> Result<Option<Self>, Error> {
        if !file.exists() {
            return Ok(None);
        }
        let refused = |(field, given, reason)| Error::Config { file: file.to_owned(), field, given, reason };
        let stated = processor::read(&files::read_json(file)?).map_err(refused)?;
        let (side, channels) = (stated.side, stated.moments.as_ref().map(|(mean, _)| mean.len() as i64));
        let Some(geometry) = geometry.or(channels.zip(side).map(|(channels, side)| Geometry { channels, side })) else {
            return Ok(None);
        };
        if let Some(side) = side.filter(|&side| side != geometry.side) {
            let reason = format!("the model takes images of {0} × {0} pixels", geometry.side);
            return Err(refused(("size", side.to_string(), reason)));
        }
        Self::stated(geometry, stated).map(Some).map_err(refused)
    }

    fn stated(geometry: Geometry, stated: Stated) -> Result<Self, Refused> {
        let unit = Self::unit(geometry);
        let (mean, std) = stated.moments.unwrap_or((unit.mean, unit.std));
        if mean.len() as i64 != geometry.channels || std.len() != mean.len() || std.iter().any(|&s| s <= 0.0) {
            let given = format!("{mean:?} / {std:?}");
            let reason = format!("expected {} positive deviations and as many means", geometry.channels);
            return Err(("image_mean / image_std", given, reason));
        }
        let scaled = |values: Vec<f64>| values.into_iter().map(|value| value / stated.scale).collect();
        Ok(Self { geometry, mean: scaled(mean), std: scaled(std) })
    }

    pub fn described(&self) -> Preprocessing {
        let Geometry { channels, side: size } = self.geometry;
        Preprocessing::Image { channels, size, mean: self.mean.clone(), std: self.std.clone() }
    }

    /// As transformers' image processors read it.
    pub fn save(&self, file: &Path) -> Result<(), Error> {
        let side = self.geometry.side;
        let config = json!({
            "image_processor_type": "ViTImageProcessor",
            "do_resize": true, "size": {"height": side, "width": side}, "resample": 2,
            "do_rescale": true, "rescale_factor": 1.0 / 255.0,
            "do_normalize": true, "image_mean": self.mean, "image_std": self.std,
        });
        files::write_json(file, &config)
    }
}

/// Mean and standard deviation of `value / 255` from a histogram, exactly the same in any order of rows.
fn moments(counts: &[i64]) -> (f64, f64) {
    let total: i64 = counts.iter().sum();
    let sum = |power: i32| -> f64 {
        let terms = counts.iter().enumerate().map(|(value, &n)| (value as f64 / 255.0).powi(power) * n as f64);
        terms.sum::<f64>() / total.max(1) as f64
    };
    let mean = sum(1);
    (mean, (sum(2) - mean * mean).max(0.0).sqrt())
}
