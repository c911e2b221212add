//! Training sets: clean data, and what an attack or a control edits of them.

use hemlock_artifact::{Accuracy, Answers, Dataset, Extractor, Features, Outcome};
use hemlock_head::{HeadError, Samples};
use hemlock_stage::{Context, StageError};
use ndarray::{Array2, Array4};

/// What every victim trains on and is measured with, whatever the attack.
pub(crate) struct Setting<'a> {
    /// Features by the extractor that is deployed.
    pub(crate) features: &'a Features,
    /// The images that they are of, where a victim reads them.
    pub(crate) images: Option<&'a Dataset>,
    /// The extractor that is deployed, where a victim reads it.
    pub(crate) extractor: Option<&'a Extractor>,
    /// Of linear heads.
    pub(crate) weight_decay: f64,
    pub(crate) ctx: &'a Context<'a>,
}

/// What a training set has beside clean samples, and which of these it lacks.
pub(crate) struct Edit {
    /// `[m, d]`, as a head sees them.
    pub(crate) features: Array2<f64>,
    /// `[m, 3, height, width]`; `None` where there are only features.
    pub(crate) images: Option<Array4<u8>>,
    /// `[m]`.
    pub(crate) labels: Vec<u32>,
    /// Numbers of the clean samples that are left out.
    pub(crate) without: Vec<u32>,
}

impl Setting<'_> {
    pub(crate) fn classes(&self) -> usize {
        self.features.classes.len()
    }

    /// What a victim is worth that made this of the test split; nothing is known of its training.
    pub(crate) fn outcome(&self, answers: Answers) -> Outcome {
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

impl Edit {
    /// None at all.
    pub(crate) fn none(setting: &Setting) -> Self {
        let dim = setting.features.train.features.view().ncols();
        let images = setting.images.map(|dataset| {
            let (_, channels, height, width) = dataset.train.pixels.view().dim();
            Array4::zeros((0, channels, height, width))
        });
        Self { features: Array2::zeros((0, dim)), images, labels: Vec::new(), without: Vec::new() }
    }

    /// What is added, as samples of a head.
    pub(crate) fn samples(&self, classes: usize) -> Result<Samples<'_>, HeadError> {
        Samples::new(self.features.view(), &self.labels, classes)
    }

    /// Numbers of the clean samples that stay, of `n`; `None`: all do.
    pub(crate) fn kept(&self, n: usize) -> Option<Vec<usize>> {
        if self.without.is_empty() {
            return None;
        }
        let mut stays = vec![true; n];
        for row in &self.without {
            if let Some(stays) = stays.get_mut(*row as usize) {
                *stays = false;
            }
        }
        Some((0..n).filter(|i| stays[*i]).collect())
    }
}

/// Runs `train` on the clean samples that stay, and those that are added.
pub(crate) fn on_samples<T>(
    setting: &Setting,
    edit: &Edit,
    train: impl FnOnce(&[Samples<'_>]) -> Result<T, StageError>,
) -> Result<T, StageError> {
    let classes = setting.classes();
    let clean = setting.features.train.samples(classes)?;
    let added = edit.samples(classes)?;
    let Some(kept) = edit.kept(clean.len()) else { return train(&[clean, added]) };
    let labels: Vec<u32> = kept.iter().map(|i| clean.labels()[*i]).collect();
    let rows = clean.select(&kept);
    train(&[Samples::new(rows.view(), &labels, classes)?, added])
}
