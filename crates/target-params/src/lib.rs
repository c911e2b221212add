//! Stage: target parameters for the head.
//!
//! Trains the clean head to its minimum, then corrupts it by GradPC (gradient-based parameter corruption): normalised
//! ascent of the training loss inside a ball around the clean head.

mod gradpc;

pub use gradpc::{Ascent, Norm, ascend};

use hemlock_artifact::{Features, PathPoint, TargetParams};
use hemlock_head::{FitOptions, Head, Samples, accuracy, calibrate, fit, gradient_sum, mean_loss, norm};
use hemlock_stage::{Context, ErrorKind, ParamError, StageError, inputs};
use serde::{Deserialize, Serialize};

/// Parameters of the stage.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Radius of the ball around the clean head.
    pub radius: f64,
    /// Norm of the ball.
    pub norm: Norm,
    /// What the radius is measured in.
    pub radius_unit: RadiusUnit,
    /// Steps of the ascent.
    pub steps: u32,
    /// Length of a step, as a share of the radius.
    pub step: f64,
    /// Most parameters that are corrupted, those of the largest corruption; absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coordinates: Option<u32>,
    /// The split whose loss is ascended.
    pub objective: Objective,
    /// What is done to the corrupted head at the end.
    pub calibration: Calibration,
    /// Weight decay of the head, for the attacker and the victim alike. The bias is not decayed.
    pub weight_decay: f64,
    /// Gradient norm of the mean objective at which the head counts as trained.
    pub tolerance: f64,
}

/// The split whose loss is ascended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// The victim's training split, as in the paper.
    #[default]
    Train,
    /// The validation split.
    Validation,
}

/// What a radius is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RadiusUnit {
    /// Norms of the clean head, bias included, in the norm of the ball.
    CleanNorm,
    /// Parameters' own units.
    Absolute,
}

/// What is done to the corrupted head at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Calibration {
    /// Nothing, as in the paper.
    None,
    /// Scale and biases minimise the training objective again, which makes the target reachable for few poisons: see
    /// [`hemlock_head::calibrate`].
    ScaleAndBias,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            radius: 0.5,
            norm: Norm::L2,
            radius_unit: RadiusUnit::CleanNorm,
            steps: 30,
            step: 0.1,
            coordinates: None,
            objective: Objective::Train,
            calibration: Calibration::None,
            weight_decay: 1e-4,
            tolerance: 1e-6,
        }
    }
}

impl hemlock_stage::Params for Params {
    fn check(&self) -> Result<(), ParamError> {
        ParamError::positive("radius", self.radius)?;
        ParamError::at_least_one("steps", self.steps)?;
        ParamError::share("step", self.step)?;
        if let Some(coordinates) = self.coordinates {
            ParamError::at_least_one("coordinates", coordinates)?;
        }
        ParamError::positive("weight_decay", self.weight_decay)?;
        ParamError::positive("tolerance", self.tolerance)
    }
}

inputs! {
    /// What the stage reads.
    pub struct Inputs {
        /// Features of the downstream dataset.
        features: Features = "features",
    }
}

/// The stage.
pub struct Stage;

impl hemlock_stage::Stage for Stage {
    const NAME: &'static str = "target-params";
    const VERSION: u32 = 2;
    const SEEDED: bool = false;
    const USES_DEVICE: bool = false;
    type Params = Params;
    type Inputs = Inputs;
    type Output = TargetParams;

    fn run(params: &Params, Inputs { features }: Inputs, ctx: &Context) -> Result<TargetParams, StageError> {
        let classes = features.classes.len();
        let (z, z_test) = (features.train.features_f64(), features.test.features_f64());
        let train = Samples::new(z.view(), &features.train.labels, classes)?;
        let test = Samples::new(z_test.view(), &features.test.labels, classes)?;

        if test.is_empty() {
            let message = "gives no test split to measure on; expected `test` above 0";
            return Err(ParamError::new("dataset.downstream", message).into());
        }

        let bar = ctx.progress.start("clean head", 0, "steps");
        let options = FitOptions { gradient_tolerance: params.tolerance, ..FitOptions::new(params.weight_decay) };
        let clean = fit(&[train], &options, &|step, gradient| {
            bar.at(step as u64);
            bar.say(format!("gradient norm {gradient:.1e}"));
            !ctx.cancel.requested()
        })?;
        ctx.check()?;
        if !clean.converged {
            let message = format!(
                "the clean head stopped at a gradient norm of {:.1e}; expected at most {:.1e} (tolerance): raise `weight_decay` or `tolerance`",
                clean.gradient_norm, params.tolerance
            );
            return Err(StageError::new(ErrorKind::Numeric, message));
        }

        let radius = match params.radius_unit {
            RadiusUnit::CleanNorm => params.radius * params.norm.of(&clean.head.packed().to_owned()),
            RadiusUnit::Absolute => params.radius,
        };
        let bar = ctx.progress.start("target head", params.steps.into(), "steps");
        let ascent = Ascent {
            norm: params.norm,
            radius,
            step: params.step * radius,
            steps: params.steps,
            coordinates: params.coordinates.map(|n| n as usize),
        };
        let z_validation = features.validation.features_f64();
        let objective = match params.objective {
            Objective::Train => train,
            Objective::Validation => Samples::new(z_validation.view(), &features.validation.labels, classes)?,
        };
        if objective.is_empty() {
            let message = "gives no validation split to ascend on; expected `validation` above 0";
            return Err(ParamError::new("dataset.downstream", message).into());
        }
        let mut path = Vec::new();
        let mut target = ascend(&clean.head, objective, &ascent, |step, head| {
            path.push(point(step, &clean.head, head, train, test)?);
            bar.at(step.into());
            ctx.check()
        })?;
        if params.calibration == Calibration::ScaleAndBias {
            target = calibrate(&target, &[train], params.weight_decay)?;
            path.push(point(params.steps + 1, &clean.head, &target, train, test)?);
        }
        Ok(TargetParams {
            target,
            weight_decay: params.weight_decay,
            clean_gradient_norm: clean.gradient_norm,
            path,
            clean: clean.head,
        })
    }
}

fn point(step: u32, clean: &Head, head: &Head, train: Samples, test: Samples) -> Result<PathPoint, StageError> {
    let gradient = gradient_sum(head, &[train])? / train.len() as f64;
    Ok(PathPoint {
        step,
        radius: norm(&(&head.packed() - &clean.packed())),
        loss: mean_loss(head, &[train])?,
        gradient_norm: norm(&gradient),
        train_accuracy: accuracy(head, train)?,
        test_accuracy: accuracy(head, test)?,
    })
}
