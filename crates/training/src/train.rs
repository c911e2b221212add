//! The training loop that all methods share: the order of the images, views, schedule, checkpoints and monitors.
//!
//! On the processor, all threads render the views of a step before it begins, which takes about a hundredth of a
//! ResNet-20's step. A GPU renders the views itself, and is sent the images of the next step before the loop waits for
//! the loss of this one. At the end, the loop logs how long rendering took.

use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor, TensorData};
use hemlock_artifact::{Epoch, Images, Verified};
use hemlock_models::device::runs_on_rayon;
use hemlock_models::tiles::PoolPair;
use hemlock_models::{Arch, Extractor, ExtractorSpec, Network, extract};
use hemlock_stage::{Bar, Context, ErrorKind, ParamError, StageError};
use hemlock_streams::Trained;
use ndarray::{ArrayView3, ArrayView4, Axis};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::augment::{AugmentConfig, render_views, render_views_on};
use crate::checkpoint::{self, Done};
use crate::config::{Method, TrainConfig};
use crate::knn;
use crate::moco::MocoV3;
use crate::ntxent::unit_rows;
use crate::online_network::OnlineNetwork;
use crate::optimizer::Optimizer;
use crate::simclr::Simclr;
use crate::step::{self, Part, Shards, TrainingObjective};
use crate::supervised::Supervised;

/// The random streams that the loop draws from.
const EXTRACTOR: Trained = Trained::Extractor;
/// Neighbours that vote in the k-nearest-neighbour monitor.
const NEIGHBOURS: usize = 20;

/// A pre-trained extractor.
#[derive(Clone, Debug)]
pub struct Pretrained {
    /// The weights as a safetensors file.
    pub weights: Vec<u8>,
    /// Architecture, image size and normalisation, by the mean and standard deviation of the training images.
    pub spec: ExtractorSpec,
    /// One record per epoch; empty if nothing was trained.
    pub curve: Vec<Epoch>,
    /// The comparison with the original framework's features, of an imported network that came with a probe.
    pub verified: Option<Verified>,
}

/// Labelled images for the k-nearest-neighbour monitor. The training never sees these labels.
#[derive(Clone, Copy, Debug)]
pub struct Monitor<'a> {
    /// The images that vote.
    pub reference: &'a Images,
    /// The images to classify; if `None`, each image of `reference` is classified by all the others.
    pub queries: Option<&'a Images>,
}

/// Trains an extractor on images. Only [`Method::Supervised`] uses their labels.
///
/// On `flex`, the result depends on `method`, `config` and `images` alone: a run that is resumed from a checkpoint
/// gives the same bytes as one that was never interrupted. `monitor` only adds numbers to the curve.
///
/// If there are several devices, their number is even. Each half of a step is then cut into one shard for each of its
/// devices, with batch statistics of its own.
///
/// # Errors
/// - a parameter is out of its range or does not fit the images;
/// - a step would not fit into memory;
/// - the loss is not finite, or the embeddings have collapsed and `allow_collapse` is not set;
/// - the run was interrupted, or a checkpoint could not be written.
pub fn pretrain(
    method: Method,
    config: &TrainConfig,
    images: &Images,
    monitor: Option<Monitor<'_>>,
    devices: &[Device],
    ctx: &Context<'_>,
) -> Result<Pretrained, StageError> {
    config.check()?;
    let devices: Vec<Device> = devices.iter().map(|device| device.clone().inner()).collect();
    let device = devices.first().ok_or_else(|| StageError::internal("there is no device to train on"))?;
    let n = images.len();
    if n < config.batch {
        let message = format!("is {}; expected at most the {n} images", config.batch);
        return Err(ParamError::new("batch", message).into());
    }
    let views = if method == Method::Supervised { 1 } else { 2 };
    let (_, _, height, width) = images.pixels.view().dim();
    step_fits(config.arch, [height, width], views * config.batch, device)?;
    config.heads_fit(method)?;
    let (spec, net, mut rng) = start(config.arch, EXTRACTOR, config.seed(), &[images.pixels.view()], device)?;
    let pair = if runs_on_rayon(device) { PoolPair::halves() } else { PoolPair::none() };
    let run = TrainingRun { method, config, images, monitor, spec: &spec, devices: &devices, device, pair };
    let rng = &mut rng;
    let (net, curve) = match method {
        Method::Simclr => run.train(Simclr::new(config, net, rng, device), ctx)?,
        Method::MocoV3 => run.train(MocoV3::new(config, net, rng, device), ctx)?,
        Method::Supervised => run.train(Supervised::new(config, &images.labels, net, rng, device)?, ctx)?,
    };
    if let Some(last) = curve.last().filter(|last| last.collapsed() && !config.allow_collapse) {
        let message = format!(
            "the network has collapsed: the spread of its embeddings is {:.3} after the last epoch, where 1 is healthy; choose \
             another `learning_rate`, `weight_decay` or `temperature`, or take it as it is with `allow_collapse = true`",
            last.spread
        );
        return Err(StageError::new(ErrorKind::Numeric, message));
    }
    finish(spec, &net, curve, device)
}

