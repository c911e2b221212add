//! Stage: poisoned features, by one of the attacks in [`attacks`]: Gradient Canceling, which makes the target
//! parameters a stationary point of the victim's training; the bilevel attack, which raises the retrained victim's
//! error on held-out and training samples; and TGDA, which raises the loss of a victim that descends meanwhile.
//!
//! What an attack minimises is an [`Objective`]; any solver, constraint, start and choice of labels goes with any
//! objective.

mod adam;
pub mod attacks;
mod bilevel;
mod canceling;
mod descent;
mod greedy;
mod memory;
mod objective;
mod start;
#[cfg(test)]
mod testing;

pub use attacks::{Follower, Known, Own};
pub use bilevel::Bilevel;
pub use canceling::{Canceled, Canceling};
pub use descent::{Descent, Found, Solver, Stop, descend};
pub use greedy::{Added, Choice, Class, add, nearest_samples};
pub use objective::{Force, Objective};
pub use start::{Plan, Start, random_features};

use attacks::{Defaults, Moves};
use hemlock_artifact::{Aim, CurvePoint, Features, PoisonFeatures, TargetParams};
use hemlock_head::{Constraint, ConstraintKind, ConstraintKinds, Samples};
use hemlock_stage::{Bar, Context, ParamError, StageError, inputs};
use serde::{Deserialize, Serialize, ser::Error};
use serde_json::Value;

use std::time::Duration;

/// Parameters of the stage. What a choice makes idle is ignored, and is not part of the key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Params {
    /// What the poisons are to do.
    pub attack: Known,
    /// Poisons, as a share of the clean training count.
    pub eps_d: f64,
    /// Where the poisoned features may lie: `none`, `ball`, `box`, `sphere`, `slab`, `knn`, or several, such as
    /// `sphere+slab`.
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
    /// Steps from one choice of `aligned` labels to the next, 0: they are chosen once; absent: as the attack says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relabel_every: Option<u32>,
    /// Where the poisons start; absent: as the attack says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<StartKind>,
    /// Which clean sample a poison is made of; absent: as the attack says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    /// How the poisons are moved.
    #[serde(default)]
    pub solver: SolverKind,
    /// Most steps of the solver, absent: as the attack says; of `conditional-gradient` the times that all poisons are
    /// gone through again, absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    /// Length of the first step per coordinate, as a share of the clean features' root mean square; absent: as the
    /// attack says. Of `norm-descent` the rate, absent: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<f64>,
    /// The solver stops after so many steps without improvement; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall: Option<u32>,
    /// The solver stops after so many seconds; absent: never. The result then depends on the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_seconds: Option<f64>,
    /// Of an attack whose objective ends at 0, as Gradient Canceling's does: the solver stops where it is shown as
    /// this.
    #[serde(default = "defaults::tolerance")]
    pub tolerance: f64,
    /// What the attacks bring.
    #[serde(flatten)]
    pub own: Own,
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
    /// Gradient descent on the norm that Gradient Canceling leaves, in sums over samples, at the rate `step` that falls
    /// to 0 along half a cosine, as in the authors' public script.
    NormDescent,
    /// Adam with a cosine schedule.
    #[default]
    Adam,
    /// L-BFGS with a line search along the projected path.
    Lbfgs,
    /// Poisons are added one by one, each the one that helps most; then each is exchanged for a better one.
    ConditionalGradient,
}

impl Params {
    /// Those that do not come with an attack.
    const FIELDS: [&str; 15] = [
        "attack",
        "eps_d",
        "constraint",
        "quantile",
        "neighbors",
        "labels",
        "relabel_every",
        "start",
        "base",
        "solver",
        "steps",
        "step",
        "stall",
        "max_seconds",
        "tolerance",
    ];

    /// What idles is not in the key, and has one value in the artifact.
    fn aim(&self, seed: u64) -> Result<Aim, ParamError> {
        let knn = self.constraint.kinds().contains(&ConstraintKind::Knn);
        Ok(Aim {
            attack: self.attack.name().to_owned(),
            parameters: self.own.of(self.attack)?.into_table(),
            seed: if self.own.moves(self.attack).is_some() { seed } else { 0 },
            constraint: self.constraint.clone(),
            quantile: if self.constraint.has_quantile() { self.quantile } else { defaults::quantile() },
            neighbors: if knn { self.neighbors } else { defaults::neighbors() },
        })
    }

