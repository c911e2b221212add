//! Stage: a defence, and the accuracy that it leaves a victim on clean data. `evaluate` applies it to poisons.

use hemlock_artifact::{Dataset, Defence, ExtractorArtifact, Features, Poisons, TargetParams, Victim};
use hemlock_defences::{DefenceSpec, TrainingSize};
use hemlock_models::extracted;
use hemlock_stage::{About, Context, Need, ParamError, Port, StageError, StageRole, inputs};
use hemlock_victims::{DefendedData, TrainingSetChange, VictimData, VictimSpec, train_behind};
use serde_json::Value;

inputs! {
    /// What the stage reads.
    pub struct Inputs {
        /// Features of the downstream dataset by the attacker's extractor.
        features: Features = "features",
        /// The weight decay of linear heads.
        target: TargetParams = "target-params",
        ; optional {
            /// The victim; by default a linear head that is trained to the minimum.
            victim: Victim = "victim",
            /// Features by the victim extractor, if it is not the attacker's.
            victim_features: Features = "victim-extractor.features",
            /// Downstream images, which a transformation changes.
            dataset: Dataset = "dataset.downstream",
            /// The attacker's extractor, which computes features of transformed images.
            extractor: ExtractorArtifact = "pretrain",
            /// The victim extractor, if it is not the attacker's.
            victim_extractor: ExtractorArtifact = "victim-extractor.pretrain",
            /// Poisoned images, which a transformation goes with. They are not read here.
            poisons: Poisons = "invert",
        }
    }
}

/// The stage.
pub struct Stage;

impl hemlock_stage::Stage for Stage {
    const NAME: &'static str = "defence";
    const ABOUT: About = About {
        named_by: &["kind"],
        ..About::new(StageRole::Defence, "apply defences to clean data, and measure what they cost")
    };
    const VERSION: u32 = 4;
    const SEEDED: bool = true;
    const USES_DEVICE: bool = true;
    const INSTEAD: &'static [(&'static str, &'static str)] = &[("extractor", "victim_extractor")];
    type Params = DefenceSpec;
    type Inputs = Inputs;
    type Output = Defence;

    fn key_params(params: &DefenceSpec) -> Result<Value, serde_json::Error> {
        serde_json::to_value(params.resolved())
    }

    fn uses_device(params: &DefenceSpec) -> bool {
        params.transform().is_some()
    }

    fn need(params: &DefenceSpec, port: &Port) -> Need {
        match (port.role, params.transform()) {
            ("dataset" | "extractor" | "victim_extractor" | "poisons", None) => Need::Unread,
            ("dataset" | "extractor", Some(_)) => Need::Required,
            ("poisons", Some(_)) => Need::Present,
            _ => port.need,
        }
    }

    fn accepts(params: &DefenceSpec, port: &Port, made_with: &Value) -> Result<(), ParamError> {
        if params.transform().is_some() {
            return extracted(port, made_with);
        }
        if port.role == "dataset" {
            return params.fits(TrainingSize::of(made_with));
        }
        // A kind that cannot be read is an error of the stage `victim`.
        let victim = (port.role == "victim").then(|| serde_json::from_value::<VictimSpec>(made_with.clone()).ok());
        let Some(victim) = victim.flatten().filter(|victim| victim.victim().reads_images()) else { return Ok(()) };
        let (kind, victim) = (params.kind.name(), victim.kind());
        let message = format!("`{kind}` filters features, and the victim `{victim}` trains on images");
        Err(ParamError::new("kind", message))
    }

    fn run(params: &DefenceSpec, inputs: Inputs, ctx: &Context) -> Result<Defence, StageError> {
        let Inputs { features, target, victim, victim_features, dataset, extractor, victim_extractor, .. } = inputs;
        let how = VictimSpec::of(victim.as_ref())?;
        let features = victim_features.as_ref().unwrap_or(&features);
        let weight_decay = target.weight_decay;
        let (images, extractor) = (dataset.as_ref(), victim_extractor.as_ref().or(extractor.as_ref()));
        let data = VictimData { images, extractor, ..VictimData::of_features(features, weight_decay, ctx) };
        let defended = params.transform().map(|transform| DefendedData::new(transform, &data)).transpose()?;
        let data = defended.as_ref().map_or(data, |defended| defended.of(&data));
        let none = TrainingSetChange::none(&data);
        let (clean, detection) = train_behind(params, &*how.victim(), "clean data", &data, &none)?;
        Ok(Defence {
            kind: params.kind.name().to_owned(),
            params: serde_json::to_string(&params.resolved()).map_err(|e| StageError::internal(e.to_string()))?,
            clean,
            detection: detection.unwrap_or_default(),
        })
    }
}
