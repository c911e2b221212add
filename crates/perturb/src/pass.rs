//! Forward and backward passes through the frozen extractor, for inversions, attacks on pixels, and the decoder's
//! training.

use burn::tensor::{Device, TensorData};
use hemlock_artifact::Normalization;
use hemlock_models::{ExtractError, Extractor, ForwardCache, Needs};
use hemlock_stage::{Context, StageError};
use ndarray::{Array2, Array4, ArrayView4, Axis, Slice};
use std::{collections::BTreeMap, ops::Range, sync::Mutex, sync::PoisonError};

/// Most images of one tile on the processor. Images do not influence each other, so the number changes no result.
pub(crate) const TILE: usize = 32;

/// Memory for forward caches in bytes: enough for some hundreds of CIFAR images in a ResNet-20. Images beyond it are
/// passed forward a second time.
const KEPT: usize = 1 << 30;

/// A frozen extractor, and the normalisation that maps its output to the head's feature space.
pub struct FrozenExtractor<'a> {
    /// The extractor.
    pub extractor: &'a Extractor,
    normalization: &'a Normalization,
}

impl<'a> FrozenExtractor<'a> {
    /// An extractor with the normalisation of its features.
    #[must_use]
    pub fn new(extractor: &'a Extractor, normalization: &'a Normalization) -> Self {
        Self { extractor, normalization }
    }

    /// The device that the extractor is on.
    #[must_use]
    pub fn device(&self) -> &Device {
        self.extractor.device()
    }

    pub(crate) fn normalization(&self) -> &Normalization {
        self.normalization
    }

    /// The gradient of a scalar function of the normalised features with respect to the pixels,
    /// `[n, 3, height, width]`. `grad_features(first_row, features)` is called with the normalised features of
    /// consecutive images and returns the gradient with respect to these.
    ///
    /// # Errors
    /// If the extractor is a child process that fails.
    pub fn vjp(
        &self,
        pixels: &[f32],
        mut grad_features: impl FnMut(usize, &[f32]) -> Vec<f32>,
    ) -> Result<Vec<f32>, ExtractError> {
        self.extractor.vjp(pixels, |row, features| self.grad_features(features, |z| grad_features(row, z)))
    }

    /// The gradient of a scalar function of the normalised features with respect to the features before normalisation.
    /// `grad_normalized` is called with the normalised features and returns the gradient with respect to these.
    fn grad_features(&self, features: &[f32], grad_normalized: impl FnOnce(&[f32]) -> Vec<f32>) -> Vec<f32> {
        let d = self.extractor.feature_dim();
        let mut z = features.to_vec();
        z.chunks_exact_mut(d).for_each(|z| self.normalization.apply_to(z));
        let mut by = grad_normalized(&z);
        let rows = features.chunks_exact(d).zip(by.chunks_exact_mut(d));
        rows.for_each(|(features, by)| self.normalization.backward(features, by));
        by
    }

    /// As [`FrozenExtractor::vjp`], for many images, in tiles. For each group of consecutive images,
    /// `grad_features(first_row, features)` returns the gradient with respect to the normalised features and an extra
    /// value. Returns the gradient with respect to the pixels, `[n, 3, height, width]`, and the extra values in the
    /// order of the images.
    ///
    /// # Errors
    /// If the extractor is a child process that fails.
    pub fn vjp_tiled<T: Send>(
        &self,
        pixels: &[f32],
        n: usize,
        grad_features: impl Fn(usize, &[f32]) -> (Vec<f32>, T) + Sync,
    ) -> Result<(Vec<f32>, Vec<T>), ExtractError> {
        let size = pixels.len() / n.max(1);
        let tiles = self.extractor.in_tiles(n, TILE, Needs::Gradients, |rows| {
            let mut extras = Vec::new();
            let gradient = self.vjp(&pixels[rows.start * size..rows.end * size], |row, z| {
                let (gradient, extra) = grad_features(rows.start + row, z);
                extras.push(extra);
                gradient
            })?;
            Ok::<_, ExtractError>((gradient, extras))
        })?;
        let (gradients, extras): (Vec<_>, Vec<_>) = tiles.into_iter().unzip();
        Ok((gradients.concat(), extras.into_iter().flatten().collect()))
    }

