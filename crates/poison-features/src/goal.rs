//! From an aim to the objective that it means on given data.

use crate::{Bilevel, Canceling, Objective};
use hemlock_artifact::{Aim, Attack, Features, Split, TargetParams};
use hemlock_stage::{ParamError, StageError};

/// The objective of an attack on some data.
pub enum Goal<'a> {
    /// Make the target stationary.
    Canceling(Canceling<'a>),
    /// Raise the error of the retrained head, or the loss of one that descends.
    Bilevel(Box<Bilevel<'a>>),
}

impl<'a> Goal<'a> {
    /// What `aim` means for a victim that trains on the clean samples of `features`.
    ///
    /// # Errors
    /// Features and a target that do not fit each other, or no sample of the split whose error is to be raised.
    pub fn new(aim: &Aim, features: &'a Features, target: &'a TargetParams) -> Result<Self, StageError> {
        let classes = features.classes.len();
        let clean = features.train.samples(classes)?;
        match aim.attack {
            Attack::GradientCanceling => {
                Ok(Self::Canceling(Canceling::new(&target.target, clean, target.weight_decay)?))
            }
            Attack::Bilevel | Attack::Tgda => {
                let validation = features.validation.samples(classes)?;
                if validation.is_empty() && aim.raised == Split::Validation {
                    let message =
                        "gives no validation split, whose error the attack raises; expected `validation` above 0";
                    return Err(ParamError::new("dataset.downstream", message).into());
                }
                let raised = match aim.raised {
                    Split::Validation => vec![validation],
                    Split::Train => vec![clean],
                    Split::Both => vec![validation, clean],
                };
                let (head, decay) = (target.clean.clone(), target.weight_decay);
                Ok(Self::Bilevel(Box::new(match aim.attack {
                    Attack::Tgda => Bilevel::tgda(clean, raised, head, decay, aim.follower, aim.seed)?,
                    _ => Bilevel::new(clean, raised, head, decay, aim.temperature)?,
                })))
            }
        }
    }

    /// The objective, as solvers know it.
    pub fn objective(&mut self) -> &mut (dyn Objective + 'a) {
        match self {
            Self::Canceling(canceling) => canceling,
            Self::Bilevel(bilevel) => &mut **bilevel,
        }
    }

    /// Says so where a gradient was not exact.
    pub fn warn(&self) {
        if let Self::Bilevel(bilevel) = self
            && let Some(gradient_norm) = bilevel.unconverged()
        {
            tracing::warn!(gradient_norm, "a head that the attack retrained stopped before its tolerance");
        }
    }
}
