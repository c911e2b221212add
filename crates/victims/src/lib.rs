//! Victims: the models that attacks are measured on.
//!
//! A victim trains on clean data with a [`TrainingSetChange`]: samples that are added, and clean samples that are left
//! out. Attacks that add samples, attacks that replace samples, and controls therefore look the same to a victim.

mod certified;
mod defence;
mod image_defence;
mod knn;
mod linear;
mod mlp;
mod network;
mod robust;
mod training;
mod weight_decay;

pub use certified::{CertifiedLinear, Election, Prototypes, Ridge, Voting};
pub use defence::train_behind;
pub use image_defence::DefendedData;
pub use knn::Knn;
pub use linear::{LogisticRegression, Sgd, measure};
pub use mlp::Mlp;
pub use network::NetworkVictim;
pub use robust::{Hinge, MedianOfMeans, TruncatedLoss};
pub use training::{TrainingSetChange, VictimData};
pub use weight_decay::{ChosenBy, WeightDecayChoice};

use hemlock_artifact::{Outcome, TargetParams, Victim};
use hemlock_defences::TrainingSize;
use hemlock_models::Arch;
use hemlock_stage::{ErrorKind, ParamError, StageError};
use hemlock_training::freezes;
use network::Origin;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The kind of a victim, and the parameters of its training. Without a table `[victim]`, it is `linear`. The weight
/// decay of linear heads is that of `[target-params]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum VictimSpec {
    /// A linear head that is trained to the minimum.
    Linear(LogisticRegression),
    /// A linear head that is trained by stochastic gradient descent.
    LinearSgd(Sgd),
    /// A linear head that minimises the multi-class hinge loss.
    Hinge(Hinge),
    /// A linear head with a truncated loss.
    TruncatedLoss(TruncatedLoss),
    /// The median of linear heads on parts of the training set.
    MedianOfMeans(MedianOfMeans),
    /// Certified: votes of linear heads on parts of the training set.
    Voting(Voting),
    /// Certified: trimmed mean distances to the training samples.
    Prototypes(Prototypes),
    /// Certified: ridge regression on one-hot labels.
    Ridge(Ridge),
    /// Certified: a linear head with weight decay on the bias too.
    CertifiedLinear(CertifiedLinear),
    /// A vote of the nearest neighbours among the training samples.
    Knn(Knn),
    /// A head with a hidden layer.
    Mlp(Mlp),
    /// The last block of the extractor and a linear head; the blocks before it are frozen.
    LastBlock(NetworkVictim),
    /// The whole extractor and a linear head, from the pre-trained weights; or what follows the first blocks, if these
    /// are frozen.
    FineTune(NetworkVictim),
    /// A network of the extractor's architecture, from scratch.
    EndToEnd(NetworkVictim),
}

impl Default for VictimSpec {
    fn default() -> Self {
        Self::Linear(LogisticRegression::default())
    }
}

/// A model that can be trained as a victim.
pub trait Train {
    /// Whether the victim trains on images rather than on features.
    fn reads_images(&self) -> bool {
        false
    }

    /// Trains from scratch on clean data with a change. `what` names the training set in progress bars and warnings.
    ///
    /// # Errors
    /// If the victim cannot be trained on the data, or if the run was interrupted.
    fn train(&self, what: &str, data: &VictimData, change: &TrainingSetChange) -> Result<Outcome, StageError>;
}

impl VictimSpec {
    /// The victim that the stage `victim` trained; without this stage, a linear head that is trained to the minimum.
    ///
    /// # Errors
    /// If the artifact does not say how the victim trains.
    pub fn of(victim: Option<&Victim>) -> Result<Self, StageError> {
        let Some(victim) = victim else { return Ok(Self::default()) };
        serde_json::from_str(&victim.params).map_err(|e| StageError::new(ErrorKind::Artifact, e))
    }

