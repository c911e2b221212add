//! The learners that noise is made against, which are trained in every round.

use hemlock_artifact::{Features, Normalization, TargetParams};
use hemlock_head::{FitOptions, Head, Preconditioner, Samples, fit};
use hemlock_models::{Extractor, extract};
use hemlock_perturb::FrozenExtractor;
use hemlock_stage::{Context, StageError};
use hemlock_training::{Classifier, Labelled, Session};
use ndarray::{Array2, ArrayView4};
use std::sync::Arc;

/// A model that is trained in turns with the noise.
pub(crate) trait Learner {
    /// Continues training on the images with noise, `[m, 3, height, width]`, and the clean images without noise.
    fn learn(&mut self, noised: ArrayView4<u8>, ctx: &Context) -> Result<(), StageError>;

    /// The current state: the network with the normalisation of its features, and the head.
    fn as_is(&self) -> (FrozenExtractor<'_>, &Head);
}

/// A linear head on the frozen extractor, trained to the minimum in every round.
pub(crate) struct Probe<'a> {
    extractor: &'a Extractor,
    normalization: &'a Normalization,
    /// Features of the clean images without noise, and their labels.
    clean: (Array2<f64>, Vec<u32>),
    /// Labels of the images with noise.
    labels: &'a [u32],
    options: FitOptions,
    head: Head,
}

impl<'a> Probe<'a> {
    /// The learner before its first round, with the clean head. `rows` are the numbers of the images with noise, and
    /// `labels` their labels.
    pub(crate) fn new(
        extractor: &'a Extractor,
        features: &'a Features,
        target: &TargetParams,
        rows: &[u32],
        labels: &'a [u32],
    ) -> Result<Self, StageError> {
        let all = features.train.samples(features.classes.len())?;
        let mut noised = vec![false; all.len()];
        rows.iter().for_each(|row| noised[*row as usize] = true);
        let rest: Vec<usize> = (0..all.len()).filter(|row| !noised[*row]).collect();
        let rest_labels = rest.iter().map(|row| all.labels()[*row]).collect();
        let preconditioner = Arc::new(Preconditioner::new(&[all], target.weight_decay)?);
        Ok(Self {
            extractor,
            normalization: &features.normalization,
            clean: (all.select(&rest), rest_labels),
            labels,
            options: FitOptions { preconditioner: Some(preconditioner), ..FitOptions::new(target.weight_decay) },
            head: target.clean.clone(),
        })
    }
}

impl Learner for Probe<'_> {
    fn learn(&mut self, noised: ArrayView4<u8>, ctx: &Context) -> Result<(), StageError> {
        let mut z = extract(self.extractor, noised, ctx)?;
        self.normalization.apply(z.view_mut());
        let (z, classes) = (z.mapv(f64::from), self.head.classes());
        let noised = Samples::new(z.view(), self.labels, classes)?;
        let clean = Samples::new(self.clean.0.view(), &self.clean.1, classes)?;
        let options = FitOptions { start: Some(self.head.clone()), ..self.options.clone() };
        self.head = fit(&[clean, noised], &options, &|_, _| !ctx.cancel.requested())?.head;
        ctx.check()
    }

    fn as_is(&self) -> (FrozenExtractor<'_>, &Head) {
        (FrozenExtractor::new(self.extractor, self.normalization), &self.head)
    }
}

/// A network in training, a few steps in every round.
pub(crate) struct Network<'a> {
    session: Session,
    steps: usize,
    /// The images without noise.
    clean: Labelled<'a>,
    /// Labels of the images with noise.
    labels: &'a [u32],
    made: Classifier,
    identity: Normalization,
}

impl<'a> Network<'a> {
    /// A network that takes `steps` training steps per round.
    pub(crate) fn new(
        session: Session,
        steps: usize,
        clean: Labelled<'a>,
        labels: &'a [u32],
    ) -> Result<Self, StageError> {
        let made = session.snapshot()?;
        let identity = Normalization::identity(made.extractor.feature_dim());
        Ok(Self { session, steps, clean, labels, made, identity })
    }
}

impl Learner for Network<'_> {
    fn learn(&mut self, noised: ArrayView4<u8>, ctx: &Context) -> Result<(), StageError> {
        let clean = Labelled { pixels: self.clean.pixels.reborrow(), labels: self.clean.labels };
        let images = [clean, Labelled { pixels: noised, labels: self.labels }];
        self.session.steps(&images, self.steps, ctx, &|_, _| {})?;
        self.made = self.session.snapshot()?;
        Ok(())
    }

    fn as_is(&self) -> (FrozenExtractor<'_>, &Head) {
        (FrozenExtractor::new(&self.made.extractor, &self.identity), &self.made.head)
    }
}
