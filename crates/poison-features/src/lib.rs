//! Stage: poisoned features, by one of three attacks: Gradient Canceling, which makes the target parameters a stationary point of
//! the victim's training; the bilevel attack, which raises the retrained victim's error on held-out and training samples; and TGDA,
//! which raises the loss of a victim that descends meanwhile.
//!
//! An attack is an [`Objective`]; any solver, constraint, start and choice of labels goes with any objective.

mod adam;
mod bilevel;
mod canceling;
mod descent;
mod goal;
mod greedy;
mod objective;
mod start;
#[cfg(test)]
mod testing;

pub use bilevel::Bilevel;
pub use canceling::Canceling;
pub use descent::{Descent, Found, Solver, Stop, descend};
pub use goal::Goal;
pub use greedy::{Added, Choice, Class, add, nearest_samples};
pub use hemlock_artifact::{Attack, Follower, Split};
pub use objective::{Force, Objective};
pub use start::{Plan, Start};

use hemlock_artifact::{Aim, CurvePoint, Features, PoisonFeatures, TargetParams};
use hemlock_head::{Constraint, ConstraintKind, ConstraintKinds, Samples};
use hemlock_stage::{Bar, Context, ParamError, StageError, inputs};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use std::time::Duration;

/// Parameters of the stage. What a choice makes idle is ignored, and is not part of the key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// What the poisons are to do.
    pub attack: Attack,
    /// Poisons, as a share of the clean training count.
    pub eps_d: f64,
    /// Where the poisoned features may lie: `none`, `ball`, `box`, `sphere`, `slab`, `knn`, or several, such as `sphere+slab`.
    #[serde(default)]
    pub constraint: ConstraintKinds,
    /// The share of the clean features that the constraint lets through; `none` and `box` let all.
    #[serde(default = "defaults::quantile")]
    pub quantile: f64,
    /// The k of `knn`.
    #[serde(default = "defaults::neighbors")]
    pub neighbors: u32,
    /// Labels of the poisons.
    #[serde(default)]
    pub labels: Labels,
    /// Steps from one choice of `aligned` labels to the next, 0: they are chosen once; absent: 0 for Gradient Canceling, 20 for the
    /// others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relabel_every: Option<u32>,
    /// Where the poisons start; absent: at `clean` samples for Gradient Canceling, at `aligned` ones for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<StartKind>,
    /// Which clean sample a poison is made of; absent: where it started for Gradient Canceling, the nearest for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    /// How the poisons are moved.
    #[serde(default)]
    pub solver: SolverKind,
    /// Most steps of the solver, absent: 2000 for Gradient Canceling, 200 for the others; of `conditional-gradient` the times
    /// that all poisons are gone through again, absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    /// Length of the first step per coordinate, as a share of the clean features' root mean square; absent: 0.1 for Gradient
    /// Canceling; for the others 0.2, and 1 where there is no constraint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<f64>,
    /// The solver stops after so many steps without improvement; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall: Option<u32>,
    /// The solver stops after so many seconds; absent: never. The result then depends on the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_seconds: Option<f64>,
    /// Of Gradient Canceling: it stops when the gradient that is left is this share of the clean gradient.
    #[serde(default = "defaults::tolerance")]
    pub tolerance: f64,
    /// Of the bilevel attack and of TGDA: the split whose error, or loss, is raised.
    #[serde(default)]
    pub objective: Split,
    /// Of the bilevel attack: temperature of the smoothed error; the lower, the closer to the share of mistakes.
    #[serde(default = "defaults::temperature")]
    pub temperature: f64,
    /// Of TGDA: the follower.
    #[serde(default)]
    pub follower: Follower,
}

mod defaults {
    pub(super) fn quantile() -> f64 {
        0.95
    }
    pub(super) fn neighbors() -> u32 {
        5
    }
    pub(super) fn tolerance() -> f64 {
        1e-4
    }
    pub(super) fn temperature() -> f64 {
        0.5
    }
}

/// Labels of the poisons.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Labels {
    /// Those of the training samples that the poisons are made of: a clean-label attack.
    #[default]
    Kept,
    /// Any other class, uniformly.
    Random,
    /// Chosen by the attack.
    Aligned,
}

