//! Gradient Canceling: makes the target head a stationary point of the victim's training.

use super::{Attack, Defaults, ObjectiveInputs};
use crate::{Base, Canceled, CancelingObjective, Objective, Start};
use hemlock_stage::StageError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Makes the target head a stationary point of training.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct GradientCanceling {
    /// Which part of the gradient is canceled.
    gradient: Canceled,
}

impl Attack for GradientCanceling {
    const NAME: &'static str = "gradient-canceling";
    const VALUE_LABEL: &'static str = "the gradient that is left at the target, as a share of the clean one";
    const DEFAULTS: Defaults = Defaults {
        start: Start::Clean,
        base: Base::Start,
        label_update_interval: 0,
        steps: 2000,
        step: 0.1,
        unconstrained_step: 0.1,
    };
    const HAS_ZERO_MINIMUM: bool = true;
    const USES_TARGET: bool = true;

    fn objective<'a>(&self, given: &ObjectiveInputs<'a>) -> Result<Box<dyn Objective + 'a>, StageError> {
        let canceling = CancelingObjective::new(&given.target.target, given.clean, given.target.weight_decay)?;
        Ok(Box::new(canceling.of(self.gradient)))
    }
}
