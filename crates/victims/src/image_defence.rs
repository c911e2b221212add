//! Defences that change images before an extractor sees them.

use crate::VictimData;
use hemlock_artifact::{Dataset, FeatureSplit, Features, Images, Matrix, Pixels, Poisons};
use hemlock_defences::images::ImageTransform;
use hemlock_models::{extract_into, open_extractor};
use hemlock_stage::{Context, StageError};
use hemlock_streams::Purpose;
use ndarray::{ArrayView4, ArrayViewMut4, Axis, Dim};
use rayon::prelude::*;

/// What a victim behind an [`ImageTransform`] trains on and is measured with.
pub struct DefendedData {
    transform: ImageTransform,
    features: Features,
    dataset: Dataset,
}

impl DefendedData {
    /// Transforms the images of `data`, and extracts features of what they became, with a normalisation of their own.
    ///
    /// # Errors
    /// If images or the extractor are missing, if an image cannot be transformed, if a feature is not finite, or if the
    /// run was interrupted.
    pub fn new(transform: ImageTransform, data: &VictimData) -> Result<Self, StageError> {
        let (Some(dataset), Some(extractor), ctx) = (data.images, data.extractor, data.ctx) else {
            return Err(StageError::internal("images were to be transformed without images or an extractor"));
        };
        let split = |number: u64, images: &Images| -> Result<Images, StageError> {
            let (n, c, h, w) = images.pixels.view().dim();
            let mut pixels = Pixels::scratch(ctx.scratch, Dim([n, c, h, w]))?;
            transformed(transform, number, images.pixels.view(), pixels.view_mut(), ctx)?;
            Ok(Images { pixels, labels: images.labels.clone(), source_index: images.source_index.clone() })
        };
        let dataset = Dataset {
            name: dataset.name.clone(),
            classes: dataset.classes.clone(),
            train: split(0, &dataset.train)?,
            validation: split(1, &dataset.validation)?,
            test: split(2, &dataset.test)?,
            skipped: dataset.skipped,
            test_groups: dataset.test_groups.clone(),
        };
        let extractor = open_extractor(extractor, ctx)?;
        let total = dataset.train.len() + dataset.validation.len() + dataset.test.len();
        let bar = ctx.progress.start("features of transformed images", total as u64, "images");
        let mut before = 0;
        let mut extract = |images: &Images| -> Result<FeatureSplit, StageError> {
            let mut features = Matrix::scratch(ctx.scratch, Dim([images.len(), extractor.feature_dim()]))?;
            let done = |done| bar.at((before + done) as u64);
            extract_into(&extractor, images.pixels.view(), features.view_mut(), ctx, &done)?;
            before += images.len();
            let (labels, source_index) = (images.labels.clone(), images.source_index.clone());
            Ok(FeatureSplit { features, labels, source_index })
        };
        let [mut train, mut validation, mut test] =
            [extract(&dataset.train)?, extract(&dataset.validation)?, extract(&dataset.test)?];
        let normalization = data.features.normalization.renewed(train.features.view());
        for split in [&mut train, &mut validation, &mut test] {
            normalization.apply(split.features.view_mut());
        }
        let (classes, test_groups) = (data.features.classes.clone(), data.features.test_groups.clone());
        let features = Features { classes, normalization, train, validation, test, test_groups };
        Ok(Self { transform, features, dataset })
    }

    /// The data of a victim behind the transformation, whose data is `data` without it.
    #[must_use]
    pub fn of<'a>(&'a self, data: &VictimData<'a>) -> VictimData<'a> {
        VictimData { features: &self.features, images: Some(&self.dataset), preconditioner: None, ..*data }
    }

    /// Poisons as they are behind the transformation.
    ///
    /// # Errors
    /// If an image cannot be transformed, or if the run was interrupted.
    pub fn poisons(&self, poisons: &Poisons, ctx: &Context) -> Result<Poisons, StageError> {
        let mut images = poisons.images.clone();
        transformed(self.transform, 3, poisons.images.view(), images.view_mut(), ctx)?;
        Ok(Poisons { images, ..poisons.clone() })
    }
}

/// Writes transformed images `[n, 3, height, width]` to `to`. `split` selects streams of noise.
fn transformed(
    transform: ImageTransform,
    split: u64,
    from: ArrayView4<u8>,
    mut to: ArrayViewMut4<u8>,
    ctx: &Context,
) -> Result<(), StageError> {
    let (_, _, height, width) = from.dim();
    let images = to.axis_iter_mut(Axis(0)).zip(from.axis_iter(Axis(0))).enumerate();
    let images: Vec<_> = images.collect();
    images.into_par_iter().try_for_each(|(i, (mut to, from))| {
        ctx.check()?;
        let mut chw: Vec<u8> = from.iter().copied().collect();
        let mut rng = Purpose::DefenceNoise.at(ctx.seed, [split, i as u64]);
        transform.apply(&mut chw, [height, width], &mut rng)?;
        to.iter_mut().zip(chw).for_each(|(to, x)| *to = x);
        Ok(())
    })
}