    /// Squared distances `|f(x) - zeta|^2`, `[n]`, and their gradients with respect to the pixels, for images `pixels`,
    /// `[n, 3, height, width]` in `[0, 1]`, and features `zeta`, `[n, d]`.
    ///
    /// # Errors
    /// If the extractor is a child process that fails.
    pub(crate) fn gradient(&self, pixels: &[f32], zeta: &[f32]) -> Result<(Vec<f32>, Vec<f32>), ExtractError> {
        let d = self.extractor.feature_dim();
        let mut squares = Vec::with_capacity(zeta.len() / d);
        let gradient = self.vjp(pixels, |row, z| {
            let (gradient, some) = distances(z, &zeta[row * d..], d);
            squares.extend(some);
            gradient
        })?;
        Ok((squares, gradient))
    }

    /// Squared distances `|f(x) - zeta|^2`, `[n]`, and their gradients with respect to the pixels, in tiles, for many
    /// images `pixels`, `[n, 3, height, width]` in `[0, 1]`, and features `zeta`, `[n, d]`.
    ///
    /// # Errors
    /// If the extractor is a child process that fails.
    pub fn gradient_in_tiles(&self, pixels: &[f32], zeta: &[f32]) -> Result<(Vec<f32>, Vec<f32>), ExtractError> {
        let d = self.extractor.feature_dim();
        let (gradient, squares) = self.vjp_tiled(pixels, zeta.len() / d, |row, z| distances(z, &zeta[row * d..], d))?;
        Ok((squares.concat(), gradient))
    }

    /// Normalised features `[n, d]` of images `[n, 3, height, width]` in f32, in units in which 8-bit images are in
    /// `[0, 1]`.
    ///
    /// # Errors
    /// If the run was interrupted, or if the extractor is a child process that fails.
    pub fn features(&self, images: ArrayView4<f32>, ctx: &Context) -> Result<Array2<f32>, StageError> {
        self.forward(images, ctx, |_, pixels| self.extractor.forward(pixels))
    }

    /// The normalised features of images, with the forward caches for [`FrozenExtractor::gradient_back`].
    pub(crate) fn pass(&self, images: ArrayView4<f32>, ctx: &Context) -> Result<Pass, StageError> {
        let room = self.extractor.cache_room(KEPT, TILE);
        let caches = Mutex::new(BTreeMap::new());
        let features = self.forward(images, ctx, |rows, pixels| {
            let cache = if rows.end <= room { self.extractor.forward_cached(pixels)? } else { None };
            let Some(cache) = cache else { return self.extractor.forward(pixels) };
            let features = cache.features.clone();
            caches.lock().unwrap_or_else(PoisonError::into_inner).insert(rows.start, cache);
            Ok(features)
        })?;
        Ok(Pass { features, caches: caches.into_inner().unwrap_or_else(PoisonError::into_inner) })
    }

    /// The gradients of [`FrozenExtractor::gradient_in_tiles`], for images that have passed forward already.
    ///
    /// # Errors
    /// If the extractor is a child process that fails.
    pub(crate) fn gradient_back(&self, pass: Pass, pixels: &[f32], zeta: &[f32]) -> Result<Vec<f32>, ExtractError> {
        let (n, d) = pass.features.dim();
        let size = pixels.len() / n.max(1);
        let caches = Mutex::new(pass.caches);
        let gradients = self.extractor.in_tiles(n, TILE, Needs::Gradients, |rows| {
            let pixels = &pixels[rows.start * size..rows.end * size];
            let zeta = &zeta[rows.start * d..];
            let cache = caches.lock().unwrap_or_else(PoisonError::into_inner).remove(&rows.start);
            let cache = cache.filter(|cache| cache.features.len() == rows.len() * d);
            match cache {
                Some(cache) => {
                    let gradient = self.grad_features(&cache.features, |z| distances(z, zeta, d).0);
                    self.extractor.backward(cache, pixels, &gradient)
                }
                None => self.vjp(pixels, |row, z| distances(z, &zeta[row * d..], d).0),
            }
        })?;
        Ok(gradients.concat())
    }

