//! Victims: the models that attacks are measured on.
//!
//! A victim trains on clean data and an [`TrainingSetChange`] of it, samples that are added and samples that are left
//! out, so that attacks that add, attacks that replace and controls are one to it.

mod knn;
mod linear;
mod mlp;
mod network;
mod training;

pub use knn::Knn;
pub use linear::{LogisticRegression, Sgd, measure};
pub use mlp::Mlp;
pub use network::Network;
pub use training::{TrainingSetChange, VictimData};

use hemlock_artifact::{Outcome, TargetParams};
use hemlock_stage::{ParamError, StageError};
use network::Origin;
use serde::{Deserialize, Serialize};

/// Who the victim is, and how it trains.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum VictimSpec {
    /// A linear head, trained to the minimum.
    Linear(LogisticRegression),
    /// A linear head, trained by stochastic gradient descent.
    LinearSgd(Sgd),
    /// A vote of the nearest neighbours.
    Knn(Knn),
    /// A head with a hidden layer.
    Mlp(Mlp),
    /// The last block of the extractor and a linear head; the blocks before it are frozen.
    LastBlock(Network),
    /// The whole extractor and a linear head, from the pre-trained weights.
    FineTune(Network),
    /// A network of the extractor's architecture, from scratch.
    EndToEnd(Network),
}

impl Default for VictimSpec {
    fn default() -> Self {
        Self::Linear(LogisticRegression::default())
    }
}

/// What all victims can do.
pub trait Train {
    /// Whether it trains on images rather than on their features.
    fn reads_images(&self) -> bool {
        false
    }

    /// Trains from scratch on the clean data as it is edited. `what` names the bar that shows how far it is.
    ///
    /// # Errors
    /// Data that the victim cannot be trained on, or an interruption.
    fn train(&self, what: &str, data: &VictimData, change: &TrainingSetChange) -> Result<Outcome, StageError>;
}

impl VictimSpec {
    /// The name in specs and results.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Linear(_) => "linear",
            Self::LinearSgd(_) => "linear-sgd",
            Self::Knn(_) => "knn",
            Self::Mlp(_) => "mlp",
            Self::LastBlock(_) => "last-block",
            Self::FineTune(_) => "fine-tune",
            Self::EndToEnd(_) => "end-to-end",
        }
    }

    /// What trains it.
    #[must_use]
    pub fn victim(&self) -> Box<dyn Train + '_> {
        match self {
            Self::Linear(exact) => Box::new(exact),
            Self::LinearSgd(sgd) => Box::new(sgd),
            Self::Knn(knn) => Box::new(knn),
            Self::Mlp(mlp) => Box::new(mlp),
            Self::LastBlock(network) => Box::new(network.from(Origin::LastBlock)),
            Self::FineTune(network) => Box::new(network.from(Origin::FineTune)),
            Self::EndToEnd(network) => Box::new(network.from(Origin::Scratch)),
        }
    }

    /// With every default that depends on the kind.
    #[must_use]
    pub fn resolved(&self) -> Self {
        match self {
            Self::LastBlock(network) => Self::LastBlock(network.resolved(Origin::LastBlock)),
            Self::FineTune(network) => Self::FineTune(network.resolved(Origin::FineTune)),
            Self::EndToEnd(network) => Self::EndToEnd(network.resolved(Origin::Scratch)),
            others => others.clone(),
        }
    }

    /// The victim when it trains on clean data; a linear one on the attacker's own features is the attacker's clean
    /// head, if that is trained as far.
    ///
    /// # Errors
    /// Those of its training.
    pub fn clean(&self, data: &VictimData, target: Option<&TargetParams>) -> Result<Outcome, StageError> {
        match (self, target) {
            (Self::Linear(exact), Some(target)) if target.clean_gradient_norm <= exact.tolerance => {
                exact.outcome(target.clean.clone(), target.clean_gradient_norm, data)
            }
            _ => self.victim().train("clean data", data, &TrainingSetChange::none(data)),
        }
    }
}

impl hemlock_stage::Params for VictimSpec {
    fn check(&self) -> Result<(), ParamError> {
        match self {
            Self::Linear(exact) => exact.check(),
            Self::LinearSgd(sgd) => sgd.check(),
            Self::Knn(knn) => knn.check(),
            Self::Mlp(mlp) => mlp.check(),
            Self::LastBlock(network) | Self::FineTune(network) | Self::EndToEnd(network) => network.check(),
        }
    }
}

#[cfg(test)]
mod tests;
