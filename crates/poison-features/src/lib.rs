//! Stage: poisoned features, by one of two attacks: Gradient Canceling, which makes the target parameters a stationary point of
//! the victim's training, or the bilevel attack, which raises the retrained victim's error on the validation split.

mod adam;
mod bilevel;
mod canceling;
mod constraint;

pub use bilevel::{Bilevel, Leader, Strongest, ascend};
pub use canceling::{Canceling, Solution, Solver, aligned_labels, cancel};
pub use constraint::{Constraint, EmptyClass, Slab, Sphere};

use hemlock_artifact::{CurvePoint, Features, PoisonFeatures, TargetParams};
use hemlock_head::Samples;
use hemlock_stage::{Bar, Context, ErrorKind, ParamError, StageError, inputs};
use ndarray::{Array2, Axis};
use rand::{RngExt, SeedableRng, seq::index};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Parameters of the stage: an attack, and what it needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "attack", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Params {
    /// Features whose gradient at the target parameters cancels that of the clean data.
    GradientCanceling {
        /// Poisons, as a share of the clean training count.
        eps_d: f64,
        /// Where the poisoned features may lie.
        #[serde(default)]
        constraint: ConstraintKind,
        /// The share of the clean features that the constraint lets through; `none` and `box` let all.
        #[serde(default = "defaults::quantile")]
        quantile: f64,
        /// Labels of the poisons; `aligned` are chosen once, to cancel best.
        #[serde(default)]
        labels: Labels,
        /// Most steps of the solver.
        #[serde(default = "defaults::canceling_steps")]
        steps: u32,
        /// Length of a step per coordinate, as a share of the clean features' root mean square.
        #[serde(default = "defaults::canceling_step")]
        step: f64,
        /// The solver stops when the gradient that is left is this share of the gradient without poisons.
        #[serde(default = "defaults::tolerance")]
        tolerance: f64,
    },
    /// Features that raise the validation error of the retrained head, by implicit differentiation.
    Bilevel {
        /// Poisons, as a share of the clean training count.
        eps_d: f64,
        /// Where the poisoned features may lie.
        #[serde(default)]
        constraint: ConstraintKind,
        /// The share of the clean features that the constraint lets through; `none` and `box` let all.
        #[serde(default = "defaults::quantile")]
        quantile: f64,
        /// Labels of the poisons; `aligned` are chosen anew every few steps, to raise the error most.
        #[serde(default)]
        labels: Labels,
        /// Steps of the leader.
        #[serde(default = "defaults::bilevel_steps")]
        steps: u32,
        /// Length of a step per coordinate, as a share of the clean features' root mean square.
        #[serde(default = "defaults::bilevel_step")]
        step: f64,
        /// For `labels = "aligned"`: steps from one choice of the labels to the next.
        #[serde(default = "defaults::relabel_every")]
        relabel_every: u32,
        /// Temperature of the smoothed error: the lower, the closer to the share of mistakes.
        #[serde(default = "defaults::temperature")]
        temperature: f64,
    },
}

mod defaults {
    pub(super) fn quantile() -> f64 {
        0.95
    }
    pub(super) fn canceling_steps() -> u32 {
        2000
    }
    pub(super) fn canceling_step() -> f64 {
        0.1
    }
    pub(super) fn tolerance() -> f64 {
        1e-4
    }
    pub(super) fn bilevel_steps() -> u32 {
        120
    }
    pub(super) fn bilevel_step() -> f64 {
        0.1
    }
    pub(super) fn relabel_every() -> u32 {
        5
    }
    pub(super) fn temperature() -> f64 {
        1.0
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
    /// In the range of the clean features, coordinate by coordinate.
    Box,
    /// In a ball around the centroid of the label's class, whose radius is a quantile of that class's distances.
    Sphere,
    /// In a slab around the centroid of the label's class, across the direction that tells the class from the others; its width is
    /// a quantile of that class's offsets.
    Slab,
    /// In both: what a defence that knows the clean data lets through.
    SphereSlab,
}

impl ConstraintKind {
    fn build(self, clean: Samples, quantile: f64) -> Result<Constraint, StageError> {
        let built = match self {
            Self::None => Ok(Constraint::None),
            Self::Ball => Ok(Constraint::ball(clean, quantile)),
            Self::Box => Ok(Constraint::range(clean)),
            Self::Sphere => Constraint::sphere(clean, quantile),
            Self::Slab => Constraint::slab(clean, quantile),
            Self::SphereSlab => Constraint::sphere(clean, quantile)
                .and_then(|sphere| Ok(Constraint::All(vec![sphere, Constraint::slab(clean, quantile)?]))),
        };
        built.map_err(|e| StageError::new(ErrorKind::Data, e))
    }
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
    /// Chosen by the attack.
    Aligned,
}

/// What both attacks are told.
struct Setting {
    eps_d: f64,
    constraint: ConstraintKind,
    quantile: f64,
    labels: Labels,
}

impl Params {
    fn setting(&self) -> Setting {
        let (Self::GradientCanceling { eps_d, constraint, quantile, labels, .. }
        | Self::Bilevel { eps_d, constraint, quantile, labels, .. }) = *self;
        Setting { eps_d, constraint, quantile, labels }
    }
}

impl hemlock_stage::Params for Params {
    fn check(&self) -> Result<(), ParamError> {
        let Setting { eps_d, quantile, .. } = self.setting();
        ParamError::share("eps_d", eps_d)?;
        ParamError::share("quantile", quantile)?;
        let (Self::GradientCanceling { steps, step, .. } | Self::Bilevel { steps, step, .. }) = *self;
        ParamError::at_least_one("steps", steps)?;
        ParamError::positive("step", step)?;
        match *self {
            Self::GradientCanceling { tolerance, .. } => ParamError::non_negative("tolerance", tolerance),
            Self::Bilevel { relabel_every, temperature, .. } => {
                ParamError::at_least_one("relabel_every", relabel_every)?;
                ParamError::positive("temperature", temperature)
            }
        }
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
    const VERSION: u32 = 2;
    const SEEDED: bool = true;
    const USES_DEVICE: bool = false;
    type Params = Params;
    type Inputs = Inputs;
    type Output = PoisonFeatures;

    /// What a choice makes idle decides nothing.
    fn key_params(params: &Params) -> Result<Value, serde_json::Error> {
        let mut value = serde_json::to_value(params)?;
        let Setting { constraint, labels, .. } = params.setting();
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|field, _| match field.as_str() {
                "quantile" => ![ConstraintKind::None, ConstraintKind::Box].contains(&constraint),
                "relabel_every" => labels == Labels::Aligned,
                _ => true,
            });
        }
        Ok(value)
    }