/// The extractor with initial weights that [`pretrain`] starts from, normalised by the same images `[n, 3, h, w]`.
///
/// # Errors
/// If the images have a size that the architecture cannot process.
pub fn random(config: &TrainConfig, images: ArrayView4<'_, u8>, device: &Device) -> Result<Pretrained, StageError> {
    let device = &device.clone().inner();
    let (spec, net, _) = start(config.arch, EXTRACTOR, config.seed(), &[images], device)?;
    finish(spec, &net, Vec::new(), device)
}

/// Checks that a training step on `images` images fits into memory, if the device is the processor.
///
/// # Errors
/// If it does not fit.
pub(crate) fn step_fits(arch: Arch, size: [usize; 2], images: usize, device: &Device) -> Result<(), ParamError> {
    if !runs_on_rayon(device) {
        return Ok(());
    }
    let [height, width] = size;
    let what = format!("a step of `{arch}` on {images} images of {height} x {width} pixels");
    ParamError::fits("batch", what, 4.0 * arch.kept(size) * images as f64)
}

/// The network with its initial weights, which are the same for every method, and the generator for what is drawn after
/// them. `images` are the training images in one or more parts, which give the normalisation.
pub(crate) fn start(
    arch: Arch,
    trained: Trained,
    seed: u64,
    images: &[ArrayView4<'_, u8>],
    device: &Device,
) -> Result<(ExtractorSpec, Network, ChaCha8Rng), StageError> {
    let image_size = images.first().map_or([0; 2], |images| [images.len_of(Axis(2)), images.len_of(Axis(3))]);
    arch.check_size(image_size).map_err(|e| ParamError::new("arch", e.to_string()))?;
    let (mean, std) = channel_statistics(images);
    let mut rng = trained.weights(seed);
    let net = Network::new(arch, image_size, &mut rng, device);
    Ok((ExtractorSpec { arch, image_size, mean, std }, net, rng))
}

fn finish(spec: ExtractorSpec, net: &Network, curve: Vec<Epoch>, device: &Device) -> Result<Pretrained, StageError> {
    let extractor = Extractor::new(spec.clone(), net, device);
    Ok(Pretrained { weights: extractor.to_safetensors().map_err(internal)?, spec, curve, verified: None })
}

/// What stays the same during a training.
struct TrainingRun<'a> {
    method: Method,
    config: &'a TrainConfig,
    images: &'a Images,
    monitor: Option<Monitor<'a>>,
    spec: &'a ExtractorSpec,
    /// The devices that share a step: one, or half of them for each half.
    devices: &'a [Device],
    /// The first device, which holds network, optimiser and loss.
    device: &'a Device,
    /// The thread pools for the two halves of a step.
    pair: PoolPair,
}

/// What changes in the course of a training, except for the network.
struct TrainingState<O> {
    objective: O,
    optimizer: Optimizer,
    done: Done,
    bar: Box<dyn Bar>,
    /// The time of the last checkpoint.
    saved: Instant,
    /// Time that the rendering of views took.
    rendering: Duration,
}

