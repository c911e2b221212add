//! The parameters of pre-training, and their valid ranges.

use hemlock_models::Arch;
use hemlock_stage::{ParamError, Params, Seed};
use hemlock_training::{Method, TrainConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use serde_json::{Map, Value};

use crate::import::ImportConfig;
use crate::process::ProcessConfig;

/// The method by which the frozen extractor is made, by default `simclr`, and its parameters. All methods that train
/// share one set of fields, and a method ignores those that it does not use, so that one table compares several
/// methods.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", tag = "method", rename_all = "kebab-case")]
pub enum PretrainConfig {
    /// Contrastive training without labels (SimCLR).
    Simclr(TrainConfig),
    /// Contrastive training without labels, against a momentum encoder (MoCo v3).
    MocoV3(TrainConfig),
    /// Training with labels. Unless the spec says otherwise, `augment.jitter` and `augment.grayscale` are 0.
    Supervised(TrainConfig),
    /// Random initialisation without training, as a control. Only `arch` and `seed` matter.
    Random(TrainConfig),
    /// Weights that were trained elsewhere, from a file.
    Import(ImportConfig),
    /// A network that stays in a child process, of any framework, which computes features and gradients.
    Process(ProcessConfig),
}

impl PretrainConfig {
    /// The method's name in a spec.
    #[must_use]
    pub fn method(&self) -> &'static str {
        match self {
            Self::Simclr(_) => Method::Simclr.name(),
            Self::MocoV3(_) => Method::MocoV3.name(),
            Self::Supervised(_) => Method::Supervised.name(),
            Self::Random(_) => "random",
            Self::Import(_) => "import",
            Self::Process(_) => "process",
        }
    }
}

impl PretrainConfig {
    /// The parameters of the training, or of the training that a random initialisation is the control of; `None` for
    /// imports and processes.
    fn training(&mut self) -> Option<&mut TrainConfig> {
        match self {
            Self::Simclr(config) | Self::MocoV3(config) | Self::Supervised(config) | Self::Random(config) => {
                Some(config)
            }
            Self::Import(_) | Self::Process(_) => None,
        }
    }

    /// The seed; `None` for imports and processes, which draw nothing.
    pub(crate) fn seed(&self) -> Option<Seed> {
        self.clone().training().map(|config| config.seed)
    }

    /// The same parameters, with the seed `run` replaced by that of the pipeline.
    pub(crate) fn of_run(&self, run: u64) -> Self {
        let mut config = self.clone();
        if let Some(config) = config.training() {
            config.seed = Seed::Of(config.seed.of(run));
        }
        config
    }
}

impl Serialize for PretrainConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The inherent function that serde derives with `remote = "Self"`.
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for PretrainConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut table = Map::deserialize(deserializer)?;
        let method = table.entry("method").or_insert_with(|| Method::Simclr.name().into());
        // Classes may depend on colours, so the views of labelled images are only cropped and flipped, unless the spec
        // says otherwise.
        if *method == Method::Supervised.name() {
            let augment = table.entry("augment").or_insert_with(|| Map::new().into());
            for field in ["jitter", "grayscale"] {
                augment.as_object_mut().map(|fields| fields.entry(field).or_insert_with(|| 0.0.into()));
            }
        }
        // The temperature with which the method's authors train such networks.
        let arch = table.get("arch").and_then(|arch| serde_json::from_value::<Arch>(arch.clone()).ok());
        let transformer = matches!(arch, Some(Arch::Vit(_)));
        if table["method"] == Method::MocoV3.name() && !transformer {
            table.entry("temperature").or_insert_with(|| 1.0.into());
        }
        let config = Self::deserialize(Value::Object(table)).map_err(D::Error::custom)?;
        Ok(match config {
            Self::Import(config) => Self::Import(config.with_defaults()),
            training => training,
        })
    }
}