    fn run(params: &Params, Inputs { features, target }: Inputs, ctx: &Context) -> Result<PoisonFeatures, StageError> {
        let setting = params.setting();
        let classes = features.classes.len();
        let z = features.train.features_f64();
        let clean = Samples::new(z.view(), &features.train.labels, classes)?;
        let start = Start::draw(clean, &setting, ctx.seed)?;
        let constraint = setting.constraint.build(clean, setting.quantile)?;
        let rms = (z.iter().map(|x| x * x).sum::<f64>() / z.len() as f64).sqrt();
        let aligned = setting.labels == Labels::Aligned;

        let (attack, made) = match *params {
            Params::GradientCanceling { steps, step, tolerance, .. } => {
                let labels = if aligned {
                    aligned_labels(clean, &target.target, target.weight_decay, start.features.view())?
                } else {
                    start.labels
                };
                let problem =
                    Canceling { clean, target: &target.target, weight_decay: target.weight_decay, labels: &labels };
                let solver = Solver { steps, step: step * rms, tolerance };
                let mut record = Record::new("gradient canceling", "residual", steps, ctx);
                let found = cancel(&problem, start.features, &constraint, &solver, |at, o| record.point(at, o))?;
                ("gradient-canceling", Made { features: found.features, labels, curve: record.curve })
            }
            Params::Bilevel { steps, step, relabel_every, temperature, .. } => {
                if features.validation.labels.is_empty() {
                    let message =
                        "gives no validation split, whose error the attack raises; expected `validation` above 0";
                    return Err(ParamError::new("dataset.downstream", message).into());
                }
                let z_validation = features.validation.features_f64();
                let problem = Bilevel {
                    clean,
                    validation: Samples::new(z_validation.view(), &features.validation.labels, classes)?,
                    weight_decay: target.weight_decay,
                    temperature,
                    start: &target.clean,
                };
                let leader = Leader { steps, step: step * rms, relabel_every: aligned.then_some(relabel_every) };
                let mut record = Record::new("bilevel", "validation error", steps, ctx);
                let found =
                    ascend(&problem, start.features, start.labels, &constraint, &leader, |at, o| record.point(at, o))?;
                ("bilevel", Made { features: found.features, labels: found.labels, curve: record.curve })
            }
        };
        Ok(PoisonFeatures {
            features: made.features.mapv(|x| x as f32),
            labels: made.labels,
            base_index: start.base,
            attack: attack.to_owned(),
            eps_d: setting.eps_d,
            curve: made.curve,
        })
    }
}

/// What an attack made.
struct Made {
    features: Array2<f64>,
    labels: Vec<u32>,
    curve: Vec<CurvePoint>,
}

/// Where the poisons start: clean samples, drawn without replacement.
struct Start {
    /// Their rows.
    base: Vec<u32>,
    /// `[m, d]`.
    features: Array2<f64>,
    /// Their own labels, or random other ones.
    labels: Vec<u32>,
}

impl Start {
    fn draw(clean: Samples, setting: &Setting, seed: u64) -> Result<Self, StageError> {
        let (n, classes) = (clean.len(), clean.classes() as u32);
        let m = (setting.eps_d * n as f64).round() as usize;
        if m == 0 {
            let message = format!(
                "gives no poison: {} of {n} clean training samples is less than one; expected at least {:.2e}",
                setting.eps_d,
                1.0 / n as f64
            );
            return Err(StageError::new(ErrorKind::Params, ParamError::new("eps_d", message)));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut base = index::sample(&mut rng, n, m).into_vec();
        base.sort_unstable();
        let mut label = |row: &usize| {
            let own = clean.labels()[*row];
            let shift = if setting.labels == Labels::Random { rng.random_range(1..classes) } else { 0 };
            (own + shift) % classes
        };
        let labels = base.iter().map(&mut label).collect();
        let features = clean.features().select(Axis(0), &base);
        Ok(Self { base: base.into_iter().map(|i| i as u32).collect(), features, labels })
    }
}

/// The curve of an attack, shown while it grows.
struct Record<'a> {
    ctx: &'a Context<'a>,
    bar: Box<dyn Bar>,
    what: &'static str,
    every: u32,
    curve: Vec<CurvePoint>,
}

impl<'a> Record<'a> {
    fn new(label: &str, what: &'static str, steps: u32, ctx: &'a Context<'a>) -> Self {
        let bar = ctx.progress.start(label, steps.into(), "steps");
        Self { ctx, bar, what, every: steps.div_ceil(200), curve: Vec::new() }
    }

    fn point(&mut self, step: u32, objective: f64) -> Result<(), StageError> {
        if step.is_multiple_of(self.every) {
            self.curve.push(CurvePoint { step, objective });
            self.bar.at(step.into());
            self.bar.say(format!("{} {objective:.4}", self.what));
        }
        self.ctx.check()
    }
}