impl TrainingRun<'_> {
    fn train<O: TrainingObjective>(
        &self,
        (mut objective, online): (O, O::OnlineNetwork),
        ctx: &Context<'_>,
    ) -> Result<(Network, Vec<Epoch>), StageError> {
        let config = self.config;
        let mut optimizer = Optimizer::new(config.optimizer, config.weight_decay);
        let (mut online, done) = self.resume(online, &mut objective, &mut optimizer, ctx);
        let bar = ctx.progress.start("pre-training", self.total_steps() as u64, "steps");
        let begun = Instant::now();
        let mut state = TrainingState { objective, optimizer, done, bar, saved: begun, rendering: Duration::ZERO };
        for epoch in state.done.curve.len()..config.epochs {
            let monitored;
            (online, monitored) = self.epoch(epoch, online, &mut state, ctx)?;
            let record = self.record(epoch, online.net(), &state.done, monitored, ctx)?;
            state.done.curve.push(record);
            (state.done.step, state.done.total) = (0, 0.0);
            self.save(&online, &mut state, ctx)?;
        }
        if !state.rendering.is_zero() {
            let share = state.rendering.as_secs_f64() / begun.elapsed().as_secs_f64();
            tracing::info!("augmentation took {:.1} % of the training time", 100.0 * share);
        }
        Ok((online.net().clone(), state.done.curve))
    }

    fn steps_per_epoch(&self) -> usize {
        self.images.len() / self.config.batch
    }

    fn total_steps(&self) -> usize {
        self.config.epochs * self.steps_per_epoch()
    }

    /// Takes the steps of an epoch that are left, and saves checkpoints meanwhile. Returns the network, and the
    /// monitored vectors of the last step; `None` if no step was left.
    fn epoch<O: TrainingObjective>(
        &self,
        epoch: usize,
        mut online: O::OnlineNetwork,
        state: &mut TrainingState<O>,
        ctx: &Context<'_>,
    ) -> Result<(O::OnlineNetwork, Option<Tensor<2>>), StageError> {
        let config = self.config;
        let (steps, total) = (self.steps_per_epoch(), self.total_steps());
        let interval = Duration::from_secs_f64(60.0 * config.checkpoint_minutes);
        let mut order: Vec<usize> = (0..self.images.len()).collect();
        order.shuffle(&mut EXTRACTOR.order(config.seed(), epoch));
        let mut monitored = None;
        let mut batches = order.chunks_exact(config.batch).enumerate().skip(state.done.step).peekable();
        let mut rendered = batches.peek().map(|(_, batch)| self.halves(batch, epoch, state));
        while let Some(((i, _), halves)) = batches.next().zip(rendered.take()) {
            ctx.check()?;
            let taken = epoch * steps + i;
            let lr = config.learning_rate_at(taken, total);
            let TrainingState { objective, optimizer, .. } = state;
            let (loss, seen);
            (online, loss, seen) = step::step(&self.pair, objective, online, optimizer, halves, self.device, lr);
            monitored = Some(seen);
            objective.after_step(&online, taken as f64 / total as f64);
            // Rendered while a GPU computes the step.
            rendered = batches.peek().map(|(_, batch)| self.halves(batch, epoch, state));
            let loss = loss.into_scalar::<f32>();
            finite(loss, epoch, i, lr)?;
            state.done.total += f64::from(loss);
            state.done.step = i + 1;
            state.bar.at(taken as u64 + 1);
            state.bar.say(format!("epoch {}/{} loss {loss:.3}", epoch + 1, config.epochs));
            // After the last step of an epoch, the checkpoint is saved with the record of the epoch.
            if state.done.step < steps && state.saved.elapsed() >= interval {
                self.save(&online, state, ctx)?;
            }
        }
        Ok((online, monitored))
    }

    /// The record of an epoch whose steps are done.
    fn record(
        &self,
        epoch: usize,
        net: &Network,
        done: &Done,
        monitored: Option<Tensor<2>>,
        ctx: &Context<'_>,
    ) -> Result<Epoch, StageError> {
        let steps = self.steps_per_epoch();
        let record = Epoch {
            epoch: epoch as u32 + 1,
            loss: done.total / steps as f64,
            learning_rate: self.config.learning_rate_at((epoch + 1) * steps - 1, self.total_steps()),
            spread: monitored.map_or(0.0, |z| f64::from(embedding_spread(z))),
            knn: self.knn(net, epoch, ctx)?.map(f64::from),
        };
        if record.collapsed() && !done.curve.last().is_some_and(Epoch::collapsed) {
            tracing::warn!(epoch = record.epoch, spread = record.spread, "the embeddings have collapsed: 1 is healthy");
        }
        Ok(record)
    }

    fn save<O: TrainingObjective>(
        &self,
        online: &O::OnlineNetwork,
        state: &mut TrainingState<O>,
        ctx: &Context<'_>,
    ) -> Result<(), StageError> {
        let params = self.config.key(self.method).map_err(internal)?;
        let TrainingState { objective, optimizer, done, .. } = state;
        let checkpoint = checkpoint::write(params, online, objective, optimizer, done).map_err(internal)?;
        ctx.checkpoints.save(&checkpoint)?;
        state.saved = Instant::now();
        Ok(())
    }

    /// The state of the last checkpoint, or the initial state.
    ///
    /// A checkpoint that cannot be read costs time and never correctness: the training starts over.
    fn resume<O: TrainingObjective>(
        &self,
        online: O::OnlineNetwork,
        objective: &mut O,
        optimizer: &mut Optimizer,
        ctx: &Context<'_>,
    ) -> (O::OnlineNetwork, Done) {
        let read = |bytes: Vec<u8>| {
            let params = self.config.key(self.method).map_err(|e| e.to_string())?;
            checkpoint::read(&bytes, &params, &online, objective, optimizer, self.device)
                .map_err(|reason| reason.to_string())
        };
        match ctx.checkpoints.load().map_err(|e| e.to_string()).and_then(|found| found.map(read).transpose()) {
            Ok(resumed) => resumed.unwrap_or((online, Done::default())),
            Err(reason) => {
                tracing::warn!("the checkpoint is not used, training starts over: {reason}");
                (online, Done::default())
            }
        }
    }

    /// The inputs of both halves of a step on a batch.
    fn halves<'b, O: TrainingObjective>(
        &self,
        batch: &'b [usize],
        epoch: usize,
        state: &mut TrainingState<O>,
    ) -> [Shards<'b>; 2] {
        let clock = Instant::now();
        let [a, b] = state.objective.parts(batch);
        let halves = [self.shards(a, 0, epoch), self.shards(b, 1, epoch)];
        state.rendering += clock.elapsed();
        halves
    }

    /// The inputs of one half of a step (`half` is 0 or 1), cut into one shard for each device of this half.
    fn shards<'b>(&self, Part { images, view }: Part<'b>, half: usize, epoch: usize) -> Shards<'b> {
        let count = (self.devices.len() / 2).max(1);
        let shard = |shard: usize| {
            let images = &images[shard * images.len() / count..(shard + 1) * images.len() / count];
            let device = self.devices.get(half * count + shard).unwrap_or(self.device);
            (self.render(&Part { images, view }, epoch, device), images)
        };
        (0..count).map(shard).collect()
    }

    /// The input of the network for some images, on `device`.
    fn render(&self, part: &Part<'_>, epoch: usize, device: &Device) -> Tensor<4> {
        let Part { images, view } = *part;
        let (config, all) = (self.config, self.images.pixels.view());
        let image = |i| all.index_axis_move(Axis(0), i);
        let stream = |image| EXTRACTOR.view(config.seed(), epoch, image, view);
        views(self.spec, &config.augment, &image, images, &stream, view, device)
    }

    fn knn(&self, net: &Network, epoch: usize, ctx: &Context<'_>) -> Result<Option<f32>, StageError> {
        let every = self.config.knn_every;
        let Some(monitor) = self.monitor.filter(|_| every > 0) else {
            return Ok(None);
        };
        if !(epoch + 1).is_multiple_of(every) && epoch + 1 != self.config.epochs {
            return Ok(None);
        }
        let extractor = Extractor::new(self.spec.clone(), net, self.device);
        let features = |images: &Images| extract(&extractor, images.pixels.view(), ctx);
        let Monitor { reference, queries } = monitor;
        let known = (features(reference)?, &reference.labels[..]);
        Ok(Some(match queries {
            Some(queries) => knn::accuracy(NEIGHBOURS, known, (features(queries)?, &queries.labels)),
            None => knn::leave_one_out(NEIGHBOURS, known),
        }))
    }
}