    /// The name of the kind in specs and results.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Linear(_) => "linear",
            Self::LinearSgd(_) => "linear-sgd",
            Self::Hinge(_) => "hinge",
            Self::TruncatedLoss(_) => "truncated-loss",
            Self::MedianOfMeans(_) => "median-of-means",
            Self::Voting(_) => "voting",
            Self::Prototypes(_) => "prototypes",
            Self::Ridge(_) => "ridge",
            Self::CertifiedLinear(_) => "certified-linear",
            Self::Knn(_) => "knn",
            Self::Mlp(_) => "mlp",
            Self::LastBlock(_) => "last-block",
            Self::FineTune(_) => "fine-tune",
            Self::EndToEnd(_) => "end-to-end",
        }
    }

    /// Returns the victim as something that can be trained.
    #[must_use]
    pub fn victim(&self) -> Box<dyn Train + '_> {
        match self {
            Self::Linear(exact) => Box::new(exact),
            Self::LinearSgd(sgd) => Box::new(sgd),
            Self::Hinge(hinge) => Box::new(hinge),
            Self::TruncatedLoss(truncated) => Box::new(truncated),
            Self::MedianOfMeans(median) => Box::new(median),
            Self::Voting(voting) => Box::new(voting),
            Self::Prototypes(prototypes) => Box::new(prototypes),
            Self::Ridge(ridge) => Box::new(ridge),
            Self::CertifiedLinear(certified) => Box::new(certified),
            Self::Knn(knn) => Box::new(knn),
            Self::Mlp(mlp) => Box::new(mlp),
            Self::LastBlock(network) => Box::new(network.from(Origin::LastBlock)),
            Self::FineTune(network) => Box::new(network.from(Origin::FineTune)),
            Self::EndToEnd(network) => Box::new(network.from(Origin::Scratch)),
        }
    }

    /// Whether the victim reads the weight decay of `[target-params]`.
    #[must_use]
    pub fn reads_weight_decay(&self) -> bool {
        match self {
            Self::Linear(_) | Self::LinearSgd(_) | Self::Hinge(_) | Self::TruncatedLoss(_) => true,
            Self::MedianOfMeans(_) | Self::Voting(_) | Self::Ridge(_) => true,
            Self::CertifiedLinear(certified) => certified.weight_decay.is_none(),
            Self::Prototypes(_) | Self::Knn(_) | Self::Mlp(_) => false,
            Self::LastBlock(_) | Self::FineTune(_) | Self::EndToEnd(_) => false,
        }
    }

    /// Whether training draws random numbers.
    #[must_use]
    pub fn draws(&self) -> bool {
        match self {
            Self::Linear(exact) => exact.weight_decay.as_ref().is_some_and(|choice| choice.by != ChosenBy::Trusted),
            Self::Hinge(_) | Self::TruncatedLoss(_) | Self::Prototypes(_) | Self::Ridge(_) | Self::Knn(_) => false,
            Self::CertifiedLinear(_) => false,
            Self::LinearSgd(_) | Self::MedianOfMeans(_) | Self::Voting(_) | Self::Mlp(_) => true,
            Self::LastBlock(_) | Self::FineTune(_) | Self::EndToEnd(_) => true,
        }
    }

    /// Whether training computes on a device.
    #[must_use]
    pub fn uses_device(&self) -> bool {
        matches!(self, Self::Mlp(_) | Self::LastBlock(_) | Self::FineTune(_) | Self::EndToEnd(_))
    }

    /// Checks that an extractor of this architecture has the blocks that the victim freezes.
    ///
    /// # Errors
    /// If it has fewer.
    pub fn fits(&self, arch: Arch) -> Result<(), ParamError> {
        match self {
            Self::FineTune(network) => freezes(arch, network.freeze),
            _ => Ok(()),
        }
    }

    /// Checks that a training set of this size is large enough for the victim.
    ///
    /// # Errors
    /// Some part of it, or some class, would have no samples or too few.
    pub fn fits_size(&self, size: TrainingSize) -> Result<(), ParamError> {
        match self {
            Self::Linear(exact) => exact.weight_decay.as_ref().map_or(Ok(()), |choice| choice.fits_size(size)),
            Self::MedianOfMeans(median) => size.require("parts", median.parts, median.parts),
            Self::Voting(voting) => size.require("heads", voting.heads, voting.heads),
            Self::Prototypes(Prototypes { trim }) => {
                size.require_per_class("trim", *trim, trim.saturating_mul(2).saturating_add(1))
            }
            _ => Ok(()),
        }
    }

    /// Whether the victim is one that bounds of the clean loss hold for: a linear head that is trained to the minimum,
    /// with the weight decay of the target.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        matches!(self, Self::Linear(exact) if exact.weight_decay.is_none())
    }

    /// Returns the parameters with all defaults that depend on the kind filled in.
    #[must_use]
    pub fn resolved(&self) -> Self {
        match self {
            Self::Linear(exact) => {
                let weight_decay = exact.weight_decay.as_ref().map(WeightDecayChoice::resolved);
                Self::Linear(LogisticRegression { weight_decay, ..exact.clone() })
            }
            Self::CertifiedLinear(certified) => Self::CertifiedLinear(certified.resolved()),
            Self::LastBlock(network) => Self::LastBlock(network.resolved(Origin::LastBlock)),
            Self::FineTune(network) => Self::FineTune(network.resolved(Origin::FineTune)),
            Self::EndToEnd(network) => Self::EndToEnd(network.resolved(Origin::Scratch)),
            others => others.clone(),
        }
    }

    /// Trains the victim on clean data. If `target` is given, the attacker's clean head is taken for a linear victim,
    /// as long as it was trained to the victim's tolerance; `data` must then have the attacker's features.
    ///
    /// # Errors
    /// If training fails or is interrupted.
    pub fn clean(&self, data: &VictimData, target: Option<&TargetParams>) -> Result<Outcome, StageError> {
        match (self, target) {
            (Self::Linear(exact), Some(target))
                if target.clean_gradient_norm <= exact.tolerance && exact.weight_decay.is_none() =>
            {
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
            Self::TruncatedLoss(truncated) => truncated.check(),
            Self::MedianOfMeans(median) => median.check(),
            Self::Voting(voting) => voting.check(),
            Self::CertifiedLinear(certified) => certified.check(),
            Self::Hinge(_) | Self::Prototypes(_) | Self::Ridge(_) => Ok(()),
            Self::Knn(knn) => knn.check(),
            Self::Mlp(mlp) => mlp.check(),
            Self::LastBlock(network) => network.check(Origin::LastBlock),
            Self::FineTune(network) => network.check(Origin::FineTune),
            Self::EndToEnd(network) => network.check(Origin::Scratch),
        }
    }
}

#[cfg(test)]
mod tests;
