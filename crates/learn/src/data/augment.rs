//! Images varied at random while training.

use domain::draw::Draw;
use domain::pipeline::Augmentation;
use tch::{Kind, Tensor};

/// Each side is padded by one of so many parts of it.
const PADDING: i64 = 8;
/// Radians either way.
const ANGLE: f64 = 15.0 * std::f64::consts::PI / 180.0;
/// Factors lie this far from 1 at most.
const JITTER: f64 = 0.4;
/// What red, green and blue weigh in grey (ITU-R BT.601).
const GREY: [f32; 3] = [0.299, 0.587, 0.114];

/// Bytes (rows, channels, side, side) -> f32 of the same shape and range. A row's changes depend on the draw and its
/// place alone.
pub fn varied(pixels: &Tensor, how: &[Augmentation], draw: Draw) -> Tensor {
    how.iter().fold(pixels.to_kind(Kind::Float), |pixels, &augmentation| {
        let rows = (0..pixels.size()[0] as u64).map(|row| draw.at(row).named(augmentation.name()));
        let rows: Vec<Draw> = rows.collect();
        match augmentation {
            Augmentation::RandomCrop => cropped(&pixels, &rows),
            Augmentation::Hflip => flipped(&pixels, &rows),
            Augmentation::Rotate => turned(&pixels, &rows),
            Augmentation::ColourJitter => jittered(&pixels, &rows),
        }
    })
}

fn cropped(pixels: &Tensor, rows: &[Draw]) -> Tensor {
    let side = pixels.size()[3];
    let margin = (side / PADDING).max(1);
    let padded = pixels.constant_pad_nd([margin; 4]);
    let cut = |(row, draw): (i64, &Draw)| {
        let [x, y] = [0, 1].map(|axis| draw.at(axis).below(2 * margin as u64 + 1) as i64);
        padded.get(row).narrow(1, y, side).narrow(2, x, side)
    };
    Tensor::stack(&(0..).zip(rows).map(cut).collect::<Vec<_>>(), 0)
}

fn flipped(pixels: &Tensor, rows: &[Draw]) -> Tensor {
    let mirrored: Vec<bool> = rows.iter().map(|draw| draw.unit() < 0.5).collect();
    let mirrored = Tensor::from_slice(&mirrored).view([-1, 1, 1, 1]).to_device(pixels.device());
    pixels.flip([3]).where_self(&mirrored, pixels)
}

fn turned(pixels: &Tensor, rows: &[Draw]) -> Tensor {
    let turn = |draw: &Draw| {
        let (sin, cos) = ((2.0 * draw.unit() - 1.0) * ANGLE).sin_cos();
        [cos, -sin, 0.0, sin, cos, 0.0].map(|value| value as f32)
    };
    let turns: Vec<f32> = rows.iter().flat_map(turn).collect();
    let turns = Tensor::from_slice(&turns).view([-1, 2, 3]).to_device(pixels.device());
    let grid = Tensor::affine_grid_generator(&turns, pixels.size(), false);
    // Bilinear, zeros outside.
    pixels.grid_sampler(&grid, 0, 0, false)
}

fn jittered(pixels: &Tensor, rows: &[Draw]) -> Tensor {
    let factors = |which: u64| {
        let factor = |draw: &Draw| (1.0 + JITTER * (2.0 * draw.at(which).unit() - 1.0)) as f32;
        let factors: Vec<f32> = rows.iter().map(factor).collect();
        Tensor::from_slice(&factors).view([-1, 1, 1, 1]).to_device(pixels.device())
    };
    let between = |from: &Tensor, to: &Tensor, factor: Tensor| (from + (to - from) * factor).clamp(0.0, 255.0);
    let bright = (pixels * factors(0)).clamp(0.0, 255.0);
    let mean = grey(&bright).mean_dim(&[1i64, 2, 3][..], true, Kind::Float);
    let contrasted = between(&mean, &bright, factors(1));
    match pixels.size()[1] {
        3 => between(&grey(&contrasted), &contrasted, factors(2)),
        _ => contrasted,
    }
}

