//! The frozen extractor where it computes with tensors: what a pass makes stays on the device, and what travels is
//! little, and said.
//!
//! Images are rows `[n, 3 h w]` of pixels in `[0, 1]`, features rows `[n, d]`, and numbers of images columns `[n, 1]`.

use crate::FrozenExtractor;
use burn::tensor::{Device, Int, Tensor, TensorData};
use hemlock_artifact::Normalization;
use hemlock_models::{Extractor, Passed, travel};

/// A frozen extractor, and the map from its output to the space that the head sees.
pub struct OnDevice<'a> {
    extractor: &'a Extractor,
    /// Shift and scale, `[1, d]`; `None`: every sample is divided by its length.
    affine: Option<[Tensor<2>; 2]>,
}

impl<'a> OnDevice<'a> {
    /// The same extractor, for tensors.
    #[must_use]
    pub fn new(frozen: &FrozenExtractor<'a>) -> Self {
        let row = |values: &[f32]| up(values.to_vec(), values.len(), frozen.device());
        let affine = match frozen.normalization() {
            Normalization::Affine { shift, scale } => Some([row(shift), row(scale)]),
            Normalization::L2 => None,
        };
        Self { extractor: frozen.extractor, affine }
    }

    pub(crate) fn device(&self) -> &Device {
        self.extractor.device()
    }

    /// Images that go through the network.
    #[must_use]
    pub fn pass(&self, images: Tensor<2>) -> Pass<'_> {
        let [height, width] = self.extractor.spec().image_size;
        let n = images.dims()[0];
        self.kept(self.extractor.pass(images.reshape([n, 3, height, width])))
    }

    /// A pass that was kept.
    pub(crate) fn kept(&self, passed: Passed) -> Pass<'_> {
        Pass { frozen: self, passed }
    }
}

/// A pass, to go back from.
pub struct Pass<'a> {
    frozen: &'a OnDevice<'a>,
    passed: Passed,
}

/// The length of every sample, `[n, 1]`.
fn lengths(z: &Tensor<2>) -> Tensor<2> {
    z.clone().square().sum_dim(1).sqrt()
}

impl Pass<'_> {
    /// Keeps it for [`OnDevice::kept`].
    pub(crate) fn keep(self) -> Passed {
        self.passed
    }

    /// Normalised features.
    pub(crate) fn features(&self) -> Tensor<2> {
        let z = self.passed.features();
        match &self.frozen.affine {
            Some([shift, scale]) => (z - shift.clone()) * scale.clone(),
            None => {
                let length = lengths(&z);
                let nothing = length.clone().equal_elem(0.0);
                z / length.mask_fill(nothing, 1.0)
            }
        }
    }

    /// The derivative by the pixels of a function of the normalised features, which has that derivative by these.
    pub(crate) fn back(self, grad_normalized: Tensor<2>) -> Tensor<2> {
        let by = match &self.frozen.affine {
            Some([_, scale]) => grad_normalized * scale.clone(),
            None => {
                // The Jacobian of z / |z| is (1 - u u') / |z|, with u = z / |z|; there is none at 0.
                let z = self.passed.features();
                let length = lengths(&z);
                let nothing = length.clone().equal_elem(0.0);
                let length = length.mask_fill(nothing.clone(), 1.0);
                let u = z / length.clone();
                let along = (u.clone() * grad_normalized.clone()).sum_dim(1);
                let by = (grad_normalized - u * along) / length;
                let shape = by.dims();
                by.mask_fill(nothing.expand(shape), 0.0)
            }
        };
        let gradient = self.passed.back(by);
        let [n, channels, height, width] = gradient.dims();
        gradient.reshape([n, channels * height * width])
    }

    /// Squared distances to features `zeta`, `[n, 1]`, and their gradients by the pixels.
    #[must_use]
    pub fn gradient(self, zeta: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let off = self.features() - zeta;
        (off.clone().square().sum_dim(1), self.back(off * 2.0))
    }
}

/// Rows of so many numbers, on a device.
#[must_use]
pub fn up(values: Vec<f32>, columns: usize, device: &Device) -> Tensor<2> {
    let rows = values.len() / columns.max(1);
    travel::up(values, [rows, columns], device)
}

/// Numbers of rows, on a device.
pub(crate) fn rows(of: &[usize], device: &Device) -> Tensor<1, Int> {
    let numbers: Vec<i32> = of.iter().map(|row| *row as i32).collect();
    Tensor::from_data(TensorData::new(numbers, [of.len()]), device)
}