impl Labels {
    /// Which clean samples poisons with such labels may be made of.
    fn base_class(self) -> Class {
        match self {
            Self::Kept => Class::Own,
            Self::Random => Class::Other,
            Self::Aligned => Class::Any,
        }
    }
}

/// Where poisons start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartKind {
    /// At clean training samples, drawn at random.
    Clean,
    /// At the clean training samples that help most, to first order.
    Aligned,
    /// At zero.
    Zeros,
    /// At normal features with the clean mean and deviation of every coordinate.
    Random,
    /// At the mean of their class.
    ClassMeans,
    /// Where `conditional-gradient` puts them, without going through them again.
    Greedy,
}

/// Which clean sample a poison is made of: the one whose image an inversion starts from and is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Base {
    /// The one it started at, or that was drawn for it.
    Start,
    /// The nearest to where it ended that no other poison is made of; of its own class, where labels are kept.
    Nearest,
}

/// How poisons are moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SolverKind {
    /// Gradient descent at a fixed rate, as in the paper.
    GradientDescent,
    /// Adam with a cosine schedule.
    #[default]
    Adam,
    /// L-BFGS with a line search along the projected path.
    Lbfgs,
    /// Poisons are added one by one, each the one that helps most; then each is exchanged for a better one.
    ConditionalGradient,
}

impl Params {
    /// What idles is not in the key, and has one value in the artifact.
    fn aim(&self, seed: u64) -> Aim {
        let raises = self.attack != Attack::GradientCanceling;
        let knn = self.constraint.kinds().contains(&ConstraintKind::Knn);
        Aim {
            attack: self.attack,
            raised: if raises { self.objective } else { Split::default() },
            temperature: if self.attack == Attack::Bilevel { self.temperature } else { defaults::temperature() },
            follower: if self.attack == Attack::Tgda { self.follower.resolved() } else { Follower::default() },
            seed: if self.descends() { seed } else { 0 },
            constraint: self.constraint.clone(),
            quantile: if self.constraint.has_quantile() { self.quantile } else { defaults::quantile() },
            neighbors: if knn { self.neighbors } else { defaults::neighbors() },
        }
    }

    /// Whether the follower moves on whenever the objective is evaluated.
    fn descends(&self) -> bool {
        self.attack == Attack::Tgda && self.follower.steps > 0
    }

    fn steps(&self) -> u32 {
        self.steps.unwrap_or(match (self.solver, self.attack) {
            (SolverKind::ConditionalGradient, _) => 1,
            (_, Attack::GradientCanceling) => 2000,
            (_, Attack::Bilevel | Attack::Tgda) => 200,
        })
    }

    fn step(&self) -> f64 {
        self.step.unwrap_or(match self.attack {
            Attack::GradientCanceling => 0.1,
            _ if self.constraint.kinds().is_empty() => 1.0,
            _ => 0.2,
        })
    }

    fn base(&self) -> Base {
        self.base.unwrap_or(match self.attack {
            Attack::GradientCanceling => Base::Start,
            Attack::Bilevel | Attack::Tgda => Base::Nearest,
        })
    }

    fn start(&self) -> StartKind {
        self.start.unwrap_or(match self.attack {
            Attack::GradientCanceling => StartKind::Clean,
            Attack::Bilevel | Attack::Tgda => StartKind::Aligned,
        })
    }

    fn relabel_every(&self) -> Option<u32> {
        let every = self.relabel_every.unwrap_or(match self.attack {
            Attack::GradientCanceling => 0,
            Attack::Bilevel | Attack::Tgda => 20,
        });
        (self.labels == Labels::Aligned && every > 0).then_some(every)
    }
}