    fn steps(&self) -> u32 {
        let greedy = self.solver == SolverKind::ConditionalGradient;
        self.steps.unwrap_or(if greedy { 1 } else { self.attack.defaults().steps })
    }

    fn step(&self) -> f64 {
        if self.solver == SolverKind::NormDescent {
            return self.step.unwrap_or(10.0);
        }
        let Defaults { step, free_step, .. } = self.attack.defaults();
        self.step.unwrap_or(if self.constraint.kinds().is_empty() { free_step } else { step })
    }

    fn base(&self) -> Base {
        self.base.unwrap_or(self.attack.defaults().base)
    }

    fn start(&self) -> StartKind {
        self.start.unwrap_or(self.attack.defaults().start)
    }

    fn relabel_every(&self) -> Option<u32> {
        let every = self.relabel_every.unwrap_or(self.attack.defaults().relabel_every);
        (self.labels == Labels::Aligned && every > 0).then_some(every)
    }
}

impl hemlock_stage::Params for Params {
    fn check(&self) -> Result<(), ParamError> {
        self.own.check(&Self::FIELDS)?;
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
        if self.solver == SolverKind::NormDescent && !self.attack.ends() {
            let message =
                "is `norm-descent`, which goes down the norm that `gradient-canceling` leaves; expected another one";
            return Err(ParamError::new("solver", message));
        }
        if let Some(stall) = self.stall {
            ParamError::at_least_one("stall", stall)?;
        }
        if let Some(seconds) = self.max_seconds {
            // More makes no sense, and the clock may not hold it.
            let sensible = seconds > 0.0 && seconds <= 1e9;
            ParamError::require(sensible, "max_seconds", seconds, "above 0 and at most 1e9")?;
        }
        ParamError::non_negative("tolerance", self.tolerance)?;
        if let Some(Moves { what, unless }) = self.own.moves(self.attack) {
            let refuse = |field: &str, refused: bool, expected: &str| {
                let message = format!("does not go with {what}; expected {expected}, or {unless}");
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
        Ok(())
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
    const VERSION: u32 = 11;
    const SEEDED: bool = true;
    const USES_DEVICE: bool = false;
    const LISTS: &'static [&'static str] = &["sees"];
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
            own: params.own.of(params.attack).map_err(serde_json::Error::custom)?,
            ..params.clone()
        };
        let mut value = serde_json::to_value(&resolved)?;
        let greedy = params.solver == SolverKind::ConditionalGradient;
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|field, _| match field.as_str() {
                "quantile" => params.constraint.has_quantile(),
                "neighbors" => params.constraint.kinds().contains(&ConstraintKind::Knn),
                "start" | "base" | "step" | "stall" | "max_seconds" | "relabel_every" => !greedy,
                "tolerance" => params.attack.ends() && !greedy,
                _ => true,
            });
            if params.solver == SolverKind::Lbfgs {
                fields.insert("memory".to_owned(), memory::PAIRS.into());
            }
        }
        Ok(value)
    }

    fn run(params: &Params, Inputs { features, target }: Inputs, ctx: &Context) -> Result<PoisonFeatures, StageError> {
        let aim = params.aim(ctx.seed)?;
        let clean = features.train.samples(features.classes.len())?;
        let count = poison_count(params.eps_d, clean.len())?;
        let constraint = aim.constraint(clean)?;
        let mut objective = attacks::objective(&aim, &features, &target, ctx.cancel)?;
        let search = Search { params, clean, count, constraint: &constraint, ctx };
        let made = search.make(&mut *objective)?;
        objective.warn();
        let free = params.labels == Labels::Aligned;
        let bound = objective.bound(made.start.features.view(), &made.start.labels, free, &constraint, clean)?;
        Ok(made.artifact(params, aim, bound))
    }
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
    /// The objective at the end, and as it is shown.
    value: f64,
    objective: f64,
    stopped: Stop,
    /// Of free labels: how much the search that began with them ended behind the best one.
    gap: Option<f64>,
}

/// Starts poisons and moves them.
struct Search<'a> {
    params: &'a Params,
    clean: Samples<'a>,
    count: usize,
    constraint: &'a Constraint,
    ctx: &'a Context<'a>,
}