    /// Normalised features `[n, d]` of images. `make` is called with the rows of a tile and its pixels, and returns its
    /// features before normalisation.
    fn forward(
        &self,
        images: ArrayView4<f32>,
        ctx: &Context,
        make: impl Fn(Range<usize>, &[f32]) -> Result<Vec<f32>, ExtractError> + Sync,
    ) -> Result<Array2<f32>, StageError> {
        let n = images.len_of(Axis(0));
        let features = self.extractor.in_tiles(n, TILE, Needs::Features, |rows| {
            ctx.check()?;
            let pixels: Vec<f32> = images.slice_axis(Axis(0), Slice::from(rows.clone())).iter().copied().collect();
            Ok::<_, StageError>(make(rows, &pixels)?)
        })?;
        let mut features = Array2::from_shape_vec((n, self.extractor.feature_dim()), features.concat())
            .map_err(|e| StageError::internal(format!("features have another shape than their extractor says: {e}")))?;
        self.normalization.apply(features.view_mut());
        Ok(features)
    }
}

/// The forward pass of images, from which [`FrozenExtractor::gradient_back`] computes gradients.
pub(crate) struct Pass {
    /// Normalised features, `[n, d]`.
    pub(crate) features: Array2<f32>,
    /// Forward caches of tiles, by the number of their first image.
    caches: BTreeMap<usize, ForwardCache>,
}

/// The gradients of the squared distances of `z` to the first features of `zeta`, with respect to `z`, and the squared
/// distances. Features have `d` numbers each.
fn distances(z: &[f32], zeta: &[f32], d: usize) -> (Vec<f32>, Vec<f32>) {
    let off: Vec<f32> = z.iter().zip(zeta).map(|(z, zeta)| z - zeta).collect();
    let squares = off.chunks_exact(d).map(|off| off.iter().map(|off| off * off).sum()).collect();
    (off.into_iter().map(|off| 2.0 * off).collect(), squares)
}

/// The values of a tensor.
#[must_use]
pub fn host(data: TensorData) -> Vec<f32> {
    data.iter::<f32>().collect()
}

/// The nearest 8-bit images.
#[must_use]
pub fn rounded(pixels: &Array4<f32>) -> Array4<u8> {
    pixels.mapv(|x| (x.clamp(0.0, 1.0) * 255.0).round() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_fixtures::{context, network, patterns};

    #[test]
    fn gradients_go_through_the_normalization() {
        let extractor = network("resnet8-w4", 8);
        let pixels: Vec<f32> = patterns(2, 8, 0).iter().map(|p| f32::from(*p) / 255.0).collect();
        let d = extractor.feature_dim();
        let zeta: Vec<f32> = (0..2 * d).map(|j| (j % 5) as f32 / 10.0).collect();
        let affine = Normalization::Affine { shift: vec![0.1; d], scale: vec![3.0; d] };
        for normalization in [affine, Normalization::L2] {
            let frozen = FrozenExtractor::new(&extractor, &normalization);
            let (_, gradient) = frozen.gradient(&pixels, &zeta).unwrap();
            let square: f32 = gradient.iter().map(|g| g * g).sum();
            // Along the gradient, the sum of the squared distances rises by the square of the gradient.
            let at = |by: f32| {
                let moved: Vec<f32> = pixels.iter().zip(&gradient).map(|(x, g)| x + by * g).collect();
                frozen.gradient(&moved, &zeta).unwrap().0.iter().sum::<f32>()
            };
            let step = 1e-2 / square.sqrt();
            let slope = (at(step) - at(-step)) / (2.0 * step);
            assert!((slope / square - 1.0).abs() < 0.02, "{normalization:?}: {slope} for {square}");
        }
    }

    /// Gradients from a forward pass have the same bytes as those of a second forward pass, even if there was no memory
    /// for all forward caches.
    #[test]
    fn back_from_a_pass_is_the_gradient() {
        let extractor = network("resnet8-w4", 8);
        let n = 2 * TILE + 5;
        let pixels = patterns(n, 8, 0).mapv(|p| f32::from(p) / 255.0);
        let zeta: Vec<f32> = (0..n * extractor.feature_dim()).map(|j| (j % 7) as f32 / 10.0).collect();
        let frozen = FrozenExtractor::new(&extractor, &Normalization::L2);
        let flat: Vec<f32> = pixels.iter().copied().collect();
        let (_, expected) = frozen.gradient_in_tiles(&flat, &zeta).unwrap();
        context(0, |ctx| {
            let mut pass = frozen.pass(pixels.view(), ctx).unwrap();
            assert_eq!(pass.features, frozen.features(pixels.view(), ctx).unwrap());
            assert!(pass.caches.len() > 2);
            let second = *pass.caches.keys().nth(1).unwrap();
            pass.caches.remove(&second);
            assert_eq!(frozen.gradient_back(pass, &flat, &zeta).unwrap(), expected);
        });
    }
}
