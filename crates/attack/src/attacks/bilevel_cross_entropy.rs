//! The bilevel attack with TGDA's outer loss: raises the cross-entropy of the retrained head, by implicit
//! differentiation.

use super::{Attack, Defaults, ObjectiveInputs, bilevel};
use crate::Objective;
use hemlock_stage::StageError;
use hemlock_threat::Sees;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Raises the cross-entropy of the retrained head, by implicit differentiation.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct BilevelCrossEntropy {
    /// The splits whose loss is raised.
    sees: Sees,
}

impl Attack for BilevelCrossEntropy {
    const NAME: &'static str = "bilevel-cross-entropy";
    const VALUE_LABEL: &'static str = "the cross-entropy of the retrained head";
    const DEFAULTS: Defaults = bilevel::Bilevel::DEFAULTS;

    fn objective<'a>(&self, given: &ObjectiveInputs<'a>) -> Result<Box<dyn Objective + 'a>, StageError> {
        let (raised, head) = (given.raised(self.sees)?, given.target.clean.clone());
        let decay = given.target.weight_decay;
        Ok(Box::new(
            crate::BilevelObjective::cross_entropy(given.clean, raised, head, decay)?
                .within(given.cancel, given.passes),
        ))
    }
}