impl hemlock_stage::Params for Params {
    fn check(&self) -> Result<(), ParamError> {
        ParamError::share("eps_d", self.eps_d)?;
        ParamError::share("quantile", self.quantile)?;
        ParamError::at_least_one("neighbors", self.neighbors)?;
        ParamError::require(self.steps() <= 1_000_000, "steps", self.steps(), "at most 1,000,000")?;
        if self.solver == SolverKind::ConditionalGradient {
            let known = |field: &str, given: bool| {
                let message = "is unknown to `conditional-gradient`, which ends by itself; leave it out";
                if given { Err(ParamError::new(field, message)) } else { Ok(()) }
            };
            known("stall", self.stall.is_some())?;
            known("max_seconds", self.max_seconds.is_some())?;
        } else {
            ParamError::at_least_one("steps", self.steps())?;
        }
        ParamError::positive("step", self.step())?;
        if let Some(stall) = self.stall {
            ParamError::at_least_one("stall", stall)?;
        }
        if let Some(seconds) = self.max_seconds {
            // More makes no sense, and the clock may not hold it.
            let sensible = seconds > 0.0 && seconds <= 1e9;
            ParamError::require(sensible, "max_seconds", seconds, "above 0 and at most 1e9")?;
        }
        ParamError::non_negative("tolerance", self.tolerance)?;
        ParamError::positive("temperature", self.temperature)?;
        if self.descends() {
            let refuse = |field: &str, refused: bool, expected: &str| {
                let message = format!(
                    "does not go with a follower of `tgda` who moves on; expected {expected}, or `follower.steps = 0`"
                );
                if refused { Err(ParamError::new(field, message)) } else { Ok(()) }
            };
            let steady = matches!(self.solver, SolverKind::Adam | SolverKind::GradientDescent);
            refuse("solver", !steady, "`adam` or `gradient-descent`, which ask for the objective once a step")?;
            refuse(
                "start",
                self.start() == StartKind::Greedy,
                "another start, as this one asks for the objective once a poison",
            )?;
            refuse("stall", self.stall.is_some(), "none, as values are of different heads")?;
        }
        check_follower(&self.follower)
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
    const VERSION: u32 = 9;
    const SEEDED: bool = true;
    const USES_DEVICE: bool = false;
    type Params = Params;
    type Inputs = Inputs;
    type Output = PoisonFeatures;

    fn key_params(params: &Params) -> Result<Value, serde_json::Error> {
        let resolved = Params {
            steps: Some(params.steps()),
            step: Some(params.step()),
            start: Some(params.start()),
            base: Some(params.base()),
            relabel_every: params.relabel_every(),
            follower: params.follower.resolved(),
            ..params.clone()
        };
        let mut value = serde_json::to_value(&resolved)?;
        let greedy = params.solver == SolverKind::ConditionalGradient;
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|field, _| match field.as_str() {
                "quantile" => params.constraint.has_quantile(),
                "neighbors" => params.constraint.kinds().contains(&ConstraintKind::Knn),
                "start" | "base" | "step" | "stall" | "max_seconds" | "relabel_every" => !greedy,
                "tolerance" => params.attack == Attack::GradientCanceling && !greedy,
                field => params.attack.reads(field),
            });
        }
        Ok(value)
    }

    fn run(params: &Params, Inputs { features, target }: Inputs, ctx: &Context) -> Result<PoisonFeatures, StageError> {
        let aim = params.aim(ctx.seed);
        let clean = features.train.samples(features.classes.len())?;
        let count = poison_count(params.eps_d, clean.len())?;
        let constraint = aim.constraint(clean)?;
        let mut goal = Goal::new(&aim, &features, &target)?;
        let made = make(params, goal.objective(), clean, count, &constraint, ctx)?;
        goal.warn();
        let bound = match &goal {
            Goal::Canceling(canceling) => {
                let free = params.labels == Labels::Aligned;
                let Start { features, labels, .. } = &made.start;
                Some(canceling.residual_bound(features.view(), labels, free, &constraint, clean)?)
            }
            Goal::Bilevel(_) => None,
        };
        Ok(made.artifact(params, aim, bound))
    }
}

/// Checks the follower of TGDA.
///
/// # Errors
/// The first field outside its range.
pub fn check_follower(follower: &Follower) -> Result<(), ParamError> {
    ParamError::positive("follower.learning_rate", follower.learning_rate)?;
    ParamError::at_least_one("follower.batch", follower.batch as u64)
}

/// The number of poisons.
///
/// # Errors
/// There would be none.
pub fn poison_count(eps_d: f64, clean: usize) -> Result<usize, StageError> {
    let count = (eps_d * clean as f64).round() as usize;
    if count == 0 {
        let least = 1.0 / clean as f64;
        let message = format!(
            "gives no poison: {eps_d} of {clean} clean training samples is less than one; expected at least {least:.2e}"
        );
        return Err(ParamError::new("eps_d", message).into());
    }
    Ok(count)
}

