//! Networks with a linear classifier, trained with labels: victims that fine-tune an extractor or train end to end.
//!
//! A step is that of supervised pre-training: two halves of a batch, each with its own batch statistics. [`train`] runs
//! a training from beginning to end; a [`Session`] takes any number of steps at a time, on images that may change in
//! between.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use hemlock_artifact::Images;
use hemlock_head::Head;
use hemlock_models::device::runs_on_rayon;
use hemlock_models::tiles::PoolPair;
use hemlock_models::{Arch, BackbonePrefix, Extractor, ExtractorSpec, extract};
use hemlock_stage::{Context, ErrorKind, ParamError, StageError};
use hemlock_streams::Trained;
use ndarray::{Array2, ArrayView3, ArrayView4, Axis};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::augment::{AugmentConfig, render_views};
use crate::config::{OptimizerKind, fall, rise};
use crate::online_network::OnlineNetwork;
use crate::optimizer::Optimizer;
use crate::step::{Part, TrainingObjective, step};
use crate::supervised::{Classified, Reads, Supervised};
use crate::train::{finite, internal, start, step_fits, views};

/// The initial weights of a training, and which of them it trains.
#[derive(Clone, Copy, Debug)]
pub enum InitialWeights<'a> {
    /// Trains all weights, from weights that are drawn from the seed. Images are normalised by the training images.
    Scratch {
        /// The architecture.
        arch: Arch,
        /// The device to train on.
        device: &'a Device,
    },
    /// Trains all weights, from those of an extractor.
    FineTune(&'a Extractor),
    /// Trains what follows the stem and the first blocks of an extractor, from its weights. What is frozen has running
    /// statistics in its batch norms, which do not change.
    AfterBlocks {
        /// The extractor.
        extractor: &'a Extractor,
        /// Number of the frozen blocks. If it is that of all blocks, the classifier alone is trained.
        frozen: usize,
    },
}

/// The parameters of a classifier's training. The learning rates and crops of the defaults were the best of a few that
/// were tried, by accuracy on validation images, for a ResNet-20 on 10,000 images of CIFAR-10.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClassifierConfig {
    /// The kind of network, each of which has random streams of its own.
    pub trained: Trained,
    /// Seed of the drawn weights, the order of the images and the views.
    pub seed: u64,
    /// Passes over the images.
    pub epochs: usize,
    /// Images of a step. At the end of an epoch, images that do not fill a batch are left out.
    pub batch: usize,
    /// The optimiser.
    pub optimizer: OptimizerKind,
    /// Peak learning rate, after the warm-up.
    pub learning_rate: f64,
    /// The learning rate after the warm-up.
    pub schedule: Schedule,
    /// Weight decay of convolutions and matrices; biases and batch norms have none.
    pub weight_decay: f64,
    /// Epochs of linear warm-up.
    pub warmup_epochs: usize,
    /// Smallest share of an image's area that a random crop covers; 1 turns cropping off.
    pub min_area: f64,
    /// Probability of a horizontal flip.
    pub flip: f64,
}

/// The learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Falls to 0 along half a cosine until the last epoch, and stays 0 after it.
    #[default]
    Cosine,
    /// Stays constant, for sessions of unknown length.
    Constant,
}

impl Default for ClassifierConfig {
    /// As [`ClassifierConfig::scratch`].
    fn default() -> Self {
        Self::scratch()
    }
}

impl ClassifierConfig {
    /// The defaults for [`InitialWeights::Scratch`].
    #[must_use]
    pub fn scratch() -> Self {
        Self {
            trained: Trained::Victim,
            seed: 0,
            epochs: 20,
            batch: 128,
            optimizer: OptimizerKind::Sgd,
            learning_rate: 0.2,
            schedule: Schedule::Cosine,
            weight_decay: 5e-4,
            warmup_epochs: 1,
            min_area: 0.5,
            flip: 0.5,
        }
    }

    /// The defaults for [`InitialWeights::FineTune`].
    #[must_use]
    pub fn fine_tune() -> Self {
        Self { learning_rate: 0.1, ..Self::scratch() }
    }

    /// The defaults for [`InitialWeights::AfterBlocks`], if only the last block is trained.
    #[must_use]
    pub fn last_block() -> Self {
        Self { learning_rate: 0.1, min_area: 1.0, flip: 0.0, ..Self::scratch() }
    }

