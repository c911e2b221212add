//! The parameters of pre-training, and what makes them valid.

use hemlock_models::Arch;
use hemlock_stage::{ParamError, Params, Seed};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use serde_json::{Map, Value};

use crate::augment::AugmentConfig;
use crate::import::ImportConfig;

/// How an extractor is made, and what that needs.
///
/// In TOML a table with the `method` (`simclr` where it is absent) and the fields of that method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", tag = "method", rename_all = "kebab-case")]
pub enum PretrainConfig {
    /// [`Method::Simclr`].
    Simclr(TrainConfig),
    /// [`Method::MocoV3`].
    MocoV3(TrainConfig),
    /// [`Method::Supervised`].
    Supervised(TrainConfig),
    /// The random initialisation as it is: the control. It has the fields of the training that it is the
    /// control of, so that one table compares both; `arch` and `seed` decide it.
    Random(TrainConfig),
    /// Weights that were trained elsewhere.
    Import(ImportConfig),
}

/// A way of training. Methods share their fields, so that one table compares them; a field that a method has no use for
/// is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Contrastive training without labels ([`simclr`](crate::simclr)).
    Simclr,
    /// Contrastive training without labels, against a momentum encoder ([`moco`](crate::moco)).
    MocoV3,
    /// Training with labels ([`supervised`](crate::supervised)).
    Supervised,
}

impl Method {
    /// The name in a spec.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Simclr => "simclr",
            Self::MocoV3 => "moco-v3",
            Self::Supervised => "supervised",
        }
    }

    /// Fields that it ignores.
    fn idle(self) -> &'static [&'static str] {
        match self {
            Self::Simclr => &["momentum", "predictor"],
            Self::MocoV3 => &[],
            Self::Supervised => &["temperature", "projector", "momentum", "predictor"],
        }
    }
}

/// Most devices that a step is shared by.
const MOST_DEVICES: usize = 1024;

/// Fields that decide how a training runs, and nothing of what comes out.
const RUNNING: [&str; 2] = ["checkpoint_minutes", "allow_collapse"];

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
        }
    }
}

impl PretrainConfig {
    /// How it is trained, or what it is the control of; `None` where it is imported.
    fn training(&mut self) -> Option<&mut TrainConfig> {
        match self {
            Self::Simclr(config) | Self::MocoV3(config) | Self::Supervised(config) | Self::Random(config) => {
                Some(config)
            }
            Self::Import(_) => None,
        }
    }

    /// The seed of its draws; `None` where it is imported.
    pub(crate) fn seed(&self) -> Option<Seed> {
        self.clone().training().map(|config| config.seed)
    }

    /// The same in a pipeline of the seed `run`.
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
        // The derived, inherent function of `remote = "Self"`.
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for PretrainConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut table = Map::deserialize(deserializer)?;
        let method = table.entry("method").or_insert_with(|| Method::Simclr.name().into());
        // What a class is may depend on its colours: with labels, views only crop and flip unless the spec says
        // otherwise.
        if *method == Method::Supervised.name() {
            let augment = table.entry("augment").or_insert_with(|| Map::new().into());
            for field in ["jitter", "grayscale"] {
                augment.as_object_mut().map(|fields| fields.entry(field).or_insert_with(|| 0.0.into()));
            }
        }
        // Each is the one that the method's authors train such networks with.
        let transformer = table.get("arch").and_then(Value::as_str).is_some_and(|arch| arch.starts_with("vit"));
        if table["method"] == Method::MocoV3.name() && !transformer {
            table.entry("temperature").or_insert_with(|| 1.0.into());
        }
        Self::deserialize(Value::Object(table)).map_err(D::Error::custom)
    }
}

impl Params for PretrainConfig {
    fn check(&self) -> Result<(), ParamError> {
        match self {
            Self::Simclr(config) | Self::MocoV3(config) | Self::Supervised(config) => config.check(),
            // It trains nothing.
            Self::Random(_) => Ok(()),
            Self::Import(config) => config.check(),
        }
    }
}

/// A first-order optimiser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay, betas 0.9 and 0.999.
    #[default]
    AdamW,
    /// Gradient descent with momentum 0.9.
    Sgd,
    /// Layer-wise adaptive rates (You et al., 2017) with momentum 0.9 and trust coefficient 0.001, for large batches.
    /// Its learning rates are hundreds of times those of `adamw`.
    Lars,
}

/// Sizes of the projection head, which is dropped after training: d -> hidden -> out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProjectorConfig {
    /// Width of the hidden layer.
    pub hidden: usize,
    /// Dimension of the embeddings that the loss compares.
    pub out: usize,
}

/// Sizes of the prediction head on the projection of [`Method::MocoV3`]: out -> hidden -> out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PredictorConfig {
    /// Width of the hidden layer.
    pub hidden: usize,
}

