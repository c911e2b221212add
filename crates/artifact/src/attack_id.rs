//! The identity of an attack, as results and reports show it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// An attack, identified by what it minimises and how its poisons became images.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct AttackId {
    /// What the poisons minimise, such as `gradient-canceling`.
    #[serde(rename = "attack")]
    pub objective: String,
    /// How the poisons became images: `feature-matching`, `decoder`, `refined`, `pixels`, and others. `None` if there
    /// are no images.
    pub method: Option<String>,
}

impl AttackId {
    /// The method of images that were refined; the methods of its controls begin with it.
    pub const REFINED: &str = "refined";
    /// The objective of error-minimising noise.
    pub const ERROR_MINIMIZING: &str = "error-minimizing";
    /// The objective of BAIT, noise that binds images to wrong classes.
    pub const BAIT: &str = "bait";
    /// The objectives of noise on training images, each with what it measures.
    pub const NOISES: [(&str, &str); 2] = [
        (Self::ERROR_MINIMIZING, "the training loss with noise"),
        (Self::BAIT, "the loss with noise against the wrong classes, after training on the right ones"),
    ];

    /// What the objective of noise measures; `None` for the objective of another attack.
    #[must_use]
    pub fn noise_label(objective: &str) -> Option<&'static str> {
        Self::NOISES.into_iter().find(|(name, _)| *name == objective).map(|(_, label)| label)
    }

    /// An attack whose poisons are features alone.
    pub fn on_features(objective: impl Into<String>) -> Self {
        Self { objective: objective.into(), method: None }
    }

    /// An attack whose poisons became images by the given method.
    pub fn by(objective: impl Into<String>, method: impl Into<String>) -> Self {
        Self { objective: objective.into(), method: Some(method.into()) }
    }
}

impl fmt::Display for AttackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.method {
            Some(method) => write!(f, "{} + {method}", self.objective),
            None => f.write_str(&self.objective),
        }
    }
}
