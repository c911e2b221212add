//! The frozen extractor on a device that computes with tensors. Results of passes stay on the device; what is
//! transferred is little, and is documented.
//!
//! Images are rows `[n, 3 h w]` of pixels in `[0, 1]`, features are rows `[n, d]`, and values per image are columns
//! `[n, 1]`.

use crate::FrozenExtractor;
use burn::tensor::{Device, Int, Tensor, TensorData};
use hemlock_artifact::Normalization;
use hemlock_models::{ExtractError, Extractor, Passed, travel};

/// A frozen extractor, and the normalisation that maps its output to the head's feature space, as tensors on its
/// device.
pub struct OnDevice<'a> {
    extractor: &'a Extractor,
    /// Shift and scale, `[1, d]`; if `None`, every feature vector is divided by its L2 norm.
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

    /// The forward pass of images `[n, 3 h w]`.
    ///
    /// # Errors
    /// [`ExtractError::NoNetwork`] if the extractor is a child process.
    pub fn pass(&self, images: Tensor<2>) -> Result<Pass<'_>, ExtractError> {
        let [height, width] = self.extractor.image_size();
        let n = images.dims()[0];
        Ok(self.kept(self.extractor.pass(images.reshape([n, 3, height, width]))?))
    }

    /// Wraps a forward pass that [`Pass::keep`] returned.
    pub(crate) fn kept(&self, passed: Passed) -> Pass<'_> {
        Pass { frozen: self, passed }
    }
}

/// A forward pass, from which gradients with respect to pixels can be computed.
pub struct Pass<'a> {
    frozen: &'a OnDevice<'a>,
    passed: Passed,
}

/// The L2 norm of every row, `[n, 1]`.
fn lengths(z: &Tensor<2>) -> Tensor<2> {
    z.clone().square().sum_dim(1).sqrt()
}

impl Pass<'_> {
    /// Unwraps the forward pass, for [`OnDevice::kept`].
    pub(crate) fn keep(self) -> Passed {
        self.passed
    }

    /// The normalised features, `[n, d]`.
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

    /// The vector-Jacobian product: given the gradient with respect to the normalised features, `[n, d]`, returns that
    /// with respect to the pixels, `[n, 3 h w]`.
    pub(crate) fn back(self, grad_normalized: Tensor<2>) -> Tensor<2> {
        let by = match &self.frozen.affine {
            Some([_, scale]) => grad_normalized * scale.clone(),
            None => {
                // The Jacobian of z / |z| is (1 - u u') / |z|, with u = z / |z|. It does not exist at z = 0, where the
                // gradient is set to 0.
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

    /// The squared distances to the features `zeta`, `[n, 1]`, and their gradients with respect to the pixels.
    #[must_use]
    pub fn gradient(self, zeta: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let off = self.features() - zeta;
        (off.clone().square().sum_dim(1), self.back(off * 2.0))
    }
}

/// Uploads values as rows of `columns` numbers.
#[must_use]
pub fn up(values: Vec<f32>, columns: usize, device: &Device) -> Tensor<2> {
    let rows = values.len() / columns.max(1);
    travel::up(values, [rows, columns], device)
}

/// Uploads row numbers, to select rows by.
pub(crate) fn rows(of: &[usize], device: &Device) -> Tensor<1, Int> {
    let numbers: Vec<i32> = of.iter().map(|row| *row as i32).collect();
    Tensor::from_data(TensorData::new(numbers, [of.len()]), device)
}
