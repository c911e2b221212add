//! Bounded noise on images, one for every image or one for every class.

use ndarray::{Array4, ArrayView4, Axis};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What has noise of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Every image.
    #[default]
    SampleWise,
    /// Every class.
    ClassWise,
}

impl Scope {
    /// The name in specs and results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SampleWise => "sample-wise",
            Self::ClassWise => "class-wise",
        }
    }
}

/// Images with their noise.
pub(crate) struct Noise<'a> {
    base: ArrayView4<'a, u8>,
    /// Number of the noise that each image has.
    of: Vec<usize>,
    /// The noises, `[3, height, width]` each, for pixels in `[0, 1]`.
    noises: Vec<Vec<f32>>,
    /// Largest magnitude of the noise.
    radius: f32,
}

impl<'a> Noise<'a> {
    /// Noise of zero on the images `base`, `[m, 3, height, width]`, whose labels are below `classes`.
    pub(crate) fn new(base: ArrayView4<'a, u8>, labels: &[u32], classes: usize, scope: Scope, radius: f32) -> Self {
        let size = base.len() / base.len_of(Axis(0)).max(1);
        let (of, count) = match scope {
            Scope::SampleWise => ((0..labels.len()).collect(), labels.len()),
            Scope::ClassWise => (labels.iter().map(|label| *label as usize).collect(), classes),
        };
        Self { base, of, noises: vec![vec![0.0; size]; count], radius }
    }

    /// The images with noise in `[0, 1]`, `[m, 3, height, width]`, flattened.
    pub(crate) fn pixels(&self) -> Vec<f32> {
        let images = self.base.axis_iter(Axis(0)).zip(&self.of);
        let noised = images.flat_map(|(image, of)| image.into_iter().zip(&self.noises[*of]));
        noised.map(|(pixel, noise)| (f32::from(*pixel) / 255.0 + noise).clamp(0.0, 1.0)).collect()
    }

    /// The nearest 8-bit images. The bound is a whole number of grey levels, so that rounding does not exceed it.
    pub(crate) fn images(&self) -> Array4<u8> {
        let pixels = self.pixels().into_iter().map(|x| (x * 255.0).round() as u8).collect();
        Array4::from_shape_vec(self.base.raw_dim(), pixels).expect("there are as many pixels as in the base images")
    }

    /// Takes a signed gradient step of the length `length`. `gradients` are those with respect to the pixels of each
    /// image; those of images that share a noise are summed.
    pub(crate) fn step(&mut self, gradients: &[f32], length: f32) {
        let size = self.noises.first().map_or(1, Vec::len);
        let mut images = vec![Vec::new(); self.noises.len()];
        self.of.iter().enumerate().for_each(|(image, of)| images[*of].push(image));
        let radius = self.radius;
        self.noises.par_iter_mut().zip(images).for_each(|(noise, images)| {
            let mut sum = vec![0.0f32; size];
            for image in images {
                sum.iter_mut().zip(&gradients[image * size..][..size]).for_each(|(sum, g)| *sum += g);
            }
            for (noise, g) in noise.iter_mut().zip(sum) {
                // `signum` of 0 is 1.
                let sign = if g == 0.0 { 0.0 } else { g.signum() };
                *noise = (*noise - length * sign).clamp(-radius, radius);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_goes_down_the_gradients_and_stays_small() {
        let base = Array4::<u8>::from_shape_fn((3, 3, 1, 1), |(i, c, _, _)| [0, 100, 255][i] + (c as u8) / 3);
        let labels = [0, 1, 1];
        let gradients = [1.0, -1.0, 0.0, 2.0, -2.0, 0.0, -1.0, 3.0, 0.0];
        let level = 1.0 / 255.0;
        let mut own = Noise::new(base.view(), &labels, 2, Scope::SampleWise, 8.0 * level);
        (0..5).for_each(|_| own.step(&gradients, 3.0 * level));
        let images: Vec<u8> = own.images().iter().copied().collect();
        assert_eq!(images, [0, 8, 0, 92, 108, 100, 255, 247, 255]);
        // The gradients of class 1 add up to 1, 1 and 0.
        let mut shared = Noise::new(base.view(), &labels, 2, Scope::ClassWise, 8.0 * level);
        shared.step(&gradients, 3.0 * level);
        let images: Vec<u8> = shared.images().iter().copied().collect();
        assert_eq!(images, [0, 3, 0, 97, 97, 100, 252, 252, 255]);
    }
}