impl Params for PretrainConfig {
    fn check(&self) -> Result<(), ParamError> {
        match self {
            Self::Simclr(config) | Self::MocoV3(config) | Self::Supervised(config) => config.check(),
            // Nothing is trained.
            Self::Random(_) => Ok(()),
            Self::Import(config) => config.check(),
            Self::Process(config) => config.check(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_training::augment::AugmentConfig;

    fn parse(json: &str) -> Result<PretrainConfig, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_valid_and_fields_are_checked() {
        assert_eq!(TrainConfig::default().check(), Ok(()));
        let config = parse(r#"{"epochs": 3, "warmup_epochs": 3}"#).unwrap();
        assert_eq!(config.check().unwrap_err().to_string(), "`warmup_epochs`: is 3; expected fewer than `epochs`");
        assert_eq!(parse(r#"{"method": "random", "epochs": 1}"#).unwrap().check(), Ok(()), "nothing is trained");
        assert!(parse(r#"{"epoch": 3}"#).unwrap_err().contains("unknown field `epoch`"));
        assert!(parse(r#"{"arch": "vgg"}"#).unwrap_err().contains("`resnet20`"));
    }

    #[test]
    fn a_seed_may_be_that_of_the_pipeline() {
        let config = parse(r#"{"seed": "run"}"#).unwrap();
        assert_eq!(config.seed(), Some(Seed::Run));
        assert_eq!(config.of_run(7), parse(r#"{"seed": 7}"#).unwrap());
        assert_eq!(serde_json::to_value(&config).unwrap()["seed"], "run");
        let fixed = parse(r#"{"seed": 3}"#).unwrap();
        assert_eq!(fixed.of_run(7), fixed);
        let message = parse(r#"{"seed": "runs"}"#).unwrap_err();
        assert!(message.contains("expected an integer from 0, or \"run\""), "{message}");
    }

    #[test]
    fn every_method_has_its_fields_and_simclr_is_the_default() {
        assert_eq!(parse("{}"), Ok(PretrainConfig::Simclr(TrainConfig::default())));
        assert_eq!(parse(r#"{"method": "random", "epochs": 20}"#), Ok(PretrainConfig::Random(TrainConfig::default())));
        let import = r#"{"method": "import", "weights": "x.pth", "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}"#;
        let config = parse(import).unwrap();
        assert_eq!(serde_json::from_value(serde_json::to_value(&config).unwrap()).ok(), Some(config));
        let message = parse(&import.replace('}', r#", "epochs": 3}"#)).unwrap_err();
        assert!(message.starts_with("unknown field `epochs`, expected one of `arch`, `path`, `weights`"), "{message}");
        assert!(parse(r#"{"method": "simclr", "weights": "x.pth"}"#).unwrap_err().contains("unknown field `weights`"));
        let message = parse(r#"{"method": "moco"}"#).unwrap_err();
        assert!(message.contains("`simclr`, `moco-v3`, `supervised`, `random`, `import`, `process`"), "{message}");
        for method in ["simclr", "moco-v3", "supervised", "random"] {
            assert_eq!(parse(&format!(r#"{{"method": "{method}"}}"#)).unwrap().method(), method);
        }
    }

    #[test]
    fn every_new_field_is_checked() {
        for (json, message) in [
            (r#"{"momentum": 1.0}"#, "`momentum`: is 1; expected 0 or more, and below 1"),
            (r#"{"predictor": {"hidden": 0}}"#, "`predictor.hidden`: is 0; expected at least 1"),
            (r#"{"checkpoint_minutes": 0.0}"#, "`checkpoint_minutes`: is 0; expected above 0, and up to 1440"),
            (r#"{"devices": 3}"#, "`devices`: is 3; expected 1 or an even number"),
            (r#"{"devices": 0}"#, "`devices`: is 0; expected 1 or an even number"),
            (r#"{"devices": 8, "batch": 12}"#, "`batch`: is 12; expected at least twice as many images as `devices`"),
            (r#"{"augment": {"blur": 1.5}}"#, "`augment.blur`: is 1.5; expected 0 to 1"),
            (r#"{"augment": {"solarize": -0.1}}"#, "`augment.solarize`: is -0.1; expected 0 to 1"),
        ] {
            assert_eq!(parse(json).unwrap().check().unwrap_err().to_string(), message);
        }
        assert!(parse(r#"{"optimizer": "adam"}"#).unwrap_err().contains("`adamw`, `sgd`, `lars`"));
    }

    #[test]
    fn with_labels_views_keep_their_colours_unless_told_otherwise() {
        let augment = |json: &str| match parse(json).unwrap() {
            PretrainConfig::Supervised(config) => config.augment,
            other => panic!("{other:?}"),
        };
        let colourless = AugmentConfig { jitter: 0.0, grayscale: 0.0, ..AugmentConfig::default() };
        assert_eq!(augment(r#"{"method": "supervised"}"#), colourless);
        let jitter = AugmentConfig { jitter: 0.5, ..colourless };
        assert_eq!(augment(r#"{"method": "supervised", "augment": {"jitter": 0.5}}"#), jitter);
    }
}
