//! Batch normalisation (Ioffe and Szegedy, 2015), and Continual Normalisation (Pham et al., 2022), which has a GroupNorm
//! without weights before it.
//!
//! While learning, a channel has the mean and variance of the rows of one pass; otherwise its running ones, so that no
//! row's answer depends on the rows beside it.

use tch::Tensor;

use crate::Error;
use crate::model::layers::{Init, Source};

/// PyTorch's, and transformers'.
const EPS: f64 = 1e-5;
const MEAN: &str = "running_mean";
const VARIANCE: &str = "running_var";

/// Whether what has this name follows the statistics of rows, and no gradient.
pub fn is_running(name: &str) -> bool {
    name.ends_with(MEAN) || name.ends_with(VARIANCE)
}

pub struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    /// Of the GroupNorm before it.
    groups: Option<i64>,
    /// Where its mean stands among the net's running statistics; its variance comes next.
    place: i64,
}

impl BatchNorm {
    pub fn new(source: &mut Source, name: &str, channels: i64, groups: Option<i64>, place: i64) -> Result<Self, Error> {
        let mut part = |part: &str, init| source(&format!("{name}.{part}"), &[channels], init);
        Ok(Self {
            weight: part("weight", Init::Ones)?,
            bias: part("bias", Init::Zeros)?,
            mean: part(MEAN, Init::Zeros)?,
            variance: part(VARIANCE, Init::Ones)?,
            groups,
            place,
        })
    }

    /// Of (rows, channels, height, width). A learning pass gives `statistics`, laid out as the net's running ones are, in
    /// which the means and unbiased variances of its rows are left.
    pub fn forward(&self, x: &Tensor, statistics: Option<&Tensor>) -> Tensor {
        let grouped = self.groups.map(|groups| x.group_norm(groups, None::<&Tensor>, None, EPS, true));
        let (x, channels) = (grouped.as_ref().unwrap_or(x), self.mean.numel() as i64);
        // One value has no variance.
        let measured = statistics.filter(|_| x.numel() as i64 > channels);
        let at = |all: &Tensor, start| all.narrow(0, start, channels);
        let (mean, variance) = match measured {
            Some(all) => (at(all, self.place), at(all, self.place + channels)),
            None => (self.mean.shallow_clone(), self.variance.shallow_clone()),
        };
        // With a momentum of 1, what is measured takes the place of what stands there.
        let (training, momentum) = (measured.is_some(), 1.0);
        x.batch_norm(Some(&self.weight), Some(&self.bias), Some(&mean), Some(&variance), training, momentum, EPS, true)
    }

    /// Of its running mean and variance.
    pub fn length(&self) -> i64 {
        2 * self.mean.numel() as i64
    }

    pub fn named(&self, name: &str) -> Vec<(String, Tensor)> {
        let parts = [("weight", &self.weight), ("bias", &self.bias), (MEAN, &self.mean), (VARIANCE, &self.variance)];
        parts.into_iter().map(|(part, tensor)| (format!("{name}.{part}"), tensor.shallow_clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::layers::drawn;
    use tch::{Device, Kind};

    /// Rows, channels, groups.
    const N: i64 = 5;
    const C: i64 = 6;
    const G: i64 = 3;

    fn centred(x: &Tensor, axes: &[i64]) -> Tensor {
        let mean = x.mean_dim(axes, true, None::<Kind>);
        let variance = (x - &mean).square().mean_dim(axes, true, None::<Kind>);
        (x - mean) / (variance + EPS).sqrt()
    }

    fn near(a: &Tensor, b: &Tensor) -> bool {
        (a - b).abs().max().double_value(&[]) < 1e-5
    }

    #[test]
    fn continual_normalisation_is_a_group_norm_then_a_batch_norm() {
        let x = Init::Normal(2.0).draw(1, "x", &[N, C, 4, 4]) + 3.0;
        let norm = BatchNorm::new(&mut drawn(1, Device::Cpu), "norm", C, Some(G), 0).unwrap();
        let statistics = Tensor::zeros([norm.length()], tch::kind::FLOAT_CPU);
        let learned = norm.forward(&x, Some(&statistics));
        let grouped = centred(&x.view([N, G, -1]), &[2]).view([N, C, 4, 4]);
        assert!(near(&learned, &centred(&grouped, &[0, 2, 3])));
        let columns = grouped.transpose(0, 1).reshape([C, -1]);
        assert!(near(&statistics.narrow(0, 0, C), &columns.mean_dim(&[1i64][..], false, None::<Kind>)));
        assert!(near(&statistics.narrow(0, C, C), &columns.var_dim(&[1i64][..], true, false)));
        // Unless it learns, it divides by running variances, which are 1 here.
        assert!(near(&norm.forward(&x, None), &(grouped / (1.0 + EPS).sqrt())));
    }

    #[test]
    fn a_channel_of_one_value_leaves_no_statistics() {
        let norm = BatchNorm::new(&mut drawn(1, Device::Cpu), "norm", C, None, 0).unwrap();
        let x = Init::Normal(1.0).draw(1, "x", &[1, C, 1, 1]);
        let statistics = Tensor::full([norm.length()], 7.0, tch::kind::FLOAT_CPU);
        assert_eq!(norm.forward(&x, Some(&statistics)), norm.forward(&x, None));
        assert_eq!(statistics, Tensor::full([norm.length()], 7.0, tch::kind::FLOAT_CPU));
    }
}
