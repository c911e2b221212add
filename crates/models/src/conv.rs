//! Convolutions in training: on the processor by `hemlock-conv`, which is several times faster there, elsewhere by burn.

use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;

/// What `conv`, square and without a bias, makes of images `[n, c, h, w]`.
pub(crate) fn conv2d(conv: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if let Some(y) = flex::conv2d(conv, &x) {
        return y;
    }
    conv.forward(x)
}

#[cfg(feature = "flex")]
mod flex {
    use std::sync::Arc;

    use burn::backend::autodiff::checkpoint::base::Checkpointer;
    use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{Autodiff, Flex};
    use burn::nn::conv::Conv2d;
    use burn::tensor::{Device, Tensor, TensorData};
    use hemlock_conv::{Conv, Finish, Geometry, Planes, Start};
    use rayon::prelude::*;

    /// Images of one task: enough to be worth their share of a thread.
    const TILE: usize = 4;

    /// `None` where the tensors lie elsewhere, or are of another type.
    pub(super) fn conv2d(conv: &Conv2d, x: &Tensor<4>) -> Option<Tensor<4>> {
        let weight = conv.weight.val();
        let [outputs, inputs, kernel, _] = weight.dims();
        let geometry = Geometry { inputs, outputs, kernel, stride: conv.stride[0], padding: kernel / 2 };
        let Ok(x) = x.clone().try_into_primitive::<Autodiff<Flex>>() else {
            let x = x.clone().try_into_primitive::<Flex>().ok()?;
            let weight = values(weight.inner().try_into_primitive::<Flex>().ok()?);
            let pass = Pass::new(geometry, x, weight);
            return Some(pass.output());
        };
        let weight = weight.try_into_primitive::<Autodiff<Flex>>().ok()?;
        let ((x, x_node), (weight, weight_node)) = (x.into_parts(), weight.into_parts());
        let pass = Pass::new(geometry, x, values(weight));
        let output = primitive(pass.output());
        let prepared = Derivative.prepare::<NoCheckpointing>([x_node, weight_node]).compute_bound();
        let output = match prepared.stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(pass, output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        };
        Some(Tensor::from_primitive::<Autodiff<Flex>>(output))
    }

    /// What a convolution was applied to.
    #[derive(Debug, Clone)]
    struct Pass {
        geometry: Geometry,
        /// `[n, c, h, w]`.
        shape: [usize; 4],
        x: Arc<Vec<Planes>>,
        weight: Arc<Vec<f32>>,
    }

    #[derive(Debug)]
    struct Derivative;

    impl Pass {
        fn new(geometry: Geometry, x: FloatTensor<Flex>, weight: Vec<f32>) -> Self {
            let x = Tensor::<4>::from_primitive::<Flex>(x);
            let shape = x.dims();
            Self { x: Arc::new(planes(x, geometry.padding)), geometry, shape, weight: Arc::new(weight) }
        }

        fn output(&self) -> Tensor<4> {
            let conv = Conv::new(self.geometry, &self.weight, &[]);
            tensor(self.geometry.output(self.shape), |tile| {
                let x = &self.x[tile];
                let mut out = Planes::new(self.geometry.output(x.shape()), 0);
                conv.apply(x, Start::Zero, Finish::Keep, &mut out);
                out
            })
        }
    }

    impl Backward<Flex, 2> for Derivative {
        type State = Pass;

        fn backward(self, ops: Ops<Pass, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
            let Pass { geometry, shape, x, weight } = ops.state;
            let of = Tensor::<4>::from_primitive::<Flex>(gradients.consume::<Flex>(&ops.node));
            let transposed = Conv::transposed(geometry, &weight);
            let of = planes(of, transposed.border());
            let [by_x, by_weight] = ops.parents;
            if let Some(node) = by_x {
                let by_x = tensor(shape, |tile| {
                    let mut dx = Planes::new(x[tile].shape(), 0);
                    transposed.apply(&of[tile], Start::Zero, Finish::Keep, &mut dx);
                    dx
                });
                gradients.register::<Flex>(node.id, primitive(by_x));
            }
            if let Some(node) = by_weight {
                let Geometry { outputs, inputs, kernel, .. } = geometry;
                let by_weight = TensorData::new(geometry.weight_gradient(&x, &of), [outputs, inputs, kernel, kernel]);
                gradients.register::<Flex>(node.id, primitive(Tensor::<4>::from_data(by_weight, &Device::flex())));
            }
        }
    }

