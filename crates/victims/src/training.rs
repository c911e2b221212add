//! Training sets: clean data, and the changes that an attack or a control makes to it.

use hemlock_artifact::{Accuracy, Answers, Dataset, ExtractorArtifact, Features, Outcome, PoisonFeatures, Poisons};
use hemlock_defences::TrainingData;
use hemlock_head::{HeadError, Preconditioner, Samples};
use hemlock_models::{extract, open_extractor};
use hemlock_perturb::FrozenExtractor;
use hemlock_stage::{Context, StageError};
use ndarray::{Array2, Array4};
use std::sync::Arc;

/// The data that every victim trains on and is measured with, whatever the attack.
#[derive(Clone, Copy)]
pub struct VictimData<'a> {
    /// Features by the victim extractor.
    pub features: &'a Features,
    /// The images of these features, if the victim reads images.
    pub images: Option<&'a Dataset>,
    /// The victim extractor, if the victim reads it.
    pub extractor: Option<&'a ExtractorArtifact>,
    /// Weight decay of linear heads.
    pub weight_decay: f64,
    /// A preconditioner for linear heads on these features with this weight decay; without it, every training makes
    /// one.
    pub preconditioner: Option<&'a Arc<Preconditioner>>,
    /// The context of the run.
    pub ctx: &'a Context<'a>,
}

/// A change of clean data: samples that are added, and clean samples that are left out.
pub struct TrainingSetChange {
    /// Features that are added, `[m, d]`, normalised as the head sees them.
    pub features: Array2<f64>,
    /// Images that are added, `[m, 3, height, width]`; `None` if there are only features.
    pub images: Option<Array4<u8>>,
    /// Labels of the added samples, `[m]`.
    pub labels: Vec<u32>,
    /// Row numbers of the clean samples that are left out.
    pub removed: Vec<u32>,
}

impl<'a> VictimData<'a> {
    /// Data of features alone: without images, an extractor or a preconditioner.
    #[must_use]
    pub fn of_features(features: &'a Features, weight_decay: f64, ctx: &'a Context<'a>) -> Self {
        Self { features, images: None, extractor: None, weight_decay, preconditioner: None, ctx }
    }

    /// Number of classes.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.features.classes.len()
    }

    /// Returns the outcome of a victim with these predictions for the test split, without any measures of its training.
    pub fn outcome(&self, answers: Answers) -> Outcome {
        Outcome {
            accuracy: Accuracy::of(&answers, &self.features.test.labels, self.classes()),
            answers,
            epochs: Vec::new(),
            clean_loss: None,
            gradient_norm: None,
            converged: true,
            weight_decay: None,
            certificate: None,
            head: None,
        }
    }
}

impl TrainingSetChange {
    /// Returns the change that changes nothing.
    pub fn none(data: &VictimData) -> Self {
        let dim = data.features.train.features.view().ncols();
        let images = data.images.map(|dataset| {
            let (_, channels, height, width) = dataset.train.pixels.view().dim();
            Array4::zeros((0, channels, height, width))
        });
        Self { features: Array2::zeros((0, dim)), images, labels: Vec::new(), removed: Vec::new() }
    }

    /// The change that poisoned features make.
    #[must_use]
    pub fn of_features(data: &VictimData, poisons: &PoisonFeatures) -> Self {
        let (features, labels) = (poisons.features.mapv(f64::from), poisons.labels.clone());
        Self { features, labels, ..Self::none(data) }
    }

    /// The change that poisoned images make for victims that train on features.
    ///
    /// # Errors
    /// If the extractor is missing, cannot be opened or computes numbers that are not finite.
    pub fn of_images(data: &VictimData, poisons: &Poisons) -> Result<Self, StageError> {
        let VictimData { features, extractor, ctx, .. } = data;
        let Some(extractor) = extractor else {
            return Err(StageError::internal("poisons came without the extractor they were made with"));
        };
        let extractor = open_extractor(extractor, ctx)?;
        let z = match &poisons.pixels {
            Some(pixels) => FrozenExtractor::new(&extractor, &features.normalization).features(pixels.view(), ctx)?,
            None => {
                let mut z = extract(&extractor, poisons.images.view(), ctx)?;
                features.normalization.apply(z.view_mut());
                z
            }
        };
        Ok(Self { features: z.mapv(f64::from), images: None, ..Self::of_pictures(poisons) })
    }

    /// The change that poisoned images make for victims that train on images.
    #[must_use]
    pub fn of_pictures(poisons: &Poisons) -> Self {
        Self {
            features: Array2::zeros((0, 0)),
            images: Some(poisons.images.clone()),
            labels: poisons.labels.clone(),
            removed: if poisons.replaces { poisons.base_index.clone() } else { Vec::new() },
        }
    }

    /// Returns the added features and labels as samples of a head.
    ///
    /// # Errors
    /// If the number of labels is not that of the features, if a label is out of range, or if a feature is not finite.
    pub fn samples(&self, classes: usize) -> Result<Samples<'_>, HeadError> {
        Samples::new(self.features.view(), &self.labels, classes)
    }

    /// Row numbers of the clean samples that stay, of `n`; `None` if all do.
    pub fn kept(&self, n: usize) -> Option<Vec<usize>> {
        if self.removed.is_empty() {
            return None;
        }
        let mut stays = vec![true; n];
        for row in &self.removed {
            if let Some(stays) = stays.get_mut(*row as usize) {
                *stays = false;
            }
        }
        Some((0..n).filter(|i| stays[*i]).collect())
    }
}

/// [`on_samples`], with the training set of a defence.
pub(crate) fn on_set<T>(
    data: &VictimData,
    change: &TrainingSetChange,
    train: impl FnOnce(&TrainingData<'_>) -> Result<T, StageError>,
) -> Result<T, StageError> {
    let trained = on_samples(data, change, |blocks| {
        let blocks: Vec<Samples> = blocks.iter().map(Samples::reborrow).collect();
        train(&TrainingData::new(&blocks, data.weight_decay, data.ctx.seed)?)
    })?;
    data.ctx.check()?;
    Ok(trained)
}

/// Calls `train` with the clean samples that stay and the samples that are added.
pub(crate) fn on_samples<T>(
    data: &VictimData,
    change: &TrainingSetChange,
    train: impl FnOnce(&[Samples<'_>]) -> Result<T, StageError>,
) -> Result<T, StageError> {
    let classes = data.classes();
    let clean = data.features.train.samples(classes)?;
    let added = change.samples(classes)?;
    let Some(kept) = change.kept(clean.len()) else { return train(&[clean, added]) };
    let labels: Vec<u32> = kept.iter().map(|i| clean.labels()[*i]).collect();
    let rows = clean.select(&kept);
    train(&[Samples::new(rows.view(), &labels, classes)?, added])
}