/// Normalised views `[indices.len(), 3, h, w]` as the input of a network: see [`render_views`].
pub(crate) fn views<'a>(
    spec: &ExtractorSpec,
    config: &AugmentConfig,
    image: &(dyn Fn(usize) -> ArrayView3<'a, u8> + Sync),
    indices: &[usize],
    stream: &(dyn Fn(usize) -> ChaCha8Rng + Sync),
    view: usize,
    device: &Device,
) -> Tensor<4> {
    if !runs_on_rayon(device) {
        let device = device.clone().inner();
        return spec.normalise(Tensor::from_inner(render_views_on(config, image, indices, stream, view, &device)));
    }
    let [height, width] = spec.image_size;
    let pixels = render_views(config, image, indices, stream, view);
    let data = TensorData::new(pixels, [indices.len(), 3, height, width]);
    spec.normalise(Tensor::from_data(data, &device.clone().autodiff()))
}

/// Returns an error if the loss is not finite. `epoch` and `step` are counted from 0.
pub(crate) fn finite(loss: f32, epoch: usize, step: usize, learning_rate: f64) -> Result<(), StageError> {
    if loss.is_finite() {
        return Ok(());
    }
    let message = format!(
        "the loss is {loss} in epoch {}, step {}, at learning rate {learning_rate:.1e}: choose a smaller `learning_rate`",
        epoch + 1,
        step + 1
    );
    Err(StageError::new(ErrorKind::Numeric, message))
}

