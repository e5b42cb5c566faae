//! Which number type is the faster one here.

use domain::pipeline::Precision;
use tch::{Device, Kind, Tensor};

/// A layer's product: rows · tokens by width, by width.
const ROWS: i64 = 2048;
const WIDTH: i64 = 512;
const TRIES: usize = 5;
/// Casts between the types cost something too: less than this is no gain.
const WORTH: f64 = 1.2;

/// bf16 if the products of frozen layers are faster in it on this device, with the threads this process has.
///
/// CPUs without AVX512-BF16 or AMX emulate it, and are slower. `clock` gives seconds.
pub fn fastest(device: Device, clock: &dyn Fn() -> f64) -> Precision {
    let _guard = tch::no_grad_guard();
    let (mut float, mut bf16) = (f64::MAX, f64::MAX);
    // In turns, so that a busy machine is busy for both.
    for _ in 0..TRIES {
        float = float.min(seconds(Kind::Float, device, clock));
        bf16 = bf16.min(seconds(Kind::BFloat16, device, clock));
    }
    if float > WORTH * bf16 { Precision::Bf16 } else { Precision::F32 }
}

fn seconds(kind: Kind, device: Device, clock: &dyn Fn() -> f64) -> f64 {
    let x = Tensor::ones([ROWS, WIDTH], (kind, device));
    let weight = Tensor::ones([WIDTH, WIDTH], (kind, device));
    let product = || {
        let y = x.linear(&weight, None::<&Tensor>);
        // Waits for a device that works on its own.
        y.get(0).get(0).double_value(&[])
    };
    product();
    let start = clock();
    product();
    clock() - start
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A clock by which each product takes as long as `seconds` says in turn.
    fn choice(seconds: [f64; 2]) -> Precision {
        let looks = Cell::new(0);
        let clock = || {
            let look = looks.replace(looks.get() + 1);
            // Two looks a product: the time at the second is later by what the product took.
            let took = seconds[(look / 2) % 2];
            100.0 * look as f64 + if look % 2 == 1 { took } else { 100.0 }
        };
        fastest(Device::Cpu, &clock)
    }

    #[test]
    fn bf16_must_be_worth_it() {
        assert_eq!(choice([2.0, 1.0]), Precision::Bf16);
        assert_eq!(choice([1.1, 1.0]), Precision::F32);
        assert_eq!(choice([1.0, 3.0]), Precision::F32);
    }
}
