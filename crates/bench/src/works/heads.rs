//! Works that train the softmax head to its minimum, on synthetic features.

use crate::{Amount, Limit, PeerInputs, Run, Work};
use anyhow::Result;
use hemlock_head::{Fit, FitOptions, Head, Samples, fit, fit_with, predict};
use hemlock_head_device::passes_on;
use hemlock_models::device::open_named;
use ndarray::{Array2, Axis, Slice};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde_json::json;
use std::ops::Range;

pub(super) const CLASSES: usize = 10;
pub(super) const DECAY: f64 = 1e-4;

/// Synthetic features `[n, d]`, whose variances decrease like those of real ones, with the labels of a noisy teacher,
/// which no head can fit.
pub(super) struct Problem {
    pub(super) features: Array2<f64>,
    pub(super) labels: Vec<u32>,
}

impl Problem {
    pub(super) fn new(samples: usize, dim: usize) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut normal = |rows, columns| Array2::from_shape_fn((rows, columns), |_| StandardNormal.sample(&mut rng));
        // Correlated coordinates: a rotation of independent ones with a power-law spectrum.
        let mut latent: Array2<f64> = normal(samples, dim);
        for (i, mut column) in latent.columns_mut().into_iter().enumerate() {
            column /= ((i + 1) as f64).sqrt();
        }
        let mut features = latent.dot(&normal(dim, dim));
        for mut column in features.columns_mut() {
            let variance: f64 = column.iter().map(|z| z * z).sum::<f64>() / samples as f64;
            column /= variance.sqrt();
        }
        let teacher = Head::from_packed(normal(CLASSES, dim + 1))?;
        let noisy = &features + &(normal(samples, dim) * 0.5);
        let labels = predict(&teacher, noisy.view())?;
        Ok(Self { features, labels })
    }

    /// The samples in a range of rows.
    pub(super) fn rows(&self, rows: Range<usize>) -> Result<Samples<'_>> {
        let features = self.features.slice_axis(Axis(0), Slice::from(rows.clone()));
        Ok(Samples::new(features, &self.labels[rows], CLASSES)?)
    }

    pub(super) fn samples(&self) -> Result<Samples<'_>> {
        self.rows(0..self.labels.len())
    }
}

/// Trains a head from zero until the norm of the gradient is below the default tolerance.
pub(super) fn train(samples: Samples<'_>) -> Result<Fit> {
    Ok(fit(&[samples], &FitOptions::new(DECAY), &|_, _| true)?)
}

/// Number of operations of one gradient of the head: logits, and the products of their derivatives with the features.
pub(super) fn gradient_operations(samples: usize, dim: usize) -> f64 {
    4.0 * (samples * (dim + 1) * CLASSES) as f64
}

/// Training of a head on a given number of samples.
pub(super) struct Training {
    pub(super) samples: usize,
    pub(super) dim: usize,
}

impl Work for Training {
    fn what(&self) -> String {
        let Self { samples, dim } = self;
        format!("train a head on {samples} x {dim}, {CLASSES} classes, to a gradient norm of 1e-6")
    }

    /// One gradient per step, and the second moments of the preconditioner, of which only one half is computed.
    fn amount(&self) -> Result<Option<Amount>> {
        let steps = train(Problem::new(self.samples, self.dim)?.samples()?)?.iterations;
        let moments = (self.samples * (self.dim + 1) * (self.dim + 1)) as f64;
        let count = steps as f64 * gradient_operations(self.samples, self.dim) + moments;
        Ok(Some(Amount { limit: Limit::Double, count }))
    }

    fn prepare(&self) -> Result<Run> {
        let problem = Problem::new(self.samples, self.dim)?;
        Ok(Box::new(move || train(problem.samples()?).map(drop)))
    }

    fn given(&self) -> Result<PeerInputs> {
        let Problem { features, labels } = Problem::new(self.samples, self.dim)?;
        let options = FitOptions::new(DECAY);
        let numbers = json!({
            "classes": CLASSES,
            "weight_decay": options.weight_decay,
            "tolerance": options.gradient_tolerance,
        });
        Ok(PeerInputs { numbers, arrays: vec![("features", features.into()), ("labels", labels.into())] })
    }

    fn long(&self) -> bool {
        self.samples * self.dim > 10_000_000
    }
}

/// The same, with the passes over the samples led by a device.
pub(super) struct TrainingOnDevice {
    pub(super) of: Training,
    pub(super) device: String,
}

impl Work for TrainingOnDevice {
    fn what(&self) -> String {
        self.of.what()
    }

    fn amount(&self) -> Result<Option<Amount>> {
        Ok(None)
    }

    fn prepare(&self) -> Result<Run> {
        let problem = Problem::new(self.of.samples, self.of.dim)?;
        let device = open_named(&self.device)?;
        Ok(Box::new(move || {
            let samples = [problem.samples()?];
            fit_with(&passes_on(&device, &samples), &FitOptions::new(DECAY), &|_, _| true)?;
            Ok(())
        }))
    }

    fn given(&self) -> Result<PeerInputs> {
        self.of.given()
    }

    fn long(&self) -> bool {
        self.of.long()
    }
}