pub(crate) fn internal(e: impl std::error::Error + Send + Sync + 'static) -> StageError {
    StageError::new(ErrorKind::Internal, e)
}

/// The spread of embeddings `[n, p]`, as [`Epoch::spread`] defines it.
fn embedding_spread(z: Tensor<2>) -> f32 {
    let [_, p] = z.dims();
    let z = unit_rows(z);
    let centred = z.clone() - z.mean_dim(0);
    let deviation = centred.square().mean_dim(0).sqrt().mean();
    deviation.into_scalar::<f32>() * (p as f32).sqrt()
}

/// Mean and standard deviation of each channel, for pixels in `[0, 1]`, of images `[n, 3, h, w]` in one or more parts.
fn channel_statistics(images: &[ArrayView4<'_, u8>]) -> ([f32; 3], [f32; 3]) {
    let (mut mean, mut std) = ([0.0; 3], [1.0; 3]);
    for c in 0..3 {
        let planes = || images.iter().filter_map(|part| part.axis_iter(Axis(1)).nth(c));
        // Integers, so that the sums are exact in any order.
        let (sum, squares) = planes()
            .flatten()
            .fold((0u64, 0u64), |(sum, squares), &v| (sum + u64::from(v), squares + u64::from(v) * u64::from(v)));
        let count = planes().map(|plane| plane.len()).sum::<usize>().max(1) as f64;
        let average = sum as f64 / count;
        let variance = (squares as f64 / count - average * average).max(0.0);
        mean[c] = (average / 255.0) as f32;
        // A constant channel is centred and not scaled.
        if variance > 0.0 {
            std[c] = (variance.sqrt() / 255.0) as f32;
        }
    }
    (mean, std)
}

#[cfg(test)]
mod tests;
