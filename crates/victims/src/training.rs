//! Training sets: clean data, and what an attack or a control edits of them.

use hemlock_artifact::{Accuracy, Answers, Dataset, Extractor, Features, Outcome};
use hemlock_head::{HeadError, Samples};
use hemlock_stage::{Context, StageError};
use ndarray::{Array2, Array4};

/// What every victim trains on and is measured with, whatever the attack.
pub struct VictimData<'a> {
    /// Features by the extractor that is deployed.
    pub features: &'a Features,
    /// The images that they are of, where a victim reads them.
    pub images: Option<&'a Dataset>,
    /// The extractor that is deployed, where a victim reads it.
    pub extractor: Option<&'a Extractor>,
    /// Of linear heads.
    pub weight_decay: f64,
    /// The run.
    pub ctx: &'a Context<'a>,
}

/// What a training set has beside clean samples, and which of these it lacks.
pub struct TrainingSetChange {
    /// `[m, d]`, as a head sees them.
    pub features: Array2<f64>,
    /// `[m, 3, height, width]`; `None` where there are only features.
    pub images: Option<Array4<u8>>,
    /// `[m]`.
    pub labels: Vec<u32>,
    /// Numbers of the clean samples that are left out.
    pub removed: Vec<u32>,
}

impl VictimData<'_> {
    /// How many classes there are.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.features.classes.len()
    }

    /// What a victim is worth that made this of the test split; nothing is known of its training.
    pub fn outcome(&self, answers: Answers) -> Outcome {
        Outcome {
            accuracy: Accuracy::of(&answers, &self.features.test.labels, self.classes()),
            answers,
            epochs: Vec::new(),
            clean_loss: None,
            gradient_norm: None,
            converged: true,
            head: None,
        }
    }
}

impl TrainingSetChange {
    /// None at all.
    pub fn none(data: &VictimData) -> Self {
        let dim = data.features.train.features.view().ncols();
        let images = data.images.map(|dataset| {
            let (_, channels, height, width) = dataset.train.pixels.view().dim();
            Array4::zeros((0, channels, height, width))
        });
        Self { features: Array2::zeros((0, dim)), images, labels: Vec::new(), removed: Vec::new() }
    }

    /// What is added, as samples of a head.
    pub fn samples(&self, classes: usize) -> Result<Samples<'_>, HeadError> {
        Samples::new(self.features.view(), &self.labels, classes)
    }

    /// Numbers of the clean samples that stay, of `n`; `None`: all do.
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

/// Runs `train` on the clean samples that stay, and those that are added.
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
