//! Stage: a victim, and what it is worth when it trains on clean data. `evaluate` trains it again on poisons.

mod knn;
mod linear;
mod mlp;
mod network;

pub use knn::Knn;
pub(crate) use linear::measure;
pub use linear::{Exact, Sgd};
pub use mlp::Mlp;
pub use network::Network;

use crate::training::{Edit, Setting};
use hemlock_artifact::{Dataset, Extractor, Features, Outcome, TargetParams, Victim};
use hemlock_invert::extracted;
use hemlock_stage::{Context, Need, ParamError, Port, StageError, inputs};
use network::Origin;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Parameters of the stage: who the victim is, and how it trains.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Params {
    /// A linear head, trained to the minimum.
    Linear(Exact),
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

impl Default for Params {
    fn default() -> Self {
        Self::Linear(Exact::default())
    }
}

/// What all victims can do.
pub(crate) trait Train {
    /// Whether it trains on images rather than on their features.
    fn reads_images(&self) -> bool {
        false
    }

    /// Trains from scratch on the clean data as it is edited. `what` names the bar that shows how far it is.
    fn train(&self, what: &str, setting: &Setting, edit: &Edit) -> Result<Outcome, StageError>;
}

impl Params {
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

    pub(crate) fn victim(&self) -> Box<dyn Train + '_> {
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
    fn resolved(&self) -> Self {
        match self {
            Self::LastBlock(network) => Self::LastBlock(network.resolved(Origin::LastBlock)),
            Self::FineTune(network) => Self::FineTune(network.resolved(Origin::FineTune)),
            Self::EndToEnd(network) => Self::EndToEnd(network.resolved(Origin::Scratch)),
            others => others.clone(),
        }
    }

    /// The victim when it trains on clean data; a linear one on the attacker's own features is the attacker's clean
    /// head, if that is trained as far.
    pub(crate) fn clean(&self, setting: &Setting, target: Option<&TargetParams>) -> Result<Outcome, StageError> {
        match (self, target) {
            (Self::Linear(exact), Some(target)) if target.clean_gradient_norm <= exact.tolerance => {
                exact.outcome(target.clean.clone(), target.clean_gradient_norm, setting)
            }
            _ => self.victim().train("clean data", setting, &Edit::none(setting)),
        }
    }
}

impl hemlock_stage::Params for Params {
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

inputs! {
    /// What the stage reads.
    pub struct Inputs {
        /// Features of the downstream dataset, as the attacker has them.
        features: Features = "features",
        ; optional {
            /// The clean head, and the weight decay; of linear victims.
            target: TargetParams = "target-params",
            /// Features by the extractor that is deployed, where it is not the attacker's.
            deployed_features: Features = "deployed.features",
            /// Downstream images.
            dataset: Dataset = "dataset.downstream",
            /// The attacker's extractor.
            extractor: Extractor = "pretrain",
            /// The extractor that is deployed.
            deployed_extractor: Extractor = "deployed.pretrain",
        }
    }
}

/// The stage.
pub struct Stage;

impl hemlock_stage::Stage for Stage {
    const NAME: &'static str = "victim";
    const VERSION: u32 = 3;
    const SEEDED: bool = true;
    const USES_DEVICE: bool = true;
    type Params = Params;
    type Inputs = Inputs;
    type Output = Victim;

    fn key_params(params: &Params) -> Result<Value, serde_json::Error> {
        serde_json::to_value(params.resolved())
    }

    fn seeded(params: &Params) -> bool {
        !matches!(params, Params::Linear(_) | Params::Knn(_))
    }

    fn uses_device(params: &Params) -> bool {
        !matches!(params, Params::Linear(_) | Params::LinearSgd(_) | Params::Knn(_))
    }

    fn need(params: &Params, port: &Port) -> Need {
        let linear = matches!(params, Params::Linear(_) | Params::LinearSgd(_));
        match port.role {
            "target" => {
                if linear {
                    Need::Required
                } else {
                    Need::Unread
                }
            }
            "dataset" | "extractor" if params.victim().reads_images() => Need::Required,
            "dataset" | "extractor" | "deployed_extractor" if !params.victim().reads_images() => Need::Unread,
            _ => port.need,
        }
    }

    fn accepts(params: &Params, port: &Port, made_with: &Value) -> Result<(), ParamError> {
        match port.role {
            "features" if !params.victim().reads_images() => Ok(()),
            "features" | "deployed_features" => extracted(port, made_with),
            _ => Ok(()),
        }
    }

    fn run(params: &Params, inputs: Inputs, ctx: &Context) -> Result<Victim, StageError> {
        let Inputs { features, target, deployed_features, dataset, extractor, deployed_extractor } = inputs;
        let setting = Setting {
            features: deployed_features.as_ref().unwrap_or(&features),
            images: dataset.as_ref(),
            extractor: deployed_extractor.as_ref().or(extractor.as_ref()),
            // Read by linear heads alone, and those have a target.
            weight_decay: target.as_ref().map_or(0.0, |target| target.weight_decay),
            ctx,
        };
        let own = target.as_ref().filter(|_| deployed_features.is_none());
        Ok(Victim {
            kind: params.kind().to_owned(),
            params: serde_json::to_string(&params.resolved()).map_err(|e| StageError::internal(e.to_string()))?,
            clean: params.clean(&setting, own)?,
        })
    }
}

#[cfg(test)]
mod tests;