    /// Checks every parameter.
    ///
    /// # Errors
    /// The first field that is outside of its range.
    pub fn check(&self) -> Result<(), ParamError> {
        let Self { epochs, batch, warmup_epochs, min_area, flip, .. } = *self;
        ParamError::epochs("epochs", epochs)?;
        // Each half of a batch has its own batch statistics, which need two images.
        ParamError::require(batch >= 4, "batch", batch, "at least 4")?;
        ParamError::positive("learning_rate", self.learning_rate)?;
        ParamError::non_negative("weight_decay", self.weight_decay)?;
        ParamError::require(warmup_epochs < epochs, "warmup_epochs", warmup_epochs, "fewer than `epochs`")?;
        ParamError::require((0.01..=1.0).contains(&min_area), "min_area", min_area, "0.01 to 1")?;
        ParamError::require((0.0..=1.0).contains(&flip), "flip", flip, "0 to 1")
    }

    /// The learning rate at `step`, for epochs of `per_epoch` steps.
    fn learning_rate_at(&self, step: usize, per_epoch: usize) -> f64 {
        let (warmup, steps) = (self.warmup_epochs * per_epoch, self.epochs * per_epoch);
        match self.schedule {
            _ if step < warmup => rise(self.learning_rate, step, warmup),
            Schedule::Cosine => fall(self.learning_rate, step.min(steps) - warmup, steps - warmup),
            Schedule::Constant => self.learning_rate,
        }
    }

    fn augment(&self) -> AugmentConfig {
        let Self { min_area, flip, .. } = *self;
        AugmentConfig { min_area, flip, jitter: 0.0, grayscale: 0.0, ..AugmentConfig::default() }
    }
}

/// Labelled images to train on. A training set is a slice of these, such as clean images and poisons, so that they need
/// not be copied into one array.
#[derive(Clone, Copy, Debug)]
pub struct Labelled<'a> {
    /// Images `[n, 3, h, w]`.
    pub pixels: ArrayView4<'a, u8>,
    /// Class of each image, below the number of classes.
    pub labels: &'a [u32],
}

impl<'a> From<&'a Images> for Labelled<'a> {
    fn from(images: &'a Images) -> Self {
        Self { pixels: images.pixels.view(), labels: &images.labels }
    }
}

/// A trained network in inference mode, with its linear classifier.
#[derive(Clone, Debug)]
pub struct Classifier {
    /// The network.
    pub extractor: Extractor,
    /// The classifier, on features that are not normalised.
    pub head: Head,
}

impl Classifier {
    /// The most probable class of each of the images `[n, 3, h, w]`.
    ///
    /// # Errors
    /// If the images have another size than those of the training, if a feature is not finite, or if the run was
    /// interrupted.
    pub fn predict(&self, images: ArrayView4<'_, u8>, ctx: &Context<'_>) -> Result<Vec<u32>, StageError> {
        let features = extract(&self.extractor, images, ctx)?.mapv(f64::from);
        Ok(hemlock_head::predict(&self.head, features.view())?)
    }

    /// The logits `[n, K]` of images `[n, 3, h, w]`.
    ///
    /// # Errors
    /// As [`predict`](Self::predict).
    pub fn logits(&self, images: ArrayView4<'_, u8>, ctx: &Context<'_>) -> Result<Array2<f64>, StageError> {
        let features = extract(&self.extractor, images, ctx)?.mapv(f64::from);
        Ok(hemlock_head::logits(&self.head, features.view())?)
    }
}

