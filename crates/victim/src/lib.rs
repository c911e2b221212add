//! Stage: a victim and its accuracy after training on clean data. `evaluate` retrains it on poisons.

use hemlock_artifact::{Dataset, ExtractorArtifact, Features, TargetParams, Victim};
use hemlock_defences::TrainingSize;
use hemlock_models::{Arch, extracted, has_network};
use hemlock_stage::{About, Context, Need, ParamError, Port, StageError, StageRole, inputs};
use hemlock_victims::{VictimData, VictimSpec};
use serde_json::Value;

inputs! {
    /// What the stage reads.
    pub struct Inputs {
        /// Features of the downstream dataset by the attacker's extractor.
        features: Features = "features",
        ; optional {
            /// The clean head and the weight decay; read by linear victims only.
            target: TargetParams = "target-params",
            /// Features by the victim extractor, if it is not the attacker's.
            victim_features: Features = "victim-extractor.features",
            /// Downstream images.
            dataset: Dataset = "dataset.downstream",
            /// The attacker's extractor.
            extractor: ExtractorArtifact = "pretrain",
            /// The victim extractor, if it is not the attacker's.
            victim_extractor: ExtractorArtifact = "victim-extractor.pretrain",
        }
    }
}

/// The stage.
pub struct Stage;

impl hemlock_stage::Stage for Stage {
    const NAME: &'static str = "victim";
    const ABOUT: About = About::new(StageRole::Victim, "train victims on clean data");
    const VERSION: u32 = 6;
    const SEEDED: bool = true;
    const USES_DEVICE: bool = true;
    const INSTEAD: &'static [(&'static str, &'static str)] = &[("extractor", "victim_extractor")];
    type Params = VictimSpec;
    type Inputs = Inputs;
    type Output = Victim;

    fn key_params(params: &VictimSpec) -> Result<Value, serde_json::Error> {
        serde_json::to_value(params.resolved())
    }

    fn seeded(params: &VictimSpec) -> bool {
        params.draws()
    }

    fn uses_device(params: &VictimSpec) -> bool {
        params.uses_device()
    }

    fn need(params: &VictimSpec, port: &Port) -> Need {
        match port.role {
            "target" => {
                if params.reads_weight_decay() {
                    Need::Required
                } else {
                    Need::Unread
                }
            }
            "dataset" | "extractor" if params.victim().reads_images() => Need::Required,
            "dataset" | "extractor" | "victim_extractor" if !params.victim().reads_images() => Need::Unread,
            _ => port.need,
        }
    }

    fn accepts(params: &VictimSpec, port: &Port, made_with: &Value) -> Result<(), ParamError> {
        match port.role {
            "dataset" => params.fits_size(TrainingSize::of(made_with)),
            "features" if !params.victim().reads_images() => Ok(()),
            "features" | "victim_features" => extracted(port, made_with),
            "extractor" | "victim_extractor" if params.victim().reads_images() => {
                has_network(port, made_with, "trains a network of the extractor's architecture")?;
                // An import may leave its architecture to the file; then training says what does not fit.
                let arch = serde_json::from_value::<Arch>(made_with["arch"].clone());
                arch.map_or(Ok(()), |arch| params.fits(arch))
            }
            _ => Ok(()),
        }
    }

    fn run(params: &VictimSpec, inputs: Inputs, ctx: &Context) -> Result<Victim, StageError> {
        let Inputs { features, target, victim_features, dataset, extractor, victim_extractor } = inputs;
        // Only linear heads read the weight decay, and for these the target is required.
        let weight_decay = target.as_ref().map_or(0.0, |target| target.weight_decay);
        let data = VictimData {
            images: dataset.as_ref(),
            extractor: victim_extractor.as_ref().or(extractor.as_ref()),
            ..VictimData::of_features(victim_features.as_ref().unwrap_or(&features), weight_decay, ctx)
        };
        let own = target.as_ref().filter(|_| victim_features.is_none());
        Ok(Victim {
            kind: params.kind().to_owned(),
            params: serde_json::to_string(&params.resolved()).map_err(|e| StageError::internal(e.to_string()))?,
            clean: params.clean(&data, own)?,
        })
    }
}
