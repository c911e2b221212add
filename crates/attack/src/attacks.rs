//! The attacks: each is one file in this folder and one line of `ATTACKS`. [`register`] adds attacks of other crates.

mod bilevel;
mod bilevel_cross_entropy;
mod bilevel_sweep;
mod gradient_canceling;
mod tgda;

mod params;
mod registry;

pub use params::AttackParams;
pub use registry::{AnyAttack, AttackRef, ErasedAttack, all, constraint, find, objective, register};
pub use tgda::InnerLoop;

use crate::{Base, Objective, Start};
use hemlock_artifact::TargetParams;
use hemlock_head::{MakePasses, Samples};
use hemlock_stage::{Cancel, ParamError, StageError};
use hemlock_threat::Sees;
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

/// The attacks of this crate. A new attack is one more line.
static ATTACKS: &[&dyn AnyAttack] = &[
    &ErasedAttack::<gradient_canceling::GradientCanceling>::NEW,
    &ErasedAttack::<bilevel::Bilevel>::NEW,
    &ErasedAttack::<bilevel_cross_entropy::BilevelCrossEntropy>::NEW,
    &ErasedAttack::<bilevel_sweep::BilevelSweep>::NEW,
    &ErasedAttack::<tgda::Tgda>::NEW,
];

/// An attack: the parameters that it alone reads, as fields, and the objective that they define.
///
/// The fields are part of a stage's table, next to the fields of the stage. Each field needs a default that can be
/// written in a spec. Two attacks may share a field only if it means the same in both. The doc comments of the type and
/// of its fields describe them in the reference of specs.
pub trait Attack: Serialize + DeserializeOwned + JsonSchema + Default + 'static {
    /// The name in specs and results.
    const NAME: &'static str;
    /// What the results' field `objective` is, as a label that follows "Objective: ".
    const VALUE_LABEL: &'static str;
    /// The defaults for the parameters of the stages that run this attack.
    const DEFAULTS: Defaults;
    /// Whether the minimum of the objective is 0, so that a solver may stop near it ([`Objective::stop_value`]).
    const HAS_ZERO_MINIMUM: bool = false;
    /// Whether the attack uses the target head. Other attacks use only the clean head and the weight decay of the
    /// artifact.
    const USES_TARGET: bool = false;

    /// Checks the ranges of the parameters.
    ///
    /// # Errors
    /// Returns an error that names the first field out of its range.
    fn check(&self) -> Result<(), ParamError> {
        Ok(())
    }

    /// The parameters as they appear in keys and artifacts, where parameters without effect have a fixed value.
    #[must_use]
    fn resolved(self) -> Self {
        self
    }

    /// Why every evaluation changes the objective, which then depends on the seed; `None` if the objective is
    /// deterministic.
    fn stochasticity(&self) -> Option<Stochasticity> {
        None
    }

    /// The objective against a victim that trains on the clean samples and the poisons.
    ///
    /// # Errors
    /// Returns an error if features and target do not fit each other, or if something that the attack needs is missing.
    fn objective<'a>(&self, given: &ObjectiveInputs<'a>) -> Result<Box<dyn Objective + 'a>, StageError>;
}

/// The defaults for parameters that a spec leaves out.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    /// Where poisons start.
    pub start: Start,
    /// Which clean sample a poison is made of.
    pub base: Base,
    /// Number of steps after which adversarial labels are chosen again; 0 chooses them once.
    pub label_update_interval: u32,
    /// Largest number of steps of the solver.
    pub steps: u32,
    /// Length of the first step, relative to the root mean square of the clean features.
    pub step: f64,
    /// Length of the first step without a constraint, in the same unit.
    pub unconstrained_step: f64,
}

/// Why an objective changes with every evaluation, in the words of an error message.
#[derive(Debug, Clone, Copy)]
pub struct Stochasticity {
    /// What changes, such as "the head of `tgda`, which trains on".
    pub what: &'static str,
    /// What to write for a deterministic objective, such as "`attack = \"bilevel-cross-entropy\"`, whose head is
    /// retrained".
    pub unless: &'static str,
}

/// The inputs of an objective.
pub struct ObjectiveInputs<'a> {
    /// The victim's clean samples.
    pub clean: Samples<'a>,
    /// Clean samples that the victim does not train on. They may be empty.
    pub validation: Samples<'a>,
    /// The clean head, the target head, and the weight decay of the victims.
    pub target: &'a TargetParams,
    /// The seed of the objective's random draws.
    pub seed: u64,
    /// A request to stop, for objectives whose evaluation takes long.
    pub cancel: &'a Cancel,
    /// Makes passes over `clean` and the poisons, for objectives that train heads.
    pub passes: &'a dyn MakePasses,
}

impl<'a> ObjectiveInputs<'a> {
    /// The samples on which the attack raises the victims' loss: all samples that it sees. With more samples, the
    /// attack overfits them less.
    ///
    /// # Errors
    /// Returns an error if `sees` includes the validation split and there is none.
    pub fn raised(&self, sees: Sees) -> Result<Vec<Samples<'a>>, StageError> {
        Ok(sees.samples(self.clean, self.validation)?)
    }
}