/// What an attack made.
struct Made {
    start: Start,
    curve: Vec<CurvePoint>,
    /// The objective at the end, as it is shown.
    objective: f64,
    stopped: Stop,
}

/// Starts poisons and moves them.
fn make(
    params: &Params,
    objective: &mut dyn Objective,
    clean: Samples,
    count: usize,
    constraint: &Constraint,
    ctx: &Context,
) -> Result<Made, StageError> {
    let (solver, sweeps) = match params.solver {
        SolverKind::ConditionalGradient => (None, params.steps()),
        SolverKind::GradientDescent => (Some(Solver::GradientDescent), 0),
        SolverKind::Adam => (Some(Solver::Adam), 0),
        SolverKind::Lbfgs => (Some(Solver::Lbfgs), 0),
    };
    let kind = if solver.is_none() { StartKind::Greedy } else { params.start() };
    let plan = Plan { clean, count, kind, labels: params.labels, sweeps, seed: ctx.seed };
    let mut greedy: Option<Record> = None;
    let start = plan.make(objective, constraint, &mut |at, value| {
        let steps = (sweeps + 1).saturating_mul(count as u32);
        greedy.get_or_insert_with(|| Record::new("greedy", steps, ctx)).point(at, value)
    })?;
    let Some(solver) = solver else {
        let value = objective.evaluate(start.features.view(), &start.labels)?.value;
        let (objective, curve) = (objective.shown(value), greedy.map(|g| g.curve).unwrap_or_default());
        return Ok(Made { start, curve, objective, stopped: Stop::Steps });
    };
    let square: f64 = clean.chunks().map(|c| c.to_f64().iter().map(|z| z * z).sum::<f64>()).sum();
    let rms = (square / (clean.len() * clean.dim()) as f64).sqrt();
    let descent = Descent {
        solver,
        steps: params.steps(),
        step: params.step() * rms,
        relabel_every: params.relabel_every(),
        // Of Gradient Canceling, whose objective is half a square; the other is below zero.
        target: match params.attack {
            Attack::GradientCanceling => 0.5 * params.tolerance * params.tolerance,
            Attack::Bilevel | Attack::Tgda => f64::NEG_INFINITY,
        },
        stall: params.stall,
        time: params.max_seconds.map(Duration::from_secs_f64),
    };
    let mut record = Record::new("poisons", descent.steps, ctx);
    let Start { base, features, labels } = start;
    let found = descend(objective, features, labels, constraint, &descent, |at, value| record.point(at, value))?;
    let base = match params.base() {
        Base::Start => base,
        Base::Nearest => nearest_samples(&found.features, &found.labels, clean, params.labels.base_class()),
    };
    Ok(Made {
        objective: objective.shown(found.value),
        stopped: found.stopped,
        start: Start { base, features: found.features, labels: found.labels },
        curve: record.curve,
    })
}

impl Made {
    fn artifact(self, params: &Params, aim: Aim, bound: Option<f64>) -> PoisonFeatures {
        PoisonFeatures {
            features: self.start.features.mapv(|x| x as f32),
            labels: self.start.labels,
            base_index: self.start.base,
            aim,
            clean_label: params.labels == Labels::Kept,
            eps_d: params.eps_d,
            objective: self.objective,
            bound,
            stopped: self.stopped.name().to_owned(),
            curve: self.curve,
        }
    }
}

/// The curve of an attack, shown while it grows.
struct Record<'a> {
    ctx: &'a Context<'a>,
    bar: Box<dyn Bar>,
    every: u32,
    curve: Vec<CurvePoint>,
}

impl<'a> Record<'a> {
    fn new(label: &str, steps: u32, ctx: &'a Context<'a>) -> Self {
        let bar = ctx.progress.start(label, steps.into(), "steps");
        Self { ctx, bar, every: steps.div_ceil(200).max(1), curve: Vec::new() }
    }

    fn point(&mut self, step: u32, objective: f64) -> Result<(), StageError> {
        if step.is_multiple_of(self.every) {
            self.curve.push(CurvePoint { step, objective });
            self.bar.at(step.into());
            self.bar.say(format!("{objective:.4}"));
        }
        self.ctx.check()
    }
}