/// The parameters of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// The network.
    pub arch: Arch,
    /// Seed of the initialisation, the order of the images and the views; `run`: the pipeline's, so that every seed of
    /// the pipeline has an extractor of its own.
    pub seed: Seed,
    /// Passes over the images.
    pub epochs: usize,
    /// Images of a step, each in two views without labels; the rest of an epoch that fills no batch is left out.
    pub batch: usize,
    /// The optimiser.
    pub optimizer: OptimizerKind,
    /// Largest learning rate, after the warm-up; from there it falls to 0 along a cosine.
    pub learning_rate: f64,
    /// Weight decay of convolutions and matrices; biases and batch norms have none.
    pub weight_decay: f64,
    /// Epochs over which the learning rate rises linearly.
    pub warmup_epochs: usize,
    /// Temperature of the contrastive loss; in a spec that does not give it, 1 for ResNets with `moco-v3`.
    pub temperature: f64,
    /// Momentum of the key encoder at the start; it rises to 1 along half a cosine.
    pub momentum: f64,
    /// The projection head.
    pub projector: ProjectorConfig,
    /// The prediction head.
    pub predictor: PredictorConfig,
    /// The views.
    pub augment: AugmentConfig,
    /// Epochs between two k-nearest-neighbour checks, where labelled images are given; 0 for none.
    pub knn_every: usize,
    /// Minutes between two checkpoints within an epoch; after every epoch there is one, too.
    pub checkpoint_minutes: f64,
    /// Whether a network whose embeddings have collapsed counts as a result.
    pub allow_collapse: bool,
    /// Devices of the backend that share every step: 1, or an even number. Two take a half each, and give what one
    /// gives but for rounding; more cut the halves into shards with batch statistics of their own.
    pub devices: usize,
}

impl Default for ProjectorConfig {
    fn default() -> Self {
        Self { hidden: 256, out: 64 }
    }
}

impl Default for PredictorConfig {
    fn default() -> Self {
        Self { hidden: 256 }
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            arch: Arch::default(),
            seed: Seed::default(),
            epochs: 20,
            batch: 256,
            optimizer: OptimizerKind::default(),
            learning_rate: 2e-3,
            weight_decay: 1e-4,
            warmup_epochs: 1,
            temperature: 0.2,
            momentum: 0.99,
            projector: ProjectorConfig::default(),
            predictor: PredictorConfig::default(),
            augment: AugmentConfig::default(),
            knn_every: 0,
            checkpoint_minutes: 5.0,
            allow_collapse: false,
            devices: 1,
        }
    }
}

impl TrainConfig {
    /// Checks every parameter.
    ///
    /// # Errors
    /// The first field outside its range.
    pub(crate) fn check(&self) -> Result<(), ParamError> {
        let Self { epochs, batch, warmup_epochs, temperature, .. } = *self;
        let ProjectorConfig { hidden, out } = self.projector;
        ParamError::epochs("epochs", epochs)?;
        ParamError::require(batch >= 2, "batch", batch, "at least 2, as the loss compares different images")?;
        ParamError::positive("learning_rate", self.learning_rate)?;
        ParamError::non_negative("weight_decay", self.weight_decay)?;
        ParamError::require(warmup_epochs < epochs, "warmup_epochs", warmup_epochs, "fewer than `epochs`")?;
        let stable = temperature >= 0.01 && temperature.is_finite();
        ParamError::require(stable, "temperature", temperature, "at least 0.01")?;
        let moving = (0.0..1.0).contains(&self.momentum);
        ParamError::require(moving, "momentum", self.momentum, "0 or more, and below 1")?;
        ParamError::units("projector.hidden", hidden)?;
        ParamError::require(out >= 2, "projector.out", out, "at least 2")?;
        ParamError::units("projector.out", out)?;
        ParamError::units("predictor.hidden", self.predictor.hidden)?;
        let devices = self.devices;
        ParamError::require(
            devices == 1 || (devices > 0 && devices.is_multiple_of(2)),
            "devices",
            devices,
            "1 or an even number",
        )?;
        ParamError::count("devices", devices, MOST_DEVICES)?;
        // Statistics take at least two images a shard, and without a second view a half is half of the batch.
        let fits = devices <= 2 || batch >= 2 * devices;
        ParamError::require(fits, "batch", batch, "at least twice as many images as `devices`")?;
        let minutes = self.checkpoint_minutes;
        // A day is more than any epoch takes, and far from what a duration cannot hold.
        ParamError::require(
            minutes > 0.0 && minutes <= 1440.0,
            "checkpoint_minutes",
            minutes,
            "above 0, and up to 1440",
        )?;
        self.augment.check()
    }

