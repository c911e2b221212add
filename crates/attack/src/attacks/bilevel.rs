//! The bilevel attack: raises the error of the retrained head, by implicit differentiation.

use super::{Attack, Defaults, ObjectiveInputs};
use crate::{Base, Objective, Start};
use hemlock_stage::{ParamError, StageError};
use hemlock_threat::Sees;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Raises the smoothed error of the retrained head, by implicit differentiation.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Bilevel {
    /// The splits whose error is raised.
    sees: Sees,
    /// Temperature of the smoothed error. The lower it is, the closer is the smoothed error to the error rate.
    #[schemars(extend("exclusiveMinimum" = 0))]
    temperature: f64,
}

impl Default for Bilevel {
    fn default() -> Self {
        Self { sees: Sees::default(), temperature: 0.5 }
    }
}

impl Attack for Bilevel {
    const NAME: &'static str = "bilevel";
    const VALUE_LABEL: &'static str = "the smoothed error of the retrained head";
    const DEFAULTS: Defaults = Defaults {
        start: Start::Influence,
        base: Base::Nearest,
        label_update_interval: 20,
        steps: 200,
        step: 0.2,
        unconstrained_step: 1.0,
    };

    fn check(&self) -> Result<(), ParamError> {
        ParamError::positive("temperature", self.temperature)
    }

    fn objective<'a>(&self, given: &ObjectiveInputs<'a>) -> Result<Box<dyn Objective + 'a>, StageError> {
        let (raised, head) = (given.raised(self.sees)?, given.target.clean.clone());
        let decay = given.target.weight_decay;
        Ok(Box::new(
            crate::BilevelObjective::new(given.clean, raised, head, decay, self.temperature)?
                .within(given.cancel, given.passes),
        ))
    }
}
