//! Stage: poisoned features, made by one of the attacks of `hemlock-attack`.

mod journal;
mod search;

use std::cell::RefCell;

use hemlock_artifact::{AttackSpec, Features, PoisonFeatures, TargetParams};
use hemlock_attack::adaptive::{Adaptive, Evasion};
use hemlock_attack::attacks::{self, Defaults, Stochasticity};
use hemlock_attack::{AttackParams, AttackRef, Base, Labels, Start, poison_count};
use hemlock_head_device::make_passes;
use hemlock_optim::PAIRS;
use hemlock_stage::{About, Context, ParamError, StageError, StageRole, inputs};
use hemlock_threat::{ConstraintKind, ConstraintKinds};
use journal::Journal;
use schemars::JsonSchema;
use search::Search;
use serde::{Deserialize, Serialize, ser::Error};
use serde_json::Value;

/// An attack on features. A field that the chosen attack or solver does not use is ignored, and does not change the
/// key.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Params {
    /// The attack, which determines what the poisons minimise.
    pub attack: AttackRef,
    /// The number of poisons, divided by the number of clean training samples.
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1))]
    pub poison_fraction: f64,
    /// The constraint on poisoned features: `none`, `ball`, `box`, `sphere`, `slab`, `knn`, or several of them, such as
    /// `sphere+slab`.
    #[serde(default)]
    pub constraint: ConstraintKinds,
    /// The fraction of the clean features that lies within each set of the constraint. `none` and `box` contain all.
    #[serde(default = "defaults::quantile")]
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1))]
    pub quantile: f64,
    /// The k of the constraint `knn`.
    #[serde(default = "defaults::neighbors")]
    #[schemars(range(min = 1))]
    pub neighbors: u32,
    /// Which labels the poisons have.
    #[serde(default)]
    pub labels: Labels,
    /// Number of steps after which adversarial labels are chosen again; 0 chooses them once. If absent, the default of
    /// the attack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_update_interval: Option<u32>,
    /// Where the poisons start. If absent, the default of the attack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
    /// Which clean sample a poison is made of. If absent, the default of the attack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    /// The method that moves the poisons. `norm-descent` goes with `gradient-canceling` alone; `tgda` takes `adam` or
    /// `gradient-descent`.
    #[serde(default)]
    pub solver: SolverKind,
    /// Largest number of steps of the solver. If absent, the default of the attack. With `conditional-gradient`, the
    /// number of sweeps in which all poisons are exchanged for better ones. If absent, 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub steps: Option<u32>,
    /// Length of the first step for each coordinate, relative to the root mean square of the clean features. If absent,
    /// the default of the attack. With `norm-descent`, the rate. If absent, 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub step: Option<f64>,
    /// Number of steps without improvement after which the solver stops. If absent, it does not stop for this reason.
    /// It goes neither with `conditional-gradient` nor with `tgda`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub patience: Option<u32>,
    /// Number of seconds after which the solver stops, in every turn of an adaptive attack. If absent, there is no
    /// limit; with one, the result depends on the machine. It does not go with `conditional-gradient`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1_000_000_000))]
    pub max_seconds: Option<f64>,
    /// For an attack whose objective has the minimum 0, such as Gradient Canceling: the displayed objective at which
    /// the solver stops.
    #[serde(default = "defaults::tolerance")]
    #[schemars(range(min = 0))]
    pub tolerance: f64,
    /// Whether the attack knows the filter of the victim, and moves poisons such that it keeps them. It then makes
    /// poisons for every filter of `[[defence]]`, and they meet that filter alone.
    #[serde(default, skip_serializing_if = "Adaptive::is_off")]
    #[schemars(with = "bool")]
    pub adaptive: Adaptive,
    /// The fields of the attacks.
    #[serde(flatten)]
    pub own: AttackParams,
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