impl Search<'_> {
    /// With free labels every choice of clean ones may be had, too: so clean labels are searched first, free ones from
    /// where that ended and from their own start, and the best of the three is taken. Where a follower moves on, values
    /// cannot be compared, and there is one search.
    fn make(&self, objective: &mut dyn Objective) -> Result<Made, StageError> {
        if self.params.labels != Labels::Aligned || objective.moves() {
            return self.search(objective, self.params.labels, None);
        }
        let kept = self.search(objective, Labels::Kept, None)?;
        let alone = self.search(objective, Labels::Aligned, None)?;
        let gap = |best: &Made| Some((best.objective - alone.objective).abs());
        let mut best = kept;
        if self.params.solver != SolverKind::ConditionalGradient {
            let onwards = self.search(objective, Labels::Aligned, Some(&best))?;
            best = if onwards.value < best.value { onwards } else { best };
        }
        if alone.value <= best.value {
            return Ok(Made { gap: Some(0.0), ..alone });
        }
        Ok(Made { gap: gap(&best), ..best })
    }

    /// One search, with such labels, from the start that the parameters name, or from where another one ended.
    fn search(&self, objective: &mut dyn Objective, labels: Labels, from: Option<&Made>) -> Result<Made, StageError> {
        let Self { params, clean, count, constraint, ctx } = *self;
        let (solver, sweeps) = match params.solver {
            SolverKind::ConditionalGradient => (None, params.steps()),
            SolverKind::GradientDescent => (Some(Solver::GradientDescent), 0),
            SolverKind::NormDescent => (Some(Solver::NormDescent), 0),
            SolverKind::Adam => (Some(Solver::Adam), 0),
            SolverKind::Lbfgs => (Some(Solver::Lbfgs), 0),
        };
        let relabel_every = if labels == Labels::Aligned { params.relabel_every() } else { None };
        let mut greedy: Option<Record> = None;
        let start = match from {
            Some(made) => {
                let Start { base, features, labels } = &made.start;
                let labels = match relabel_every {
                    Some(_) => labels.clone(),
                    // They are chosen once.
                    None => objective.evaluate(features.view(), labels)?.best_labels(features.view())?,
                };
                Start { base: base.clone(), features: features.clone(), labels }
            }
            None => {
                let kind = if solver.is_none() { StartKind::Greedy } else { params.start() };
                let plan = Plan { clean, count, kind, labels, sweeps, seed: ctx.seed };
                plan.make(objective, constraint, &mut |at, value| {
                    let steps = (sweeps + 1).saturating_mul(count as u32);
                    greedy.get_or_insert_with(|| Record::new("greedy", steps, ctx)).point(at, value)
                })?
            }
        };
        let Some(solver) = solver else {
            let value = objective.evaluate(start.features.view(), &start.labels)?.value;
            let (objective, curve) = (objective.shown(value), greedy.map(|g| g.curve).unwrap_or_default());
            return Ok(Made { start, curve, value, objective, stopped: Stop::Steps, gap: None });
        };
        let square: f64 = clean.chunks().map(|c| c.to_f64().iter().map(|z| z * z).sum::<f64>()).sum();
        let rms = (square / (clean.len() * clean.dim()) as f64).sqrt();
        let descent = Descent {
            solver,
            steps: params.steps(),
            step: if solver == Solver::NormDescent { params.step() } else { params.step() * rms },
            relabel_every,
            target: objective.end(params.tolerance),
            stall: params.stall,
            time: params.max_seconds.map(Duration::from_secs_f64),
        };
        let mut record = Record::new("poisons", descent.steps, ctx);
        let Start { base, features, labels: given } = start;
        let found = descend(objective, features, given, constraint, &descent, |at, value| record.point(at, value))?;
        let base = match params.base() {
            Base::Start => base,
            Base::Nearest => nearest_samples(&found.features, &found.labels, clean, labels.base_class()),
        };
        let before = from.map(|made| made.curve.clone()).unwrap_or_default();
        let taken = before.last().map_or(0, |point| point.step + 1);
        let after = record.curve.into_iter().map(|point| CurvePoint { step: point.step + taken, ..point });
        Ok(Made {
            value: found.value,
            objective: objective.shown(found.value),
            stopped: found.stopped,
            start: Start { base, features: found.features, labels: found.labels },
            curve: before.into_iter().chain(after).collect(),
            gap: None,
        })
    }
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
            gap: self.gap,
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

#[cfg(test)]
mod tests;
