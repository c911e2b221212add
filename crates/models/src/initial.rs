//! Initial weights of networks.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// Where the initial weights of a network come from: a random number generator, or [`Zeros`].
pub trait WeightSource {
    /// The next `count` weights, whose distribution is N(0, `std`^2).
    fn normal(&mut self, count: usize, std: f32) -> Vec<f32>;
}

impl WeightSource for ChaCha8Rng {
    fn normal(&mut self, count: usize, std: f32) -> Vec<f32> {
        StandardNormal.sample_iter(self).map(|z: f32| z * std).take(count).collect()
    }
}

/// No random weights, for a network whose weights are then loaded: drawing them would take longer than loading.
#[derive(Debug, Clone, Copy)]
pub struct Zeros;

impl WeightSource for Zeros {
    fn normal(&mut self, count: usize, _: f32) -> Vec<f32> {
        vec![0.0; count]
    }
}

/// A parameter of N(0, `std`^2), from `weights` and not from burn's global generator.
pub fn normal<const D: usize>(
    shape: [usize; D],
    std: f32,
    weights: &mut dyn WeightSource,
    device: &Device,
) -> Param<Tensor<D>> {
    let values = weights.normal(shape.iter().product(), std);
    Param::from_data(TensorData::new(values, shape), device)
}
