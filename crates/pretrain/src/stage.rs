//! The stage `pretrain`.

use crate::{PretrainConfig, import, probe, process};
use hemlock_artifact::{Dataset, Export, Exported, ExtractorArtifact};
use hemlock_models::{ExtractError, open_device, open_devices};
use hemlock_stage::{
    About, ChildCommand, Context, Environment, Need, ParamError, Port, Seed, StageError, StageRole, inputs,
};
use hemlock_training::{Method, Monitor, TrainConfig, pretrain, random};
use serde_json::Value;

inputs! {
    /// What the stage reads.
    pub struct Inputs {
        ; optional {
            /// Images to train on. Without supervision, their labels are used by monitors only. An import does not read
            /// them.
            dataset: Dataset = "dataset.pretrain",
        }
    }
}

/// The stage.
pub struct Stage;

impl hemlock_stage::Stage for Stage {
    const NAME: &'static str = "pretrain";
    const ABOUT: About = About::new(StageRole::Data, "train an extractor, or import one");
    const VERSION: u32 = 7;
    /// The extractor's seed is a parameter: all seeds of an attack share one extractor, unless it is `run`.
    const SEEDED: bool = false;
    const USES_DEVICE: bool = true;
    const LISTS: &'static [&'static str] = &["mean", "std", "ignore", "command", "files"];
    type Params = PretrainConfig;
    type Inputs = Inputs;
    type Output = ExtractorArtifact;

    /// The key holds
    ///
    /// - for a training, the parameters that its method uses;
    /// - for a random initialisation, architecture and seed, as nothing else decides it;
    /// - for an import, everything except the paths of the files, whose digest is in the key, and how the weights were
    ///   trained, which changes nothing;
    /// - for a process, the words of its command; the content of its files is in the key, too.
    fn key_params(config: &PretrainConfig) -> Result<Value, serde_json::Error> {
        let kept: fn(&str) -> bool = match config {
            PretrainConfig::Simclr(config) => return config.key(Method::Simclr),
            PretrainConfig::MocoV3(config) => return config.key(Method::MocoV3),
            PretrainConfig::Supervised(config) => return config.key(Method::Supervised),
            PretrainConfig::Random(_) => |field| ["method", "arch", "seed"].contains(&field),
            PretrainConfig::Import(_) => |field| !["path", "weights", "probe", "trained"].contains(&field),
            PretrainConfig::Process(_) => |field| ["method", "command"].contains(&field),
        };
        let mut value = serde_json::to_value(config)?;
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|field, _| kept(field));
        }
        Ok(value)
    }

    fn seeded(config: &PretrainConfig) -> bool {
        config.seed() == Some(Seed::Run)
    }

    fn source_id(config: &PretrainConfig) -> String {
        match config {
            PretrainConfig::Import(config) => config.files(),
            PretrainConfig::Process(config) => config.files(),
            _ => String::new(),
        }
    }

    fn source(config: &PretrainConfig, env: &Environment) -> Result<Option<String>, StageError> {
        match config {
            PretrainConfig::Import(config) => Ok(Some(config.digest(env)?)),
            PretrainConfig::Process(config) => Ok(Some(config.digest(env)?)),
            _ => Ok(None),
        }
    }

    fn need(config: &PretrainConfig, _: &Port) -> Need {
        match config {
            PretrainConfig::Import(_) | PretrainConfig::Process(_) => Need::Unread,
            _ => Need::Required,
        }
    }

    fn command(config: &PretrainConfig) -> Option<ChildCommand> {
        match config {
            PretrainConfig::Process(config) => Some(config.child()),
            _ => None,
        }
    }

    /// An export has a probe, with which an import of its weights can be verified.
    fn export(output: &ExtractorArtifact) -> Result<Exported, StageError> {
        if output.process.is_some() {
            return Err(ExtractError::NoNetwork.into());
        }
        let mut exported = output.export();
        exported.tensors.extend(probe::of(output)?.map(|tensors| ("probe".to_owned(), tensors)));
        Ok(exported)
    }

    fn run(
        config: &PretrainConfig,
        Inputs { dataset }: Inputs,
        ctx: &Context,
    ) -> Result<ExtractorArtifact, StageError> {
        if let PretrainConfig::Process(config) = config {
            return process::described(config, ctx);
        }
        let device = open_device(ctx.device)?;
        let devices = |config: &TrainConfig| match config.devices {
            1 => Ok(vec![device.clone()]),
            several => open_devices(ctx.device, several),
        };
        let dataset = || dataset.ok_or_else(|| StageError::internal("no images were given to train on"));
        let train = |method, config: &TrainConfig, dataset: Dataset| {
            let Dataset { train, validation, .. } = dataset;
            let monitor = (config.knn_every > 0)
                .then_some(Monitor { reference: &train, queries: (!validation.is_empty()).then_some(&validation) });
            pretrain(method, config, &train, monitor, &devices(config)?, ctx)
        };
        let trained = match &config.of_run(ctx.seed) {
            PretrainConfig::Simclr(config) => train(Method::Simclr, config, dataset()?)?,
            PretrainConfig::MocoV3(config) => train(Method::MocoV3, config, dataset()?)?,
            PretrainConfig::Supervised(config) => {
                let dataset = dataset()?;
                if dataset.classes.len() < 2 {
                    let problem = "is \"supervised\", and the images have one class; expected a method without labels";
                    return Err(ParamError::new("method", problem).into());
                }
                train(Method::Supervised, config, dataset)?
            }
            PretrainConfig::Random(config) => random(config, dataset()?.train.pixels.view(), &device)?,
            PretrainConfig::Import(config) => import(config, ctx, &device)?,
            PretrainConfig::Process(_) => return Err(StageError::internal("a process was to be trained")),
        };
        let [image_size, width] = trained.spec.image_size;
        if width != image_size {
            return Err(StageError::internal("an extractor was trained on images that are not square"));
        }
        Ok(ExtractorArtifact {
            arch: trained.spec.arch.to_string(),
            method: config.method().to_owned(),
            dim: trained.spec.arch.feature_dim(),
            image_size,
            mean: trained.spec.mean,
            std: trained.spec.std,
            weights: trained.weights,
            curve: trained.curve,
            verified: trained.verified,
            process: None,
        })
    }
}
