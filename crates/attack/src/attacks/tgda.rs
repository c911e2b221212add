//! TGDA, total gradient descent ascent: raises the loss of a head that takes steps of gradient descent at the same
//! time. It uses implicit differentiation as if the head were trained to its minimum.

use super::{Attack, Defaults, ObjectiveInputs, Stochasticity, bilevel};
use crate::{BilevelObjective, Objective};
use hemlock_stage::{ParamError, StageError};
use hemlock_threat::Sees;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Raises the cross-entropy of a head that trains between the steps of the poisons.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Tgda {
    /// The splits whose loss is raised.
    sees: Sees,
    /// The training of the head.
    inner: InnerLoop,
}

/// How the head of TGDA's inner problem trains between two steps of the poisons.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InnerLoop {
    /// Number of steps of gradient descent between two steps of the poisons.
    #[schemars(range(min = 1))]
    pub steps: u32,
    /// Learning rate of the steps.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// Number of samples in a step, drawn from clean data and poisons.
    #[schemars(range(min = 1))]
    pub batch: usize,
}

impl Default for InnerLoop {
    fn default() -> Self {
        Self { steps: 20, learning_rate: 0.1, batch: 1000 }
    }
}

impl Attack for Tgda {
    const NAME: &'static str = "tgda";
    const VALUE_LABEL: &'static str = "the cross-entropy of the head that trains meanwhile";
    const DEFAULTS: Defaults = bilevel::Bilevel::DEFAULTS;

    fn check(&self) -> Result<(), ParamError> {
        let retrained = "at least 1; with the head retrained, the attack is `bilevel-cross-entropy`";
        ParamError::require(self.inner.steps > 0, "inner.steps", 0, retrained)?;
        ParamError::positive("inner.learning_rate", self.inner.learning_rate)?;
        ParamError::at_least_one("inner.batch", self.inner.batch as u64)
    }

    fn stochasticity(&self) -> Option<Stochasticity> {
        let unless = "`attack = \"bilevel-cross-entropy\"`, whose head is retrained";
        Some(Stochasticity { what: "the head of `tgda`, which trains on", unless })
    }

    fn objective<'a>(&self, given: &ObjectiveInputs<'a>) -> Result<Box<dyn Objective + 'a>, StageError> {
        let (raised, head) = (given.raised(self.sees)?, given.target.clean.clone());
        let decay = given.target.weight_decay;
        Ok(Box::new(
            BilevelObjective::tgda(given.clean, raised, head, decay, self.inner, given.seed)?
                .within(given.cancel, given.passes),
        ))
    }
}
