//! Gradient Canceling: makes the target parameters a stationary point of the victim's training.

use super::{Attack, Defaults, Given};
use crate::{Base, Canceled, Canceling, Objective, StartKind};
use hemlock_stage::StageError;
use serde::{Deserialize, Serialize};

/// What it cancels.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct GradientCanceling {
    /// Which part of the gradient.
    gradient: Canceled,
}

impl Attack for GradientCanceling {
    const NAME: &'static str = "gradient-canceling";
    const SHOWN: &'static str = "the gradient that is left at the target, as a share of the clean one";
    const DEFAULTS: Defaults = Defaults {
        start: StartKind::Clean,
        base: Base::Start,
        relabel_every: 0,
        steps: 2000,
        step: 0.1,
        free_step: 0.1,
    };
    const ENDS: bool = true;
    const AIMS: bool = true;

    fn objective<'a>(&self, given: &Given<'a>) -> Result<Box<dyn Objective + 'a>, StageError> {
        let canceling = Canceling::new(&given.target.target, given.clean, given.target.weight_decay)?;
        Ok(Box::new(canceling.of(self.gradient)))
    }
}
