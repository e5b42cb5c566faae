//! Dropout (Srivastava et al., 2014), with masks that depend on a key alone.

use std::cell::Cell;

use domain::draw::{Draw, mix};
use rayon::prelude::*;
use tch::Tensor;

/// One forward pass's stream of masks.
pub struct Noise {
    draw: Draw,
    masks: Cell<u64>,
}

/// Elements that share a draw: 16 bits each.
const LANES: usize = 4;

impl Noise {
    pub fn new(draw: Draw) -> Self {
        Self { draw, masks: Cell::new(0) }
    }

    /// `x` with each element dropped with probability `p`, to a 65,536th, and the others scaled to the same mean.
    fn apply(&self, x: &Tensor, p: f64) -> Tensor {
        let stream = self.draw.at(self.masks.replace(self.masks.get() + 1)).bits();
        let threshold = (p * 65536.0).round() as u16;
        let mut kept = vec![0u8; x.numel().next_multiple_of(LANES)];
        kept.par_chunks_mut(1 << 14).enumerate().for_each(|(block, kept)| {
            for (lane, four) in kept.chunks_exact_mut(LANES).enumerate() {
                let bits = mix(stream ^ ((block << 14) / LANES + lane) as u64);
                for (place, keep) in four.iter_mut().enumerate() {
                    *keep = u8::from((bits >> (16 * place)) as u16 >= threshold);
                }
            }
        });
        let mask = Tensor::from_slice(&kept[..x.numel()]).view(&x.size()[..]).to_device(x.device());
        x * (mask.to_kind(x.kind()) * (1.0 / (1.0 - f64::from(threshold) / 65536.0)))
    }
}

/// What is wrong with the first of these fields of a configuration that is no probability below 1.
pub fn check(fields: [(&'static str, f64); 2]) -> Result<(), (&'static str, String, String)> {
    match fields.into_iter().find(|(_, p)| !(0.0..1.0).contains(p)) {
        Some((field, p)) => Err((field, p.to_string(), "it must be from 0 to below 1".to_owned())),
        None => Ok(()),
    }
}

/// `x` as it is without noise, or at `p = 0`.
pub fn dropped(x: Tensor, p: f64, noise: Option<&Noise>) -> Tensor {
    match noise {
        Some(noise) if p > 0.0 => noise.apply(&x, p),
        _ => x,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn drops(noise: &Noise, p: f64) -> Tensor {
        dropped(Tensor::ones([7, 9001], (Kind::Float, Device::Cpu)), p, Some(noise))
    }

    #[test]
    fn the_share_and_the_mean_are_right_and_masks_differ() {
        let noise = Noise::new(Draw::new(1));
        let (first, second) = (drops(&noise, 0.1), drops(&noise, 0.1));
        let zeros = 1.0 - first.count_nonzero(None).int64_value(&[]) as f64 / first.numel() as f64;
        assert!((zeros - 0.1).abs() < 0.004, "{zeros}");
        assert!((first.mean(Kind::Double).double_value(&[]) - 1.0).abs() < 0.005);
        assert_ne!(first, second);
        assert_eq!(first, drops(&Noise::new(Draw::new(1)), 0.1));
    }

    #[test]
    fn nothing_is_dropped_without_noise_or_probability() {
        let ones = Tensor::ones([3], (Kind::Float, Device::Cpu));
        assert_eq!(dropped(ones.copy(), 0.5, None), ones);
        assert_eq!(dropped(ones.copy(), 0.0, Some(&Noise::new(Draw::new(1)))), ones);
    }
}