    /// The images of a tensor, in tiles.
    fn planes(images: Tensor<4>, border: usize) -> Vec<Planes> {
        let [_, c, h, w] = images.dims();
        let data = images.into_data();
        let values: Vec<f32>;
        let values = match data.as_slice::<f32>() {
            Ok(values) => values,
            Err(_) => {
                values = data.iter::<f32>().collect();
                &values
            }
        };
        let tile = |values: &[f32]| {
            let mut planes = Planes::new([values.len() / (c * h * w), c, h, w], border);
            planes.load(values);
            planes
        };
        values.par_chunks(TILE * c * h * w).map(tile).collect()
    }

    /// A tensor of that shape from its tiles.
    fn tensor(shape @ [n, c, h, w]: [usize; 4], tile: impl Fn(usize) -> Planes + Sync) -> Tensor<4> {
        let mut values = vec![0.0; n * c * h * w];
        values.par_chunks_mut(TILE * c * h * w).enumerate().for_each(|(i, values)| tile(i).store(values));
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    fn values(tensor: FloatTensor<Flex>) -> Vec<f32> {
        Tensor::<4>::from_primitive::<Flex>(tensor).into_data().iter::<f32>().collect()
    }

    fn primitive(tensor: Tensor<4>) -> FloatTensor<Flex> {
        match tensor.try_into_primitive::<Flex>() {
            Ok(primitive) => primitive,
            Err(e) => unreachable!("a tensor made on flex lies elsewhere: {e:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{self, Backend};
    use burn::nn::PaddingConfig2d;
    use burn::nn::conv::Conv2dConfig;
    use burn::tensor::{Device, TensorData};

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().iter::<f32>().collect()
    }

    /// What `apply` makes of some images, and the derivatives of a weighted sum of that by the images and by the weights.
    fn results(apply: impl Fn(&Conv2d, Tensor<4>) -> Tensor<4>, conv: &Conv2d, device: &Device) -> [Vec<f32>; 3] {
        let [_, channels, ..] = conv.weight.dims();
        let numbers = (0..6 * channels * 63).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
        let x = Tensor::<4>::from_data(TensorData::new::<f32, _>(numbers, [6, channels, 9, 7]), device).require_grad();
        let y = apply(conv, x.clone());
        let share = Tensor::arange(0..y.shape().num_elements() as i64, device).float().reshape(y.dims()).sin();
        let gradients = (y.clone() * share).sum().backward();
        [values(y), values(x.grad(&gradients).unwrap()), values(conv.weight.grad(&gradients).unwrap())]
    }

    #[test]
    fn outputs_and_derivatives_are_those_of_burn() {
        let device = device::open(Backend::default()).unwrap().autodiff();
        for (channels, kernel, stride) in [([3, 20], 3, 1), ([16, 32], 3, 2), ([20, 5], 1, 2), ([3, 16], 7, 2)] {
            let pad = kernel / 2;
            let conv = Conv2dConfig::new(channels, [kernel; 2])
                .with_stride([stride; 2])
                .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
                .with_bias(false)
                .init(&device);
            let own = results(conv2d, &conv, &device);
            let burn = results(|conv, x| conv.forward(x), &conv, &device);
            for (own, burn) in own.iter().zip(burn) {
                let largest = burn.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                let off = own.iter().zip(&burn).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
                assert!(own.len() == burn.len() && off < 1e-5 * largest, "{channels:?}: {off} of {largest}");
            }
        }
    }
}