/// The method that moves the poisons.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SolverKind {
    /// Gradient descent at a fixed rate, as in the paper.
    GradientDescent,
    /// Gradient descent on the norm of Gradient Canceling's residual, in sums over samples. The rate is `step` and
    /// falls to 0 along half a cosine, as in the authors' public script.
    NormDescent,
    /// Adam with a cosine schedule.
    #[default]
    Adam,
    /// L-BFGS with a line search along the projected path.
    Lbfgs,
    /// The greedy conditional gradient method: poisons are added one by one, each being the one that lowers the
    /// objective most. Afterwards, each is exchanged for a better one.
    ConditionalGradient,
}

impl Params {
    /// The fields of the stage that do not belong to an attack.
    const FIELDS: [&str; 16] = [
        "attack",
        "poison_fraction",
        "constraint",
        "quantile",
        "neighbors",
        "labels",
        "label_update_interval",
        "start",
        "base",
        "solver",
        "steps",
        "step",
        "patience",
        "max_seconds",
        "tolerance",
        "adaptive",
    ];

    /// What the poisons aim at, as the artifact records it. Parameters without effect have a fixed value.
    fn spec(&self, seed: u64) -> Result<AttackSpec, ParamError> {
        let knn = self.constraint.kinds().contains(&ConstraintKind::Knn);
        Ok(AttackSpec {
            attack: self.attack.name().to_owned(),
            parameters: self.own.of(self.attack)?.into_table(),
            seed: if self.own.stochasticity(self.attack).is_some() { seed } else { 0 },
            constraint: self.constraint.clone(),
            quantile: if self.constraint.has_quantile() { self.quantile } else { defaults::quantile() },
            neighbors: if knn { self.neighbors } else { defaults::neighbors() },
            filter: self.adaptive.filter(seed)?,
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
        let Defaults { step, unconstrained_step, .. } = self.attack.defaults();
        self.step.unwrap_or(if self.constraint.kinds().is_empty() { unconstrained_step } else { step })
    }

    fn base(&self) -> Base {
        self.base.unwrap_or(self.attack.defaults().base)
    }

    fn start(&self) -> Start {
        self.start.unwrap_or(self.attack.defaults().start)
    }

    fn label_update_interval(&self) -> Option<u32> {
        let every = self.label_update_interval.unwrap_or(self.attack.defaults().label_update_interval);
        (self.labels == Labels::Adversarial && every > 0).then_some(every)
    }
}

impl hemlock_stage::Params for Params {
    fn check(&self) -> Result<(), ParamError> {
        self.own.check(&Self::FIELDS)?;
        self.adaptive.check()?;
        ParamError::share("poison_fraction", self.poison_fraction)?;
        ParamError::share("quantile", self.quantile)?;
        ParamError::at_least_one("neighbors", self.neighbors)?;
        ParamError::require(self.steps() <= 1_000_000, "steps", self.steps(), "at most 1,000,000")?;
        if self.solver == SolverKind::ConditionalGradient {
            let known = |field: &str, given: bool| {
                let message = "is unknown to `conditional-gradient`, which ends by itself; leave it out";
                if given { Err(ParamError::new(field, message)) } else { Ok(()) }
            };
            known("patience", self.patience.is_some())?;
            known("max_seconds", self.max_seconds.is_some())?;
            if !self.adaptive.is_off() {
                let message = "goes with a solver that moves poisons; expected another one than `conditional-gradient`";
                return Err(ParamError::new("adaptive", message));
            }
        } else {
            ParamError::require(self.steps() > 0, "steps", 0, "at least 1, unless `solver` is `conditional-gradient`")?;
        }
        ParamError::positive("step", self.step())?;
        if self.solver == SolverKind::NormDescent && !self.attack.has_zero_minimum() {
            let message =
                "is `norm-descent`, which goes down the norm that `gradient-canceling` leaves; expected another one";
            return Err(ParamError::new("solver", message));
        }
        if let Some(patience) = self.patience {
            ParamError::at_least_one("patience", patience)?;
        }
        if let Some(seconds) = self.max_seconds {
            // A longer time is pointless, and `Duration` may not be able to represent it.
            let sensible = seconds > 0.0 && seconds <= 1e9;
            ParamError::require(sensible, "max_seconds", seconds, "above 0 and at most 1e9")?;
        }
        ParamError::non_negative("tolerance", self.tolerance)?;
        if let Some(Stochasticity { what, unless }) = self.own.stochasticity(self.attack) {
            let refuse = |field: &str, refused: bool, expected: &str| {
                let message = format!("does not go with {what}; expected {expected}, or {unless}");
                if refused { Err(ParamError::new(field, message)) } else { Ok(()) }
            };
            let steady = matches!(self.solver, SolverKind::Adam | SolverKind::GradientDescent);
            refuse("solver", !steady, "`adam` or `gradient-descent`, which ask for the objective once a step")?;
            refuse(
                "start",
                self.start() == Start::Greedy,
                "another start, as this one asks for the objective once a poison",
            )?;
            refuse("patience", self.patience.is_some(), "none, as values are of different heads")?;
        }
        Ok(())
    }
}

inputs! {
    /// The inputs of the stage.
    pub struct Inputs {
        /// Features of the downstream dataset.
        features: Features = "features",
        /// The clean head and the target head.
        target: TargetParams = "target-params",
    }
}

/// The stage `poison-features`.
pub struct Stage;

impl hemlock_stage::Stage for Stage {
    const NAME: &'static str = "poison-features";
    const ABOUT: About = About {
        named_by: &["attack", "poison_fraction"],
        adapts_to: Some(("adaptive", "defence")),
        ..About::new(StageRole::FeatureAttack, "find features that corrupt the retrained head")
    };
    const VERSION: u32 = 15;
    const SEEDED: bool = true;
    const USES_DEVICE: bool = false;
    const LISTS: &'static [&'static str] = &["sees", "weight_decays"];
    type Params = Params;
    type Inputs = Inputs;
    type Output = PoisonFeatures;

    fn key_params(params: &Params) -> Result<Value, serde_json::Error> {
        let resolved = Params {
            steps: Some(params.steps()),
            step: Some(params.step()),
            start: Some(params.start()),
            base: Some(params.base()),
            label_update_interval: params.label_update_interval(),
            adaptive: params.adaptive.resolved(),
            own: params.own.of(params.attack).map_err(serde_json::Error::custom)?,
            ..params.clone()
        };
        let mut value = serde_json::to_value(&resolved)?;
        let greedy = params.solver == SolverKind::ConditionalGradient;
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|field, _| match field.as_str() {
                "quantile" => params.constraint.has_quantile(),
                "neighbors" => params.constraint.kinds().contains(&ConstraintKind::Knn),
                "start" | "base" | "step" | "patience" | "max_seconds" | "label_update_interval" => !greedy,
                "tolerance" => params.attack.has_zero_minimum() && !greedy,
                _ => true,
            });
            if params.solver == SolverKind::Lbfgs {
                fields.insert("memory".to_owned(), PAIRS.into());
            }
        }
        Ok(value)
    }

    fn run(params: &Params, Inputs { features, target }: Inputs, ctx: &Context) -> Result<PoisonFeatures, StageError> {
        let spec = params.spec(ctx.seed)?;
        let clean = features.train.samples(features.classes.len())?;
        let count = poison_count(params.poison_fraction, clean.len())?;
        let constraint = attacks::constraint(&spec, clean)?;
        let passes = make_passes(clean, ctx)?;
        let mut objective = attacks::objective(&spec, &features, &target, ctx.cancel, &*passes)?;
        let journal = RefCell::new(Journal::load(ctx));
        let search = Search { params, clean, count, constraint: &constraint, ctx, journal };
        let mut found = search.make(&mut *objective)?;
        if let Some(evasion) = Evasion::new(&spec, clean, target.weight_decay)? {
            found = search.adapt(&mut *objective, &evasion, found)?;
        }
        objective.warn();
        let any_labels = params.labels == Labels::Adversarial;
        let bound =
            objective.bound(found.start.features.view(), &found.start.labels, any_labels, &constraint, clean)?;
        Ok(found.artifact(params, spec, bound))
    }
}

#[cfg(test)]
mod tests;
