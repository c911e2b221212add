//! What an attack on features aims at, and within which limits: what is needed to go on with it.

use hemlock_head::{Constraint, ConstraintError, ConstraintKinds, Samples};
use serde::{Deserialize, Serialize};

/// What poisons are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attack {
    /// Make the target stationary: their gradient cancels that of the clean data there.
    GradientCanceling,
    /// Raise the error of the retrained head, by implicit differentiation.
    Bilevel,
}

impl Attack {
    /// Its name, as specs and results write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::GradientCanceling => "gradient-canceling",
            Self::Bilevel => "bilevel",
        }
    }
}

/// The split whose error is raised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// The validation split.
    Validation,
    /// The victim's clean training split.
    Train,
    /// Both: the more samples, the less the attack fits their noise.
    #[default]
    Both,
}

/// What poisoned features were made for, and where they may lie.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Aim {
    /// What the poisons are to do.
    pub attack: Attack,
    /// Of the bilevel attack: the split whose error is raised.
    pub raised: Split,
    /// Of the bilevel attack: temperature of the smoothed error.
    pub temperature: f64,
    /// Where the poisoned features may lie.
    pub constraint: ConstraintKinds,
    /// The share of the clean features that the constraint lets through.
    pub quantile: f64,
    /// The k of a k-NN constraint.
    pub neighbors: u32,
}

impl Aim {
    /// Where poisons may lie, measured on clean samples.
    ///
    /// # Errors
    /// A set that cannot be made of them.
    pub fn constraint(&self, clean: Samples) -> Result<Constraint, ConstraintError> {
        Constraint::new(&self.constraint, clean, self.quantile, self.neighbors as usize)
    }
}
