//! `preprocessor_config.json` as transformers' image processors write it. What cannot be done as it says is refused,
//! since a model that gets other numbers than it was trained on still answers.

use serde_json::{Value, json};

/// What it says, as far as it is done here.
pub struct Stated {
    /// Of the square that images are resized to.
    pub side: Option<i64>,
    /// Bytes are multiplied by this over 255.
    pub scale: f64,
    pub moments: Option<Moments>,
}

/// What is subtracted and what is divided by afterwards, channel by channel.
pub type Moments = (Vec<f64>, Vec<f64>);

/// Field, value and remedy.
pub type Refused = (&'static str, String, String);

/// The number by which PIL, and so transformers, knows bilinear resampling.
const BILINEAR: i64 = 2;
/// From this side on, processors with a `crop_pct`, as a ResNet's, do not crop.
const UNCROPPED: i64 = 384;

pub fn read(config: &Value) -> Result<Stated, Refused> {
    let side = side(&config["size"])?;
    let resample = &config["resample"];
    if !resample.is_null() && *resample != json!(BILINEAR) {
        let reason = format!("images are resized bilinearly; if that will do, set it to {BILINEAR}");
        return Err(("resample", resample.to_string(), reason));
    }
    let crop = &config["crop_size"];
    if config["do_center_crop"] == json!(true) && (side.is_none() || square(crop) != side) {
        let reason =
            format!("images are resized and not cropped (crop_size is {crop}); if that will do, set it to false");
        return Err(("do_center_crop", "true".to_owned(), reason));
    }
    let share = &config["crop_pct"];
    if !share.is_null() && side.is_some_and(|side| side < UNCROPPED) {
        let reason = "smaller images than 384 × 384 would be resized and cropped, and are resized alone; if that will do, \
                      remove it";
        return Err(("crop_pct", share.to_string(), reason.to_owned()));
    }
    Ok(Stated { side, scale: scale(config)?, moments: moments(config)? })
}

/// `224` or `{height: 224, width: 224}`.
fn square(size: &Value) -> Option<i64> {
    let (height, width) = (size["height"].as_i64(), size["width"].as_i64());
    size.as_i64().or(height.filter(|_| height == width))
}

fn side(size: &Value) -> Result<Option<i64>, Refused> {
    match square(size) {
        None if !size.is_null() => {
            let reason = "images are resized to a square; if that will do, write {\"height\": N, \"width\": N}";
            Err(("size", size.to_string(), reason.to_owned()))
        }
        side => Ok(side),
    }
}

fn scale(config: &Value) -> Result<f64, Refused> {
    let factor = &config["rescale_factor"];
    if config["do_rescale"] == json!(false) {
        return Ok(255.0);
    }
    match factor.as_f64() {
        None if factor.is_null() => Ok(1.0),
        // Written in decimals, 1/255 may come back a rounding error away.
        Some(factor) if (255.0 * factor - 1.0).abs() < 1e-6 => Ok(1.0),
        Some(factor) if factor > 0.0 => Ok(255.0 * factor),
        _ => Err(("rescale_factor", factor.to_string(), "expected a positive number, such as 1/255".to_owned())),
    }
}

fn moments(config: &Value) -> Result<Option<Moments>, Refused> {
    let numbers = |name: &str| -> Option<Vec<f64>> { serde_json::from_value(config[name].clone()).ok() };
    match (&config["do_normalize"], numbers("image_mean"), numbers("image_std")) {
        (Value::Bool(false), _, _) => Ok(None),
        (_, Some(mean), Some(std)) => Ok(Some((mean, std))),
        (Value::Bool(true), _, _) => {
            let reason = "then image_mean and image_std have to be lists of numbers, one a channel";
            Err(("do_normalize", "true".to_owned(), reason.to_owned()))
        }
        _ => Ok(None),
    }
}
