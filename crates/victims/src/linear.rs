//! The victims `linear` and `linear-sgd`: linear heads on features.

use crate::training::on_samples;
use crate::weight_decay::WeightDecayChoice;
use crate::{Train, TrainingSetChange, VictimData};
use hemlock_artifact::{Answers, Outcome};
use hemlock_head::{
    FitOptions, Head, SgdOptions, SgdSchedule, accuracy, fit_sgd, fit_with, judgements, loss_and_gradient, mean_loss,
};
use hemlock_head_device::passes;
use hemlock_optim::norm;
use hemlock_stage::{ParamError, StageError};
use hemlock_streams::Purpose;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A linear head that is trained to the minimum by L-BFGS.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogisticRegression {
    /// Norm of the gradient of the mean objective below which the head counts as trained.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub tolerance: f64,
    /// Largest number of steps.
    #[schemars(range(min = 1))]
    pub max_iterations: u32,
    /// How the victim chooses its weight decay, for every training set anew. By default it is that of
    /// `[target-params]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<WeightDecayChoice>,
}

/// A linear head that is trained by stochastic gradient descent with momentum.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sgd {
    /// Number of passes over the training set.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub epochs: u32,
    /// Number of samples per step.
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// Learning rate of the first step.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// The schedule of the learning rate: `cosine` lowers it to 0 along half a cosine, `constant` keeps it.
    pub schedule: SgdSchedule,
    /// Share of the last step that is added to the next, in `[0, 1)`.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub momentum: f64,
}

impl Default for LogisticRegression {
    fn default() -> Self {
        Self { tolerance: 1e-6, max_iterations: 10_000, weight_decay: None }
    }
}

impl Default for Sgd {
    fn default() -> Self {
        Self { epochs: 100, batch: 256, learning_rate: 0.1, schedule: SgdSchedule::Cosine, momentum: 0.9 }
    }
}

impl LogisticRegression {
    pub(crate) fn check(&self) -> Result<(), ParamError> {
        ParamError::positive("tolerance", self.tolerance)?;
        ParamError::at_least_one("max_iterations", self.max_iterations)?;
        self.weight_decay.as_ref().map_or(Ok(()), WeightDecayChoice::check)
    }

    /// Measures a head whose training stopped at the given gradient norm.
    pub(crate) fn outcome(&self, head: Head, gradient_norm: f64, data: &VictimData) -> Result<Outcome, StageError> {
        let converged = gradient_norm <= self.tolerance;
        Ok(Outcome { converged, gradient_norm: Some(gradient_norm), ..measure(head, data)? })
    }
}

impl Sgd {
    pub(crate) fn check(&self) -> Result<(), ParamError> {
        ParamError::epochs("epochs", self.epochs as usize)?;
        ParamError::at_least_one("batch", self.batch as u64)?;
        ParamError::positive("learning_rate", self.learning_rate)?;
        let momentum = self.momentum;
        ParamError::require((0.0..1.0).contains(&momentum), "momentum", momentum, "at least 0 and below 1")
    }
}

/// Measures a head: its predictions on the test split, and its loss on the clean training split.
///
/// # Errors
/// If the head does not fit the features.
pub fn measure(head: Head, data: &VictimData) -> Result<Outcome, StageError> {
    let classes = data.classes();
    let (clean, test) = (data.features.train.samples(classes)?, data.features.test.samples(classes)?);
    let answers = Answers::of(judgements(&head, test)?);
    Ok(Outcome { clean_loss: Some(mean_loss(&head, &[clean])?), head: Some(head), ..data.outcome(answers) })
}

impl Train for &LogisticRegression {
    fn train(&self, what: &str, data: &VictimData, change: &TrainingSetChange) -> Result<Outcome, StageError> {
        let ctx = data.ctx;
        let bar = ctx.progress.start(what, 0, "steps");
        let mut chosen = None;
        let trained = on_samples(data, change, |samples| {
            chosen = self.weight_decay.as_ref().map(|choice| choice.choose(samples, data)).transpose()?;
            let preconditioner = data.preconditioner.filter(|_| chosen.is_none()).cloned();
            let options = FitOptions {
                preconditioner,
                gradient_tolerance: self.tolerance,
                max_iterations: self.max_iterations as usize,
                ..FitOptions::new(chosen.unwrap_or(data.weight_decay))
            };
            Ok(fit_with(&passes(samples, ctx)?, &options, &|step, gradient| {
                bar.at(step as u64);
                bar.say(format!("gradient norm {gradient:.1e}"));
                !ctx.cancel.requested()
            })?)
        })?;
        ctx.check()?;
        let gradient_norm = trained.gradient_norm;
        if !trained.converged {
            let tolerance = self.tolerance;
            tracing::warn!(
                victim = what,
                gradient_norm,
                "a victim's training stopped before its tolerance {tolerance:.1e}"
            );
        }
        let outcome = measure(trained.head, data)?;
        let converged = trained.converged;
        Ok(Outcome { gradient_norm: Some(gradient_norm), converged, weight_decay: chosen, ..outcome })
    }
}

impl Train for &Sgd {
    fn train(&self, what: &str, data: &VictimData, change: &TrainingSetChange) -> Result<Outcome, StageError> {
        let Sgd { epochs, batch, learning_rate, schedule, momentum } = **self;
        let ctx = data.ctx;
        let weight_decay = data.weight_decay;
        let options = SgdOptions { weight_decay, epochs, batch, learning_rate, schedule, momentum };
        let mut rng = Purpose::LinearOrder.of(ctx.seed);
        let test = data.features.test.samples(data.classes())?;
        let bar = ctx.progress.start(what, epochs.into(), "epochs");
        let mut curve = Vec::new();
        let (head, gradient_norm) = on_samples(data, change, |samples| {
            let head = fit_sgd(samples, &options, &mut rng, &mut |epoch, head, loss| {
                bar.at(u64::from(epoch) + 1);
                bar.say(format!("loss {loss:.4}"));
                curve.push(accuracy(head, test));
                !ctx.cancel.requested()
            })?;
            let (_, gradient) = loss_and_gradient(&head, samples, weight_decay)?;
            Ok((head, norm(&gradient)))
        })?;
        ctx.check()?;
        let epochs = curve.into_iter().collect::<Result<Vec<f64>, _>>()?;
        Ok(Outcome { epochs, gradient_norm: Some(gradient_norm), ..measure(head, data)? })
    }
}
