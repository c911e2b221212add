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
    /// Total gradient descent ascent: raise the loss of a head that descends meanwhile, by implicit differentiation as if it were
    /// trained.
    Tgda,
}

impl Attack {
    /// Its name, as specs and results write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::GradientCanceling => "gradient-canceling",
            Self::Bilevel => "bilevel",
            Self::Tgda => "tgda",
        }
    }

    /// Whether this attack reads a parameter of that name, of those that only some attacks read.
    #[must_use]
    pub fn reads(self, parameter: &str) -> bool {
        match parameter {
            "objective" => self != Self::GradientCanceling,
            "temperature" => self == Self::Bilevel,
            "follower" => self == Self::Tgda,
            _ => true,
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

impl Follower {
    /// One that is retrained has no rate and no batches.
    #[must_use]
    pub fn resolved(self) -> Self {
        if self.steps == 0 { Self { steps: 0, ..Self::default() } } else { self }
    }
}

impl Default for Follower {
    fn default() -> Self {
        Self { steps: 1, learning_rate: 0.1, batch: 1000 }
    }
}

/// What poisoned features were made for, and where they may lie.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Aim {
    /// What the poisons are to do.
    pub attack: Attack,
    /// Of the bilevel attack and of TGDA: the split whose error, or loss, is raised.
    pub raised: Split,
    /// Of the bilevel attack: temperature of the smoothed error.
    pub temperature: f64,
    /// Of TGDA: the follower.
    pub follower: Follower,
    /// Of TGDA: the seed of the batches that the follower descends on.
    pub seed: u64,
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
