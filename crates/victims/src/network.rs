//! The victims that train a network on images: `last-block` and `fine-tune` start from the extractor's weights,
//! `end-to-end` from random ones.

use crate::{Train, TrainingSetChange, VictimData};
use hemlock_artifact::{Answers, Outcome};
use hemlock_models::{Arch, open_device, open_extractor};
use hemlock_stage::{ErrorKind, ParamError, StageError};
use hemlock_streams::Trained;
use hemlock_training::{ClassifierConfig, InitialWeights, Labelled, classifier};
use ndarray::Axis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a network and the linear classifier on it are trained with labels: by SGD with momentum and a cosine schedule.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkVictim {
    /// Number of passes over the training set.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub epochs: usize,
    /// Number of images per step. If an attack leaves fewer, all of them are one batch.
    #[schemars(range(min = 4))]
    pub batch: usize,
    /// Largest learning rate; by default 0.2 from scratch and 0.1 from pre-trained weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: Option<f64>,
    /// Weight decay of convolutions and matrices; other parameters have none.
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
    /// Number of epochs over which the learning rate rises linearly.
    pub warmup_epochs: usize,
    /// Smallest share of an image's area that a random crop covers, in `(0, 1]`; 1 turns cropping off. By default 0.5,
    /// and 1 if only the last block is trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 1))]
    pub min_area: Option<f64>,
    /// Probability of a horizontal flip; by default 0.5, and 0 if only the last block is trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub flip: Option<f64>,
    /// For `fine-tune`: number of the first blocks that keep their pre-trained weights, and with them the stem. The
    /// default, 0, trains everything, and the number of all blocks trains the classifier alone. A `resnet20` has 9
    /// blocks, 3 in each stage.
    #[serde(skip_serializing_if = "is_zero")]
    pub freeze: usize,
}

fn is_zero(freeze: &usize) -> bool {
    *freeze == 0
}

/// The initial weights of a network, and which of them are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Scratch,
    FineTune,
    LastBlock,
}

/// The parameters of a network's training, with the network's initial weights.
pub(crate) struct Variant<'a> {
    network: &'a NetworkVictim,
    origin: Origin,
}

impl Default for NetworkVictim {
    fn default() -> Self {
        let ClassifierConfig { epochs, batch, weight_decay, warmup_epochs, .. } = ClassifierConfig::default();
        Self { epochs, batch, learning_rate: None, weight_decay, warmup_epochs, min_area: None, flip: None, freeze: 0 }
    }
}

impl NetworkVictim {
    /// Returns the parameters with the defaults for that origin filled in.
    pub(crate) fn resolved(&self, origin: Origin) -> Self {
        let ClassifierConfig { learning_rate, min_area, flip, .. } = self.from(origin).config(0);
        Self { learning_rate: Some(learning_rate), min_area: Some(min_area), flip: Some(flip), ..self.clone() }
    }

    pub(crate) fn check(&self, origin: Origin) -> Result<(), ParamError> {
        let expected = "0, except for a victim `fine-tune`";
        ParamError::require(self.freeze == 0 || origin == Origin::FineTune, "freeze", self.freeze, expected)?;
        self.from(origin).config(0).check()
    }

    pub(crate) fn from(&self, origin: Origin) -> Variant<'_> {
        Variant { network: self, origin }
    }
}

impl Variant<'_> {
    fn config(&self, seed: u64) -> ClassifierConfig {
        let NetworkVictim { epochs, batch, learning_rate, weight_decay, warmup_epochs, min_area, flip, .. } =
            *self.network;
        let usual = match self.origin {
            Origin::Scratch => ClassifierConfig::scratch(),
            Origin::FineTune => ClassifierConfig::fine_tune(),
            Origin::LastBlock => ClassifierConfig::last_block(),
        };
        let learning_rate = learning_rate.unwrap_or(usual.learning_rate);
        let (min_area, flip) = (min_area.unwrap_or(usual.min_area), flip.unwrap_or(usual.flip));
        let trained = Trained::Victim;
        ClassifierConfig {
            trained,
            seed,
            epochs,
            batch,
            learning_rate,
            weight_decay,
            warmup_epochs,
            min_area,
            flip,
            ..usual
        }
    }
}

impl Train for Variant<'_> {
    fn reads_images(&self) -> bool {
        true
    }

    fn train(&self, what: &str, data: &VictimData, change: &TrainingSetChange) -> Result<Outcome, StageError> {
        let (Some(dataset), Some(extractor)) = (data.images, data.extractor) else {
            return Err(StageError::internal("a network was to train without images or an extractor"));
        };
        let Some(added) = &change.images else {
            return Err(StageError::internal("a network was to train on features"));
        };
        let ctx = data.ctx;
        let train = &dataset.train;
        let kept = change.kept(train.len()).map(|kept| {
            let labels: Vec<u32> = kept.iter().map(|i| train.labels[*i]).collect();
            (train.pixels.view().select(Axis(0), &kept), labels)
        });
        let clean = match &kept {
            Some((pixels, labels)) => Labelled { pixels: pixels.view(), labels },
            None => Labelled::from(train),
        };
        let images = [clean, Labelled { pixels: added.view(), labels: &change.labels }];
        let (opened, device);
        let start = match self.origin {
            Origin::Scratch => {
                let arch: Arch = extractor.arch.parse().map_err(|e| StageError::new(ErrorKind::Artifact, e))?;
                device = open_device(ctx.device)?;
                InitialWeights::Scratch { arch, device: &device }
            }
            origin => {
                opened = open_extractor(extractor, ctx)?;
                match (origin, self.network.freeze) {
                    (Origin::FineTune, 0) => InitialWeights::FineTune(&opened),
                    (Origin::FineTune, frozen) => InitialWeights::AfterBlocks { extractor: &opened, frozen },
                    _ => {
                        let frozen = opened.spec()?.arch.blocks().saturating_sub(1);
                        InitialWeights::AfterBlocks { extractor: &opened, frozen }
                    }
                }
            }
        };
        let (mut answers, mut epochs) = (Answers::default(), Vec::new());
        let mut config = self.config(ctx.seed);
        if kept.is_some() {
            config.batch = config.batch.min(images.iter().map(|part| part.labels.len()).sum());
        }
        classifier::train(start, &config, data.classes(), &images, what, ctx, &mut |_, _, trained| {
            let logits = trained.logits(dataset.test.pixels.view(), ctx)?;
            answers = Answers::of_scores(logits.view(), &dataset.test.labels);
            epochs.push(answers.share());
            Ok(())
        })?;
        Ok(Outcome { epochs, ..data.outcome(answers) })
    }
}
