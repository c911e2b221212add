//! Which labels poisons have, and which clean samples they are made of.

use crate::Class;
use serde::{Deserialize, Serialize};

/// Labels of the poisons.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Labels {
    /// Those of the training samples that the poisons are made of: a clean-label attack.
    #[default]
    Clean,
    /// Any other class, uniformly.
    Random,
    /// Chosen by the attack.
    Adversarial,
}

impl Labels {
    /// Which clean samples poisons with such labels may be made of.
    #[must_use]
    pub fn base_class(self) -> Class {
        match self {
            Self::Clean => Class::Own,
            Self::Random => Class::Other,
            Self::Adversarial => Class::Any,
        }
    }
}

/// Which clean sample a poison is made of: the one whose image an inversion starts from and is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Base {
    /// The one it started at, or that was drawn for it.
    Start,
    /// The nearest to where it ended that no other poison is made of; of its own class, where labels are kept.
    Nearest,
}
