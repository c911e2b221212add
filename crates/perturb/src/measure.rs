//! Measures of finished poisons: their 8-bit images, how well they match their features, and how unusual their features
//! are.

use crate::{
    clean::{CleanFeatureStats, distance, distances, nearest, norm},
    pass::{FrozenExtractor, rounded},
};
use hemlock_artifact::{Features, Images, PoisonFit};
use hemlock_models::extract;
use hemlock_stage::{Context, ErrorKind, StageError};
use hemlock_threat::Constraint;
use ndarray::{Array4, ArrayView2, Axis};

/// What poisons are measured with.
pub struct Measure<'a> {
    /// The extractor.
    pub frozen: &'a FrozenExtractor<'a>,
    /// The clean features.
    pub features: &'a Features,
    /// Statistics of the clean features.
    pub clean: &'a CleanFeatureStats,
    /// The set that poisoned features have to lie in.
    pub constraint: &'a Constraint,
    /// Labels of the poisons.
    pub labels: &'a [u32],
    /// Numbers of the base images in the training split.
    pub base_index: &'a [u32],
    /// Whether victims receive the pixels as they are, and not as 8-bit images.
    pub unclipped: bool,
}

impl Measure<'_> {
    /// The 8-bit images of `pixels`, `[m, 3, height, width]`, and their measures. `zeta`, `[m, d]`, are the features
    /// that were to be matched; if it is `None`, distances are to the features of the pixels before rounding. `passes`
    /// holds the number of passes that each image took.
    ///
    /// # Errors
    /// If the images have another size than the extractor expects, if a feature is not finite, or if the run was
    /// interrupted.
    pub fn finish(
        &self,
        pixels: &Array4<f32>,
        zeta: Option<ArrayView2<f32>>,
        passes: &[u32],
        ctx: &Context,
    ) -> Result<(Array4<u8>, Vec<PoisonFit>), StageError> {
        let unrounded = self.frozen.features(pixels.view(), ctx)?;
        let zeta = zeta.unwrap_or(unrounded.view());
        let images = rounded(pixels);
        let z = if self.unclipped {
            unrounded.clone()
        } else {
            let mut z = extract(self.frozen.extractor, images.view(), ctx)?;
            self.features.normalization.apply(z.view_mut());
            z
        };
        let train = self.features.train.features.view();
        let neighbours = nearest(z.view(), train, 1);
        let (before, after) = (distances(unrounded.view(), zeta), distances(z.view(), zeta));
        let outside = self.outside(z.view());
        let fit = |i: usize| {
            let (norm, nearest) = (norm(z.row(i)), neighbours[i].first().map_or(f32::NAN, |(_, d)| *d));
            PoisonFit {
                start_distance: distance(train.row(self.base_index[i] as usize), zeta.row(i)),
                distance_unrounded: before[i],
                distance: after[i],
                outside: outside[i],
                norm,
                norm_z: self.clean.norm.z(norm),
                nearest,
                nearest_z: self.clean.nearest.z(nearest),
                passes: passes[i],
            }
        };
        let fits = (0..passes.len()).map(fit).collect();
        Ok((images, fits))
    }

    /// The distance of every row of `z` from the constraint set of its label.
    fn outside(&self, z: ArrayView2<f32>) -> Vec<f32> {
        let mut inside = z.mapv(f64::from);
        self.constraint.project(&mut inside, self.labels);
        distances(inside.mapv(|x| x as f32).view(), z)
    }
}

/// The base images of poisons, `[m, 3, height, width]`.
///
/// # Errors
/// If a number is not that of an image in `train`.
pub fn base_images(train: &Images, base_index: &[u32]) -> Result<Array4<u8>, StageError> {
    let rows: Vec<usize> = base_index.iter().map(|i| *i as usize).collect();
    match rows.iter().find(|i| **i >= train.len()) {
        Some(i) => {
            let message = format!("a poison is made of training image {i}, and there are {}", train.len());
            Err(StageError::new(ErrorKind::Artifact, message))
        }
        None => Ok(train.pixels.view().select(Axis(0), &rows)),
    }
}
