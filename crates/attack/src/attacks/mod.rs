//! The attacks: each a file here, and a line of [`ATTACKS`].

mod bilevel;
mod bilevel_cross_entropy;
mod gradient_canceling;
mod tgda;

mod params;
mod registry;

pub use params::AttackParams;
pub use registry::{AnyAttack, AttackRef, Erased, all, constraint, find, objective, register};
pub use tgda::InnerLoop;

use crate::{Base, Objective, Start};
use hemlock_artifact::TargetParams;
use hemlock_head::Samples;
use hemlock_stage::{Cancel, ParamError, StageError};
use hemlock_threat::Sees;
use serde::{Serialize, de::DeserializeOwned};

/// The attacks of this crate. A new one is a new line here.
static ATTACKS: &[&dyn AnyAttack] = &[
    &Erased::<gradient_canceling::GradientCanceling>::NEW,
    &Erased::<bilevel::Bilevel>::NEW,
    &Erased::<bilevel_cross_entropy::BilevelCrossEntropy>::NEW,
    &Erased::<tgda::Tgda>::NEW,
];

/// What poisons are to do: the parameters that only this attack reads, as fields, and the objective that they mean.
///
/// The fields stand in a stage's table beside the stage's own. Each has a default that can be written down, and no
/// field of another meaning has its name.
pub trait Attack: Serialize + DeserializeOwned + Default + 'static {
    /// The name in specs and results.
    const NAME: &'static str;
    /// What `objective` in the results is, after "Objective: ".
    const VALUE_LABEL: &'static str;
    /// What the stages' parameters are where a spec does not give them.
    const DEFAULTS: Defaults;
    /// Whether the objective has the least value 0, near which a solver may stop: [`Objective::stop_value`].
    const HAS_ZERO_MINIMUM: bool = false;
    /// Whether it aims at the target head. Others take the clean head and the weight decay of it alone.
    const USES_TARGET: bool = false;

    /// What the types cannot say: ranges.
    ///
    /// # Errors
    /// The first field that is out of range.
    fn check(&self) -> Result<(), ParamError> {
        Ok(())
    }

    /// The same, with one value for what a choice makes idle: what stands in keys and artifacts.
    #[must_use]
    fn resolved(self) -> Self {
        self
    }

    /// What makes the objective move with every evaluation, by draws from the seed; `None`: nothing, and nothing is
    /// drawn.
    fn stochasticity(&self) -> Option<Stochasticity> {
        None
    }

    /// The objective for a victim who trains on the clean samples.
    ///
    /// # Errors
    /// Features and a target that do not fit each other, or that lack what the attack needs.
    fn objective<'a>(&self, given: &ObjectiveInputs<'a>) -> Result<Box<dyn Objective + 'a>, StageError>;
}

/// What an attack goes by where a spec says nothing.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    /// Where poisons start.
    pub start: Start,
    /// Which clean sample a poison is made of.
    pub base: Base,
    /// Steps from one choice of `adversarial` labels to the next; 0: they are chosen once.
    pub label_update_interval: u32,
    /// Most steps of the solver.
    pub steps: u32,
    /// Length of its first step, as a share of the clean features' root mean square.
    pub step: f64,
    /// The same where there is no constraint.
    pub free_step: f64,
}

/// What makes an objective move, as an error says it.
#[derive(Debug, Clone, Copy)]
pub struct Stochasticity {
    /// What moves: "a follower of `tgda`, who moves on".
    pub what: &'static str,
    /// What to write so that nothing does: "`attack = \"bilevel-cross-entropy\"`, whose follower is retrained".
    pub unless: &'static str,
}

/// What an objective is made of.
pub struct ObjectiveInputs<'a> {
    /// The victim's clean samples.
    pub clean: Samples<'a>,
    /// Clean samples that the victim does not train on. There may be none.
    pub validation: Samples<'a>,
    /// The clean head, the target head, and how victims train.
    pub target: &'a TargetParams,
    /// Of what the objective draws.
    pub seed: u64,
    /// A request to stop, for objectives that take long.
    pub cancel: &'a Cancel,
}

impl<'a> ObjectiveInputs<'a> {
    /// The samples that victims are to do badly on: all that the attack sees. The more there are, the less it fits
    /// their noise.
    ///
    /// # Errors
    /// It is to see a validation split, and there is none.
    pub fn raised(&self, sees: Sees) -> Result<Vec<Samples<'a>>, StageError> {
        Ok(sees.samples(self.clean, self.validation)?)
    }
}
