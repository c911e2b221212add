//! Passes through the frozen extractor: what both inversions and the decoder's training are made of.

use burn::tensor::{Device, Tensor, TensorData};
use hemlock_artifact::Affine;
use hemlock_models::{Extractor, tiles::on_device};
use hemlock_stage::{Context, StageError};
use ndarray::{Array2, Array4, ArrayView4, Axis, Slice};

/// Images of one tile on the processor. They do not touch each other, so the number changes no result.
pub(crate) const TILE: usize = 32;

/// A frozen extractor, and the map from its output to the space that the head sees.
pub(crate) struct Frozen<'a> {
    pub(crate) extractor: &'a Extractor,
    shift: Tensor<2>,
    scale: Tensor<2>,
}

impl<'a> Frozen<'a> {
    pub(crate) fn new(extractor: &'a Extractor, normalization: &Affine) -> Self {
        let row = |v: &[f32]| Tensor::from_data(TensorData::new(v.to_vec(), [1, v.len()]), extractor.device());
        Self { extractor, shift: row(&normalization.shift), scale: row(&normalization.scale) }
    }

    pub(crate) fn device(&self) -> &Device {
        self.extractor.device()
    }

    /// Features `[n, d]` of images `[n, 3, height, width]` in `[0, 1]`.
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        (self.extractor.forward(images) - self.shift.clone()) * self.scale.clone()
    }

    /// Squared distances `|f(x) - zeta|^2`, `[n]`, and their gradients with respect to the pixels, for images `pixels` of shape
    /// `[n, 3, height, width]` in `[0, 1]` and features `zeta`, `[n, d]`.
    pub(crate) fn gradient(
        &self,
        pixels: Vec<f32>,
        shape: [usize; 4],
        zeta: Vec<f32>,
    ) -> Result<(Vec<f32>, Vec<f32>), StageError> {
        let device = self.device();
        let x = Tensor::<4>::from_inner(Tensor::from_data(TensorData::new(pixels, shape), device)).require_grad();
        let d = zeta.len() / shape[0];
        let zeta = Tensor::<2>::from_data(TensorData::new(zeta, [shape[0], d]), device);
        let squares = (self.forward(x.clone()) - Tensor::from_inner(zeta)).powi_scalar(2).sum_dim(1);
        let mut gradients = squares.clone().sum().backward();
        let gradient = x.grad_remove(&mut gradients).ok_or_else(|| StageError::internal("pixels got no gradient"))?;
        Ok((host(squares.into_data()), host(gradient.into_data())))
    }

    /// [`Frozen::gradient`] of many images, in tiles.
    pub(crate) fn gradient_in_tiles(
        &self,
        pixels: &[f32],
        shape: [usize; 4],
        zeta: &[f32],
    ) -> Result<(Vec<f32>, Vec<f32>), StageError> {
        let [n, channels, height, width] = shape;
        let (size, d) = (channels * height * width, zeta.len() / n);
        let tiles = on_device(self.device(), n, TILE, |rows| {
            let of = |values: &[f32], size: usize| values[rows.start * size..rows.end * size].to_vec();
            self.gradient(of(pixels, size), [rows.len(), channels, height, width], of(zeta, d))
        })?;
        let (squares, gradients): (Vec<_>, Vec<_>) = tiles.into_iter().unzip();
        Ok((squares.concat(), gradients.concat()))
    }

    /// Features `[n, d]` of images `[n, 3, height, width]` in `[0, 1]` that are not 8-bit.
    pub(crate) fn features(&self, images: ArrayView4<f32>, ctx: &Context) -> Result<Array2<f32>, StageError> {
        let (n, channels, height, width) = images.dim();
        let features = on_device(self.device(), n, TILE, |rows| {
            ctx.check()?;
            let len = rows.len();
            let pixels = images.slice_axis(Axis(0), Slice::from(rows)).iter().copied().collect();
            let x = Tensor::from_data(TensorData::new(pixels, [len, channels, height, width]), self.device());
            Ok::<_, StageError>(host(self.forward(x).into_data()))
        })?;
        Array2::from_shape_vec((n, self.extractor.feature_dim()), features.concat())
            .map_err(|e| StageError::internal(format!("features have another shape than their extractor says: {e}")))
    }
}

/// A tensor's values.
pub(crate) fn host(data: TensorData) -> Vec<f32> {
    data.iter::<f32>().collect()
}

/// The nearest 8-bit images.
pub(crate) fn rounded(pixels: &Array4<f32>) -> Array4<u8> {
    pixels.mapv(|x| (x.clamp(0.0, 1.0) * 255.0).round() as u8)
}