    /// Requires memory for the heads on the network.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn heads_fit(&self, method: Method) -> Result<(), ParamError> {
        let ProjectorConfig { hidden, out } = self.projector;
        // Of every weight its gradient and at least one moment.
        let bytes = |from: usize, to: usize| 12.0 * from as f64 * to as f64;
        let idle = method.idle();
        if !idle.contains(&"projector") {
            let what = format!("a projector of {hidden} and {out} units");
            ParamError::fits("projector", what, bytes(self.arch.feature_dim(), hidden) + bytes(hidden, out))?;
        }
        if !idle.contains(&"predictor") {
            let hidden = self.predictor.hidden;
            let what = format!("a predictor of {hidden} and {out} units");
            ParamError::fits("predictor.hidden", what, bytes(out, hidden) + bytes(hidden, out))?;
        }
        Ok(())
    }

    /// The parameters that decide what `method` gives, with its name.
    pub(crate) fn key(&self, method: Method) -> serde_json::Result<Value> {
        let mut value = serde_json::to_value(self)?;
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|field, _| !RUNNING.contains(&field.as_str()) && !method.idle().contains(&field.as_str()));
            if self.devices <= 2 {
                fields.remove("devices");
            }
            // There is no second view of an image with a label.
            if let (Method::Supervised, Some(Value::Object(augment))) = (method, fields.get_mut("augment")) {
                augment.remove("solarize");
            }
            fields.insert("method".to_owned(), method.name().into());
        }
        Ok(value)
    }

    /// The number that it draws with. That of a pipeline is put in its place before it trains.
    pub(crate) fn seed(&self) -> u64 {
        self.seed.of(0)
    }

    /// Learning rate at `step` of `steps`: linear warm-up, then half a cosine down to 0.
    pub(crate) fn learning_rate_at(&self, step: usize, steps: usize) -> f64 {
        let warmup = self.warmup_epochs * steps / self.epochs;
        if step < warmup {
            return rise(self.learning_rate, step, warmup);
        }
        fall(self.learning_rate, step - warmup, steps - warmup)
    }
}

/// Learning rate at `step` of a linear warm-up to `peak`.
pub(crate) fn rise(peak: f64, step: usize, steps: usize) -> f64 {
    peak * (step + 1) as f64 / steps as f64
}

/// Learning rate at `step` of a fall from `peak` to 0 along half a cosine.
pub(crate) fn fall(peak: f64, step: usize, steps: usize) -> f64 {
    let done = step as f64 / steps as f64;
    peak * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(message.starts_with("unknown field `epochs`, expected one of `arch`, `weights`"), "{message}");
        assert!(parse(r#"{"method": "simclr", "weights": "x.pth"}"#).unwrap_err().contains("unknown field `weights`"));
        let message = parse(r#"{"method": "moco"}"#).unwrap_err();
        assert!(message.contains("`simclr`, `moco-v3`, `supervised`, `random`, `import`"), "{message}");
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

    /// The fields that SimCLR had before there were other methods are those of its key still.
    #[test]
    fn a_key_has_the_fields_that_the_method_reads() {
        let key = |method, config: TrainConfig| -> Value { config.key(method).unwrap() };
        let fields = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
        let simclr = key(Method::Simclr, TrainConfig::default());
        assert_eq!(
            fields(&simclr),
            "arch augment batch epochs knn_every learning_rate method optimizer projector seed temperature \
             warmup_epochs weight_decay"
        );
        assert_eq!(fields(&simclr["augment"]), "flip grayscale jitter jitter_strength min_area");
        let moco = fields(&key(Method::MocoV3, TrainConfig::default()));
        assert_eq!(
            moco,
            fields(&simclr).replace("method ", "method momentum ").replace("optimizer ", "optimizer predictor ")
        );
        let supervised = fields(&key(Method::Supervised, TrainConfig::default()));
        assert_eq!(supervised, fields(&simclr).replace("projector ", "").replace("temperature ", ""));
        let other = TrainConfig {
            checkpoint_minutes: 1.0,
            allow_collapse: true,
            momentum: 0.5,
            devices: 2,
            ..TrainConfig::default()
        };
        assert_eq!(key(Method::Simclr, other), simclr);
        assert_ne!(key(Method::Simclr, TrainConfig { devices: 4, ..TrainConfig::default() }), simclr);
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

    #[test]
    fn the_learning_rate_warms_up_and_falls_to_nought() {
        let config = TrainConfig { epochs: 10, warmup_epochs: 2, learning_rate: 1.0, ..TrainConfig::default() };
        let lr = |step| config.learning_rate_at(step, 100);
        assert!((lr(0) - 0.05).abs() < 1e-12);
        assert!((lr(19) - 1.0).abs() < 1e-12);
        assert!((lr(20) - 1.0).abs() < 1e-12);
        assert!((lr(60) - 0.5).abs() < 1e-12, "half way down the cosine");
        assert!(lr(99) < 0.001);
    }
}
