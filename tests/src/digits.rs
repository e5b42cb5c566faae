//! Small images that a small network learns in a second, in domains that disturb each other.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::draw::Draw;
use image::{GrayImage, ImageFormat, Luma};
use serde_json::json;

/// Classes of [`digits`].
pub const CLASSES: usize = 4;

const SIDE: u32 = 8;

/// The names of the classes.
pub fn labels() -> Vec<String> {
    (0..CLASSES).map(|class| format!("c{class}")).collect()
}

/// One image: a bar whose place and direction say the class; a domain permutes the pixels.
fn image(seed: u64, domain: u64, class: usize, index: u64) -> Vec<u8> {
    let draw = Draw::new(seed).at(class as u64).at(index);
    let order = Draw::new(77).at(domain).permutation((SIDE * SIDE) as usize);
    let mut image = GrayImage::new(SIDE, SIDE);
    for (position, &target) in order.iter().enumerate() {
        let (x, y) = (position as u32 % SIDE, position as u32 / SIDE);
        let on = match class {
            0 => y < 3,
            1 => y >= 5,
            2 => x < 3,
            _ => x >= 5,
        };
        let noise = draw.at(2).at(position as u64).unit() * 90.0;
        let value = if on { 255.0 - noise } else { noise };
        let target = if domain == 0 { position } else { target } as u32;
        image.put_pixel(target % SIDE, target / SIDE, Luma([value as u8]));
    }
    let mut png = std::io::Cursor::new(Vec::new());
    image.write_to(&mut png, ImageFormat::Png).expect("an image encodes in memory");
    png.into_inner()
}

/// `n` labelled images of a domain as JSONL. `label` says which name an image of a class carries.
pub fn digits(seed: u64, domain: u64, n: u64, label: impl Fn(usize, u64) -> String) -> Vec<u8> {
    let line = |index: u64| {
        let class = (index % CLASSES as u64) as usize;
        let bytes = STANDARD.encode(image(seed, domain, class, index));
        json!({"image": bytes, "label": label(class, index)}).to_string() + "\n"
    };
    (0..n).map(line).collect::<String>().into_bytes()
}

/// Rightly labelled.
pub fn clean(seed: u64, domain: u64, n: u64) -> Vec<u8> {
    digits(seed, domain, n, |class, _| format!("c{class}"))
}

/// Every label wrong, in the same way.
pub fn mislabelled(seed: u64, domain: u64, n: u64) -> Vec<u8> {
    digits(seed, domain, n, |class, _| format!("c{}", (class + 1) % CLASSES))
}