/// (rows, 1, side, side)
fn grey(pixels: &Tensor) -> Tensor {
    if pixels.size()[1] != 3 {
        return pixels.mean_dim(&[1i64][..], true, Kind::Float);
    }
    let weights = Tensor::from_slice(&GREY).view([1, 3, 1, 1]).to_device(pixels.device());
    (pixels * weights).sum_dim_intlist(&[1i64][..], true, Kind::Float)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    const SIDE: i64 = 16;

    fn images(rows: i64, channels: i64) -> Tensor {
        let pixels = Tensor::arange(rows * channels * SIDE * SIDE, (Kind::Int64, Device::Cpu)).remainder(251);
        pixels.view([rows, channels, SIDE, SIDE]).to_kind(Kind::Uint8)
    }

    #[test]
    fn a_row_is_varied_by_its_draw_and_place_alone() {
        for how in Augmentation::ALL {
            let (all, first) = (images(6, 3), images(6, 3).narrow(0, 0, 2));
            let varied = |pixels: &Tensor, seed| super::varied(pixels, &[how], Draw::new(seed));
            assert_eq!(varied(&all, 1).narrow(0, 0, 2), varied(&first, 1), "{}", how.name());
            assert_ne!(varied(&all, 1), varied(&all, 2), "{}", how.name());
            assert_eq!(varied(&all, 1).size(), all.size());
        }
        assert_eq!(varied(&images(2, 1), &[], Draw::new(1)), images(2, 1).to_kind(Kind::Float));
    }

    #[test]
    fn half_the_rows_are_mirrored_and_mirrored_twice_are_as_before() {
        let pixels = images(400, 1).to_kind(Kind::Float);
        let mirrored = varied(&pixels, &[Augmentation::Hflip], Draw::new(3));
        let differ = mirrored.ne_tensor(&pixels).flatten(1, -1).any_dim(1, false).sum(Kind::Int64).int64_value(&[]);
        assert!((150..250).contains(&differ), "{differ}");
        let back = mirrored.flip([3]);
        let same = |a: &Tensor, b: &Tensor| a.eq_tensor(b).flatten(1, -1).all_dim(1, false);
        assert!(same(&mirrored, &pixels).logical_or(&same(&back, &pixels)).all().int64_value(&[]) == 1);
    }

    #[test]
    fn a_crop_is_a_shift_by_an_eighth_at_most() {
        let dot = Tensor::zeros([50, 1, SIDE, SIDE], (Kind::Uint8, Device::Cpu));
        let _ = dot.narrow(2, 8, 1).narrow(3, 8, 1).fill_(200);
        let moved = varied(&dot, &[Augmentation::RandomCrop], Draw::new(4));
        assert!(
            moved.narrow(2, 6, 5).narrow(3, 6, 5).eq_tensor(&Tensor::from(200f32)).sum(Kind::Int64).int64_value(&[])
                == 50
        );
        assert_ne!(moved, dot.to_kind(Kind::Float));
    }

    #[test]
    fn a_turn_keeps_the_middle_and_is_small() {
        let disc = Tensor::zeros([20, 1, SIDE, SIDE], (Kind::Uint8, Device::Cpu));
        let _ = disc.narrow(2, 6, 4).narrow(3, 6, 4).fill_(100);
        let turned = varied(&disc, &[Augmentation::Rotate], Draw::new(5));
        assert!(turned.narrow(2, 7, 2).narrow(3, 7, 2).allclose(&Tensor::from(100f32), 0.0, 1e-3, false));
        assert!(turned.narrow(2, 0, 4).abs().max().double_value(&[]) < 1e-3);
    }

    #[test]
    fn jitter_stays_in_range_and_grey_stays_grey() {
        let pixels = Tensor::full([30, 3, 4, 4], 200, (Kind::Uint8, Device::Cpu));
        let jittered = varied(&pixels, &[Augmentation::ColourJitter], Draw::new(6));
        assert!(jittered.max().double_value(&[]) <= 255.0 && jittered.min().double_value(&[]) >= 120.0 - 1e-3);
        assert!((jittered.select(1, 0) - jittered.select(1, 2)).abs().max().double_value(&[]) < 1e-3);
    }
}