/// Trains a classifier with `classes` classes from beginning to end. `label` names the progress bar. `each_epoch` is
/// called after every epoch with its number (from 1), its mean loss, and the classifier as trained so far.
///
/// On `flex`, the result depends on `begin`, `config`, `classes` and `images` alone, and not on the number of threads.
///
/// # Errors
/// As [`Session::new`], [`Session::steps`] and [`Session::snapshot`], and every error that `each_epoch` returns.
pub fn train(
    begin: InitialWeights<'_>,
    config: &ClassifierConfig,
    classes: usize,
    images: &[Labelled<'_>],
    label: &str,
    ctx: &Context<'_>,
    each_epoch: &mut dyn FnMut(usize, f64, &Classifier) -> Result<(), StageError>,
) -> Result<Classifier, StageError> {
    let mut session = Session::new(begin, config, classes, images)?;
    let steps = session.steps_per_epoch();
    let bar = ctx.progress.start(label, (config.epochs * steps) as u64, "steps");
    for epoch in 1..=config.epochs {
        let loss = session.steps(images, steps, ctx, &|taken, loss| {
            bar.at(taken as u64);
            bar.say(format!("epoch {epoch}/{} loss {loss:.3}", config.epochs));
        })?;
        each_epoch(epoch, loss, &session.snapshot()?)?;
    }
    session.snapshot()
}

/// A training in progress: the network with its classifier, the optimiser's state, and the number of steps taken.
pub struct Session {
    config: ClassifierConfig,
    classes: usize,
    /// Number of training images.
    images: usize,
    spec: ExtractorSpec,
    /// The frozen blocks, if there are any.
    backbone_prefix: Option<BackbonePrefix>,
    online: Classified,
    optimizer: Optimizer,
    taken: usize,
    device: Device,
    /// The thread pools for the two halves of a step.
    pair: PoolPair,
}

impl Session {
    /// Begins the training of a classifier with `classes` classes.
    ///
    /// # Errors
    /// If a parameter is out of its range or does not fit the images, if a step would not fit into memory, or if the
    /// images have another shape than the extractor's or labels outside of `classes`.
    pub fn new(
        begin: InitialWeights<'_>,
        config: &ClassifierConfig,
        classes: usize,
        images: &[Labelled<'_>],
    ) -> Result<Self, StageError> {
        config.check()?;
        let (spec, net, backbone_prefix, device, mut rng) = match begin {
            InitialWeights::Scratch { arch, device } => {
                let device = device.clone().inner();
                let pixels: Vec<_> = images.iter().map(|part| part.pixels).collect();
                let (spec, net, rng) = start(arch, config.trained, config.seed, &pixels, &device)?;
                (spec, net, None, device, rng)
            }
            InitialWeights::FineTune(extractor) | InitialWeights::AfterBlocks { extractor, .. } => {
                let backbone_prefix = match begin {
                    InitialWeights::AfterBlocks { frozen, .. } => {
                        freezes(extractor.spec()?.arch, frozen)?;
                        Some((frozen, BackbonePrefix::new(extractor, frozen)?))
                    }
                    _ => None,
                };
                // `valid` copies: clones share running statistics.
                let net = extractor.network()?.valid();
                (
                    extractor.spec()?.clone(),
                    net,
                    backbone_prefix,
                    extractor.device().clone(),
                    config.trained.weights(config.seed),
                )
            }
        };
        if backbone_prefix.is_none() {
            let all: usize = images.iter().map(|part| part.labels.len()).sum();
            step_fits(spec.arch, spec.image_size, config.batch.min(all), &device)?;
        }
        let reads = backbone_prefix.as_ref().map_or(Reads::Images, |(frozen, _)| Reads::Activations(*frozen));
        let online = Classified::new(net, [spec.arch.feature_dim(), classes], reads, &mut rng, &device);
        let session = Self {
            config: config.clone(),
            classes,
            images: images.iter().map(|part| part.labels.len()).sum(),
            spec,
            backbone_prefix: backbone_prefix.map(|(_, prefix)| prefix),
            online,
            optimizer: Optimizer::new(config.optimizer, config.weight_decay),
            taken: 0,
            pair: if runs_on_rayon(&device) { PoolPair::halves() } else { PoolPair::none() },
            device,
        };
        session.check(images)?;
        if session.images < config.batch {
            let message = format!("is {}; expected at most the {} images", config.batch, session.images);
            return Err(ParamError::new("batch", message).into());
        }
        Ok(session)
    }

    /// Number of steps of one epoch.
    #[must_use]
    pub fn steps_per_epoch(&self) -> usize {
        self.images / self.config.batch
    }

    /// Takes `count` steps from where the last call ended, and returns their mean loss. There must be as many images as
    /// at the beginning, but they may have changed. `done` is called after each step with the number of steps since the
    /// beginning, and the loss.
    ///
    /// # Errors
    /// If the images do not fit the session, if the loss is not finite, or if the run was interrupted.
    pub fn steps(
        &mut self,
        images: &[Labelled<'_>],
        count: usize,
        ctx: &Context<'_>,
        done: &dyn Fn(usize, f64),
    ) -> Result<f64, StageError> {
        self.check(images)?;
        let labels: Vec<u32> = images.iter().flat_map(|part| part.labels).copied().collect();
        let objective = Supervised { labels: &labels };
        let (steps, end) = (self.steps_per_epoch(), self.taken + count);
        let mut total = 0.0;
        while self.taken < end {
            let epoch = self.taken / steps;
            let mut order: Vec<usize> = (0..self.images).collect();
            order.shuffle(&mut self.config.trained.order(self.config.seed, epoch));
            let batches = order.chunks_exact(self.config.batch).enumerate().skip(self.taken % steps);
            for (i, batch) in batches.take(end - self.taken) {
                ctx.check()?;
                let lr = self.config.learning_rate_at(self.taken, steps);
                let halves = objective.parts(batch).map(|part| vec![(self.render(images, &part, epoch), part.images)]);
                let online = self.online.clone();
                let (online, loss, _) =
                    step(&self.pair, &objective, online, &mut self.optimizer, halves, &self.device, lr);
                let loss = loss.into_scalar::<f32>();
                finite(loss, epoch, i, lr)?;
                self.online = online;
                self.taken += 1;
                total += f64::from(loss);
                done(self.taken, f64::from(loss));
            }
        }
        Ok(total / count.max(1) as f64)
    }

    /// The classifier as trained so far.
    ///
    /// # Errors
    /// If parameters of the classifier are not finite.
    pub fn snapshot(&self) -> Result<Classifier, StageError> {
        let extractor = Extractor::new(self.spec.clone(), self.online.net(), &self.device);
        let Linear { weight, bias, .. } = &self.online.classifier;
        // A row of weights per feature, and the biases as the last row: the columns of the head.
        let rows = std::iter::once(weight.val()).chain(bias.as_ref().map(|bias| bias.val().unsqueeze()));
        let rows = Tensor::cat(rows.collect(), 0).into_data().iter().collect();
        let columns =
            Array2::from_shape_vec((self.spec.arch.feature_dim() + 1, self.classes), rows).map_err(internal)?;
        Ok(Classifier { extractor, head: Head::from_packed(columns.reversed_axes())? })
    }

    /// The input of the network for one half of a step.
    fn render(&self, images: &[Labelled<'_>], part: &Part<'_>, epoch: usize) -> Tensor<4> {
        let image = |number| image_of(images, number);
        let ClassifierConfig { trained, seed, .. } = self.config;
        let stream = |number| trained.view(seed, epoch, number, part.view);
        let augment = self.config.augment();
        match &self.backbone_prefix {
            Some(backbone_prefix) => {
                let pixels = render_views(&augment, &image, part.images, &stream, part.view);
                Tensor::from_inner(backbone_prefix.activations(&pixels))
            }
            None => views(&self.spec, &augment, &image, part.images, &stream, part.view, &self.device),
        }
    }

    /// Checks that images are a training set of this session.
    fn check(&self, images: &[Labelled<'_>]) -> Result<(), StageError> {
        let [height, width] = self.spec.image_size;
        let data = |message| Err(StageError::new(ErrorKind::Data, message));
        for Labelled { pixels, labels } in images {
            if pixels.shape() != [labels.len(), 3, height, width] {
                let found = pixels.shape();
                let n = labels.len();
                return data(format!("images have the shape {found:?}; expected [{n}, 3, {height}, {width}]"));
            }
            if let Some((i, label)) = labels.iter().enumerate().find(|(_, label)| **label as usize >= self.classes) {
                let classes = self.classes;
                return data(format!(
                    "image {i} has the label {label}; expected less than {classes}, the number of classes"
                ));
            }
        }
        let n: usize = images.iter().map(|part| part.labels.len()).sum();
        if n != self.images {
            return data(format!("a training of {} images got {n}", self.images));
        }
        Ok(())
    }
}

/// Checks that an architecture has so many blocks to freeze.
///
/// # Errors
/// If it has fewer.
pub fn freezes(arch: Arch, frozen: usize) -> Result<(), ParamError> {
    let expected = format!("at most {}, the number of blocks of `{arch}`", arch.blocks());
    ParamError::require(frozen <= arch.blocks(), "freeze", frozen, &expected)
}

/// The image with the number `number`, counted over all parts.
fn image_of<'a>(parts: &[Labelled<'a>], mut number: usize) -> ArrayView3<'a, u8> {
    for part in parts {
        match number.checked_sub(part.labels.len()) {
            Some(rest) => number = rest,
            None => return part.pixels.index_axis_move(Axis(0), number),
        }
    }
    unreachable!("a batch has images of the training set alone")
}

#[cfg(test)]
mod tests;
