//! Passes through the frozen extractor: what both inversions and the decoder's training are made of.

use burn::tensor::{Device, TensorData};
use hemlock_artifact::Affine;
use hemlock_models::{Extractor, tiles::on_device};
use hemlock_stage::{Context, StageError};
use ndarray::{Array2, Array4, ArrayView4, Axis, Slice};

/// Images of one tile on the processor. They do not touch each other, so the number changes no result.
pub(crate) const TILE: usize = 32;

/// A frozen extractor, and the map from its output to the space that the head sees.
pub(crate) struct Frozen<'a> {
    pub(crate) extractor: &'a Extractor,
    normalization: &'a Affine,
}

impl<'a> Frozen<'a> {
    pub(crate) fn new(extractor: &'a Extractor, normalization: &'a Affine) -> Self {
        Self { extractor, normalization }
    }

    pub(crate) fn device(&self) -> &Device {
        self.extractor.device()
    }

    /// Squared distances `|f(x) - zeta|^2`, `[n]`, and their gradients with respect to the pixels, for images `pixels`,
    /// `[n, 3, height, width]` in `[0, 1]`, and features `zeta`, `[n, d]`.
    pub(crate) fn gradient(&self, pixels: &[f32], zeta: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let d = self.extractor.feature_dim();
        let Affine { shift, scale } = self.normalization;
        let mut squares = Vec::with_capacity(zeta.len() / d);
        let gradient = self.extractor.pull(pixels, |row, features| {
            let mut by = Vec::with_capacity(features.len());
            for (features, zeta) in features.chunks_exact(d).zip(zeta[row * d..].chunks_exact(d)) {
                let mut square = 0.0;
                for (((x, zeta), shift), scale) in features.iter().zip(zeta).zip(shift).zip(scale) {
                    let off = (x - shift) * scale - zeta;
                    square += off * off;
                    by.push(2.0 * off * scale);
                }
                squares.push(square);
            }
            by
        });
        (squares, gradient)
    }

    /// [`Frozen::gradient`] of many images, in tiles.
    pub(crate) fn gradient_in_tiles(&self, pixels: &[f32], zeta: &[f32]) -> Result<(Vec<f32>, Vec<f32>), StageError> {
        let d = self.extractor.feature_dim();
        let n = zeta.len() / d;
        let size = pixels.len() / n.max(1);
        let tiles = on_device(self.device(), n, TILE, |rows| {
            let (start, end) = (rows.start, rows.end);
            Ok::<_, StageError>(self.gradient(&pixels[start * size..end * size], &zeta[start * d..end * d]))
        })?;
        let (squares, gradients): (Vec<_>, Vec<_>) = tiles.into_iter().unzip();
        Ok((squares.concat(), gradients.concat()))
    }

    /// Features `[n, d]` of images `[n, 3, height, width]` in `[0, 1]` that are not 8-bit.
    pub(crate) fn features(&self, images: ArrayView4<f32>, ctx: &Context) -> Result<Array2<f32>, StageError> {
        let n = images.len_of(Axis(0));
        let features = on_device(self.device(), n, TILE, |rows| {
            ctx.check()?;
            let pixels: Vec<f32> = images.slice_axis(Axis(0), Slice::from(rows)).iter().copied().collect();
            Ok::<_, StageError>(self.extractor.forward(&pixels))
        })?;
        let mut features = Array2::from_shape_vec((n, self.extractor.feature_dim()), features.concat())
            .map_err(|e| StageError::internal(format!("features have another shape than their extractor says: {e}")))?;
        self.normalization.apply(&mut features);
        Ok(features)
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
