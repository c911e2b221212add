//! The labels of poisons, and the clean samples that they are made of.

use crate::Class;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which labels poisons have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Labels {
    /// Clean labels: those of the training samples that the poisons are made of. The attack is a clean-label attack.
    #[default]
    Clean,
    /// Random labels: any class except that of the training sample, uniformly.
    Random,
    /// Adversarial labels: the attack chooses them.
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

/// Which clean sample a poison is made of: its image is the base image, which an inversion starts from and is compared
/// with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Base {
    /// The sample that the poison started at, or that was drawn for it.
    Start,
    /// The sample nearest to the final features that no other poison is made of. With clean labels, it is a sample of
    /// the poison's class.
    Nearest,
}
