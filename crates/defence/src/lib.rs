//! Stage: a defence, and the accuracy that it leaves a victim on clean data. `evaluate` applies it to poisons.

use hemlock_artifact::{Defence, Features, TargetParams, Victim};
use hemlock_defences::DefenceSpec;
use hemlock_stage::{About, Context, ParamError, Port, StageError, StageRole, inputs};
use hemlock_victims::{TrainingSetChange, VictimData, VictimSpec, train_behind};
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
    const VERSION: u32 = 1;
    const SEEDED: bool = true;
    const USES_DEVICE: bool = false;
    type Params = DefenceSpec;
    type Inputs = Inputs;
    type Output = Defence;

    fn key_params(params: &DefenceSpec) -> Result<Value, serde_json::Error> {
        serde_json::to_value(params.resolved())
    }

    fn accepts(params: &DefenceSpec, port: &Port, made_with: &Value) -> Result<(), ParamError> {
        // A kind that cannot be read is an error of the stage `victim`.
        let victim = (port.role == "victim").then(|| serde_json::from_value::<VictimSpec>(made_with.clone()).ok());
        let Some(victim) = victim.flatten().filter(|victim| victim.victim().reads_images()) else { return Ok(()) };
        let (kind, victim) = (params.kind.name(), victim.kind());
        let message = format!("`{kind}` filters features, and the victim `{victim}` trains on images");
        Err(ParamError::new("kind", message))
    }

    fn run(params: &DefenceSpec, inputs: Inputs, ctx: &Context) -> Result<Defence, StageError> {
        let Inputs { features, target, victim, victim_features } = inputs;
        let how = VictimSpec::of(victim.as_ref())?;
        let features = victim_features.as_ref().unwrap_or(&features);
        let weight_decay = target.weight_decay;
        let data = VictimData { features, images: None, extractor: None, weight_decay, ctx };
        let none = TrainingSetChange::none(&data);
        let (clean, detection) = train_behind(params, &*how.victim(), "clean data", &data, &none)?;
        Ok(Defence {
            kind: params.kind.name().to_owned(),
            params: serde_json::to_string(&params.resolved()).map_err(|e| StageError::internal(e.to_string()))?,
            clean,
            detection,
        })
    }
}
