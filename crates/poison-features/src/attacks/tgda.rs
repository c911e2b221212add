//! TGDA, total gradient descent ascent: raises the loss of a head that descends meanwhile, by implicit differentiation as if it were
//! trained.

use super::{Attack, Defaults, Given, Moves, Split, bilevel};
use crate::{Bilevel, Objective};
use hemlock_stage::{ParamError, StageError};
use serde::{Deserialize, Serialize};

/// What it raises, and of whom.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Tgda {
    /// The split whose loss is raised.
    objective: Split,
    follower: Follower,
}

/// How the head trains that TGDA plays against, from one step of the poisons to the next.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Follower {
    /// Steps of gradient descent; 0: it is trained to the minimum.
    pub steps: u32,
    /// Their rate.
    pub learning_rate: f64,
    /// Samples of a step, drawn from clean data and poisons.
    pub batch: usize,
}

impl Default for Follower {
    fn default() -> Self {
        Self { steps: 1, learning_rate: 0.1, batch: 1000 }
    }
}

impl Attack for Tgda {
    const NAME: &'static str = "tgda";
    const SHOWN: &'static str = "the cross-entropy of the head that trains meanwhile";
    const DEFAULTS: Defaults = bilevel::Bilevel::DEFAULTS;

    fn check(&self) -> Result<(), ParamError> {
        ParamError::positive("follower.learning_rate", self.follower.learning_rate)?;
        ParamError::at_least_one("follower.batch", self.follower.batch as u64)
    }

    /// A follower who is retrained has no rate and no batches.
    fn resolved(self) -> Self {
        let retrained = Follower { steps: 0, ..Follower::default() };
        Self { follower: if self.follower.steps == 0 { retrained } else { self.follower }, ..self }
    }

    fn moves(&self) -> Option<Moves> {
        let moves = Moves { what: "a follower of `tgda` who moves on", unless: "`follower.steps = 0`" };
        (self.follower.steps > 0).then_some(moves)
    }

    fn objective<'a>(&self, given: &Given<'a>) -> Result<Box<dyn Objective + 'a>, StageError> {
        let (raised, head) = (given.raised(self.objective)?, given.target.clean.clone());
        let decay = given.target.weight_decay;
        Ok(Box::new(
            Bilevel::tgda(given.clean, raised, head, decay, self.follower, given.seed)?.stopped_by(given.cancel),
        ))
    }
}
