//! Stage: poisoned features that make the target parameters a stationary point of the victim's training.

mod canceling;
mod constraint;

pub use canceling::{Canceling, Solution, Solver, cancel};
pub use constraint::Constraint;

use hemlock_artifact::{Features, PoisonFeatures, ResidualPoint, TargetParams};
use hemlock_head::Samples;
use hemlock_stage::{Context, ErrorKind, ParamError, StageError, inputs};
use ndarray::Axis;
use rand::{RngExt, SeedableRng, seq::index};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Parameters of the stage.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Poisons, as a share of the clean training count.
    pub eps_d: f64,
    /// Where the poisoned features may lie.
    #[serde(default)]
    pub constraint: ConstraintKind,
    /// For `constraint = "ball"`: the quantile of the clean features' norms that is its radius.
    #[serde(default = "defaults::quantile")]
    pub quantile: f64,
    /// Labels of the poisons.
    #[serde(default)]
    pub labels: Labels,
    /// Most steps of the solver.
    #[serde(default = "defaults::steps")]
    pub steps: u32,
    /// Length of a step per coordinate, as a share of the clean features' root mean square.
    #[serde(default = "defaults::step")]
    pub step: f64,
    /// The solver stops when the gradient that is left is this share of the gradient without poisons.
    #[serde(default = "defaults::tolerance")]
    pub tolerance: f64,
}

mod defaults {
    pub(super) fn quantile() -> f64 {
        0.95
    }
    pub(super) fn steps() -> u32 {
        2000
    }
    pub(super) fn step() -> f64 {
        0.1
    }
    pub(super) fn tolerance() -> f64 {
        1e-4
    }
}

/// Where poisoned features may lie.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConstraintKind {
    /// Anywhere.
    #[default]
    None,
    /// In the L2 ball around the origin whose radius is a quantile of the clean norms.
    Ball,
}

/// Labels of the poisons.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Labels {
    /// Those of the training samples that the poisons start from.
    #[default]
    Kept,
    /// Any other class, uniformly.
    Random,
}

impl hemlock_stage::Params for Params {
    fn check(&self) -> Result<(), ParamError> {
        ParamError::share("eps_d", self.eps_d)?;
        ParamError::share("quantile", self.quantile)?;
        ParamError::at_least_one("steps", self.steps)?;
        ParamError::positive("step", self.step)?;
        ParamError::non_negative("tolerance", self.tolerance)
    }
}

inputs! {
    /// What the stage reads.
    pub struct Inputs {
        /// Features of the downstream dataset.
        features: Features = "features",
        /// The clean head and the target head.
        target: TargetParams = "target-params",
    }
}

/// The stage.
pub struct Stage;

impl hemlock_stage::Stage for Stage {
    const NAME: &'static str = "poison-features";
    const VERSION: u32 = 1;
    const SEEDED: bool = true;
    const USES_DEVICE: bool = false;
    type Params = Params;
    type Inputs = Inputs;
    type Output = PoisonFeatures;

    /// Without a ball, its quantile decides nothing.
    fn key_params(params: &Params) -> Result<Value, serde_json::Error> {
        let mut value = serde_json::to_value(params)?;
        if let (ConstraintKind::None, Some(fields)) = (params.constraint, value.as_object_mut()) {
            fields.remove("quantile");
        }
        Ok(value)
    }

    fn run(params: &Params, Inputs { features, target }: Inputs, ctx: &Context) -> Result<PoisonFeatures, StageError> {
        let (n, classes) = (features.train.labels.len(), features.classes.len());
        let m = (params.eps_d * n as f64).round() as usize;
        if m == 0 {
            let message = format!(
                "gives no poison: {} of {n} clean training samples is less than one; expected at least {:.2e}",
                params.eps_d,
                1.0 / n as f64
            );
            return Err(StageError::new(ErrorKind::Params, ParamError::new("eps_d", message)));
        }
        let z = features.train.features_f64();
        let clean = Samples::new(z.view(), &features.train.labels, classes)?;
        let constraint = match params.constraint {
            ConstraintKind::None => Constraint::None,
            ConstraintKind::Ball => Constraint::ball_at_quantile(z.view(), params.quantile),
        };

        let mut rng = ChaCha8Rng::seed_from_u64(ctx.seed);
        let mut base = index::sample(&mut rng, n, m).into_vec();
        base.sort_unstable();
        let labels: Vec<u32> = base
            .iter()
            .map(|i| match params.labels {
                Labels::Kept => features.train.labels[*i],
                Labels::Random => {
                    let other = rng.random_range(1..classes as u32);
                    (features.train.labels[*i] + other) % classes as u32
                }
            })
            .collect();
        let start = z.select(Axis(0), &base);

        let rms = (z.iter().map(|x| x * x).sum::<f64>() / z.len() as f64).sqrt();
        let bar = ctx.progress.start("gradient canceling", params.steps.into(), "steps");
        let problem = Canceling { clean, target: &target.target, weight_decay: target.weight_decay, labels: &labels };
        let solver = Solver { steps: params.steps, step: params.step * rms, tolerance: params.tolerance };
        let mut curve = Vec::new();
        let every = params.steps.div_ceil(200);
        let solution = cancel(&problem, start, &constraint, &solver, |step, residual| {
            if step % every == 0 {
                curve.push(ResidualPoint { step, residual });
                bar.at(step.into());
                bar.say(format!("residual {residual:.1e}"));
            }
            ctx.check()
        })?;
        curve.push(ResidualPoint { step: solution.steps, residual: solution.residual });
        curve.dedup_by_key(|p| p.step);
        Ok(PoisonFeatures {
            features: solution.features.mapv(|x| x as f32),
            labels,
            base_index: base.into_iter().map(|i| i as u32).collect(),
            attack: "gradient-canceling".to_owned(),
            eps_d: params.eps_d,
            curve,
        })
    }
}
