//! The training loop: two views, one loss, a checkpoint after every epoch.
//!
//! The views go through the network separately, each with its own batch statistics (as in MoCo v3),
//! so that each has a gradient graph of its own and both run side by side on one-thread pools. The
//! graphs are cut at the embeddings z: with g = dL/dz from the loss on the detached embeddings, the
//! gradient of sum(z * g) with g constant is, by the chain rule, the exact gradient of L. There are
//! always two halves, so the bytes don't depend on the thread count.

use std::io;

use burn::tensor::{Device, Tensor, TensorData};
use hemlock_artifact::Epoch;
use hemlock_models::device::runs_on_rayon;
use hemlock_models::tiles::par_pair;
use hemlock_models::{ExtractError, Extractor, ExtractorSpec, WeightsError};
use ndarray::{ArrayView4, Axis};
use rand::seq::SliceRandom;

use crate::augment::render_views;
use crate::checkpoint;
use crate::config::{InvalidConfig, Method, PretrainConfig};
use crate::knn::{self, LabelledImages};
use crate::ntxent::{nt_xent, unit_rows};
use crate::optimizer::Optimizer;
use crate::streams::{Stream, stream};
use crate::student::{Named, Student};

/// Neighbours that vote in the k-nearest-neighbour check.
const NEIGHBOURS: usize = 20;

/// A pre-trained extractor.
#[derive(Clone, Debug)]
pub struct Pretrained {
    /// The network's weights as a safetensors file.
    pub weights: Vec<u8>,
    /// Architecture and normalisation, with the training images' means and deviations.
    pub spec: ExtractorSpec,
    /// One record per epoch; empty without training.
    pub curve: Vec<Epoch>,
}

/// Where a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Epoch, counted from 1.
    pub epoch: usize,
    /// Epochs of the run.
    pub epochs: usize,
    /// Steps done in this epoch.
    pub step: usize,
    /// Steps of an epoch.
    pub steps: usize,
    /// Loss of the last step.
    pub loss: f32,
}

/// Keeps the newest checkpoint of one run.
pub trait Checkpoints {
    /// The newest checkpoint, if there is one.
    fn load(&self) -> Option<Vec<u8>>;

    /// Replaces the checkpoint.
    ///
    /// # Errors
    /// When the bytes could not be written.
    fn save(&self, bytes: &[u8]) -> io::Result<()>;
}

/// No checkpoints: an interrupted run starts over.
impl Checkpoints for () {
    fn load(&self) -> Option<Vec<u8>> {
        None
    }

    fn save(&self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// What a run reports to and asks of its caller.
#[derive(Clone, Copy)]
pub struct Hooks<'a> {
    /// Checkpoints of this very run: same parameters and images.
    pub checkpoints: &'a dyn Checkpoints,
    /// Called after every step.
    pub progress: &'a dyn Fn(Progress),
    /// Asked before every step.
    pub cancelled: &'a dyn Fn() -> bool,
}

/// Labelled images for the k-nearest-neighbour check. The training never sees the labels.
#[derive(Clone, Debug)]
pub struct Monitor {
    /// The neighbours.
    pub reference: LabelledImages,
    /// The images to classify.
    pub queries: LabelledImages,
}

/// Pre-training that came to no result.
#[derive(Debug, thiserror::Error)]
pub enum PretrainError {
    /// A parameter outside its range, or one that doesn't fit the images.
    #[error("parameter {0}")]
    Config(#[from] InvalidConfig),
    /// The caller asked to stop; the checkpoint of the last whole epoch stays.
    #[error("pre-training was interrupted in epoch {epoch}; run it again to go on from the last whole epoch")]
    Interrupted {
        /// Counted from 1.
        epoch: usize,
    },
    /// The training diverged.
    #[error(
        "the loss is {loss} in epoch {epoch}, step {step}, at learning rate {lr:.1e}: choose a smaller `learning_rate`"
    )]
    NonFinite {
        /// The loss.
        loss: f32,
        /// Counted from 1.
        epoch: usize,
        /// Counted from 1.
        step: usize,
        /// Learning rate of the step.
        lr: f64,
    },
    /// A checkpoint could not be written.
    #[error("the checkpoint after epoch {epoch} could not be written")]
    Checkpoint {
        /// Counted from 1.
        epoch: usize,
        /// What went wrong.
        source: io::Error,
    },
    /// The weights could not be put into a file.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The labelled images don't fit.
    #[error("k-nearest-neighbour check: {0}")]
    Monitor(#[from] ExtractError),
}

/// Makes an extractor from images `[n, 3, h, w]` without labels.
///
/// On `flex` the result depends on `config` and `images` alone: a run that goes on from a
/// checkpoint ends in the same bytes as one that was never interrupted. `monitor` only adds
/// numbers to the curve.
///
/// # Errors
/// See [`PretrainError`].
pub fn pretrain(
    config: &PretrainConfig,
    images: ArrayView4<'_, u8>,
    monitor: Option<&Monitor>,
    device: &Device,
    hooks: Hooks<'_>,
) -> Result<Pretrained, PretrainError> {
    config.validate()?;
    let (n, _, height, width) = images.dim();
    let (mean, std) = channel_statistics(images);
    let spec = ExtractorSpec { arch: config.arch, image_size: [height, width], mean, std };
    let device = device.clone().inner();
    let mut rng = stream(config.seed, Stream::Init);
    let student = Student::new(config.arch, config.projector, &mut rng, &device);
    let (student, curve) = match config.method {
        Method::Random => (student, Vec::new()),
        Method::Simclr if n < config.batch => {
            let message = format!("is {}: expected at most the {n} images", config.batch);
            let field = "batch";
            return Err(InvalidConfig { field, message }.into());
        }
        Method::Simclr => {
            let run = Run { config, images, monitor, spec: &spec, device: &device };
            run.train(student, hooks)?
        }
    };
    let weights = Extractor::new(spec.clone(), &student.net, &device).to_safetensors()?;
    Ok(Pretrained { weights, spec, curve })
}

/// Everything that stays the same in a run.
struct Run<'a> {
    config: &'a PretrainConfig,
    images: ArrayView4<'a, u8>,
    monitor: Option<&'a Monitor>,
    spec: &'a ExtractorSpec,
    device: &'a Device,
}

/// One view's way through a copy of the student.
struct Half {
    student: Student,
    embeddings: Tensor<2>,
}

impl Run<'_> {
    fn train(&self, student: Student, hooks: Hooks<'_>) -> Result<(Student, Vec<Epoch>), PretrainError> {
        let config = self.config;
        let mut optimizer = Optimizer::new(config.optimizer, config.weight_decay);
        let (mut student, mut curve) = self.resume(student, &mut optimizer, hooks.checkpoints);
        let n = self.images.len_of(Axis(0));
        let steps = n / config.batch;
        for epoch in curve.len()..config.epochs {
            let mut order: Vec<usize> = (0..n).collect();
            order.shuffle(&mut stream(self.config.seed, Stream::Shuffle { epoch }));
            let (mut total, mut spread, mut lr) = (0.0, 0.0, 0.0);
            for (i, batch) in order.chunks_exact(config.batch).enumerate() {
                if (hooks.cancelled)() {
                    return Err(PretrainError::Interrupted { epoch: epoch + 1 });
                }
                lr = config.learning_rate_at(epoch * steps + i, config.epochs * steps);
                let loss;
                (student, loss, spread) = self.step(student, &mut optimizer, epoch, batch, lr);
                if !loss.is_finite() {
                    return Err(PretrainError::NonFinite { loss, epoch: epoch + 1, step: i + 1, lr });
                }
                total += f64::from(loss);
                (hooks.progress)(Progress { epoch: epoch + 1, epochs: config.epochs, step: i + 1, steps, loss });
            }
            curve.push(checkpoint::rounded(Epoch {
                epoch: epoch as u32 + 1,
                loss: total / steps as f64,
                learning_rate: lr,
                spread: f64::from(spread),
                knn: self.knn(&student, epoch)?.map(f64::from),
            }));
            let bytes = checkpoint::write(config, &student, &optimizer, &curve)?;
            let saved = hooks.checkpoints.save(&bytes);
            saved.map_err(|source| PretrainError::Checkpoint { epoch: epoch + 1, source })?;
        }
        Ok((student, curve))
    }

    /// The state after the last whole epoch, or the beginning.
    ///
    /// A checkpoint that cannot be read costs time, never correctness: the run starts over.
    fn resume(
        &self,
        student: Student,
        optimizer: &mut Optimizer,
        checkpoints: &dyn Checkpoints,
    ) -> (Student, Vec<Epoch>) {
        let Some(bytes) = checkpoints.load() else {
            return (student, Vec::new());
        };
        match checkpoint::read(&bytes, self.config, &student, optimizer) {
            Ok(resumed) => resumed,
            Err(reason) => {
                tracing::warn!("the checkpoint is not used, training starts over: {reason}");
                (student, Vec::new())
            }
        }
    }

    /// One step of the optimiser: the new student, the loss and the spread of the embeddings.
    fn step(
        &self,
        student: Student,
        optimizer: &mut Optimizer,
        epoch: usize,
        batch: &[usize],
        lr: f64,
    ) -> (Student, f32, f32) {
        let (a, b) = self.pair(|| self.forward(&student, epoch, batch, 0), || self.forward(&student, epoch, batch, 1));
        let spread = spread(a.embeddings.clone().inner());
        let (loss, [ga, gb]) = self.loss(&a, &b);
        let (a, b) = self.pair(|| a.backward(ga), || b.backward(gb));
        let gradients = merge(a.0, b.0, |a, b| a + b);
        let statistics = merge(a.1, b.1, |a, b| (a + b).div_scalar(2.0));
        let student = optimizer.step(student, lr, gradients, statistics);
        (student, loss, spread)
    }

    /// Both results; side by side on the processor, one after the other on a GPU.
    fn pair<T: Send>(&self, a: impl FnOnce() -> T + Send, b: impl FnOnce() -> T + Send) -> (T, T) {
        if runs_on_rayon(self.device) { par_pair(a, b) } else { (a(), b()) }
    }

    fn forward(&self, student: &Student, epoch: usize, batch: &[usize], view: usize) -> Half {
        let augment = &self.config.augment;
        let pixels = render_views(augment, self.images, batch, self.config.seed, epoch, view);
        let [height, width] = self.spec.image_size;
        let data = TensorData::new(pixels, [batch.len(), 3, height, width]);
        let images = Tensor::<4>::from_data(data, &self.device.clone().autodiff());
        let student = student.training_copy();
        let embeddings = student.forward(self.spec.normalise(images));
        Half { student, embeddings }
    }

    /// The loss and its gradient with respect to both halves' embeddings.
    fn loss(&self, a: &Half, b: &Half) -> (f32, [Tensor<2>; 2]) {
        let leaf = |half: &Half| {
            let z = half.embeddings.clone().inner();
            Tensor::from_inner(z).require_grad()
        };
        let (za, zb) = (leaf(a), leaf(b));
        let loss = nt_xent(za.clone(), zb.clone(), self.config.temperature);
        let gradients = loss.backward();
        let gradient = |z: &Tensor<2>| z.grad(&gradients).unwrap_or_else(|| z.zeros_like().inner());
        (loss.into_scalar::<f32>(), [gradient(&za), gradient(&zb)])
    }

    fn knn(&self, student: &Student, epoch: usize) -> Result<Option<f32>, ExtractError> {
        let every = self.config.knn_every;
        let Some(monitor) = self.monitor.filter(|_| every > 0) else {
            return Ok(None);
        };
        if !(epoch + 1).is_multiple_of(every) && epoch + 1 != self.config.epochs {
            return Ok(None);
        }
        let extractor = Extractor::new(self.spec.clone(), &student.net, self.device);
        let features = |labelled: &LabelledImages| extractor.features(labelled.images.view(), &|_| true);
        let Monitor { reference, queries } = monitor;
        Ok(Some(knn::accuracy(
            NEIGHBOURS,
            (features(reference)?, &reference.labels),
            (features(queries)?, &queries.labels),
        )))
    }
}

impl Half {
    /// Gradients of the parameters when dL/dz is `gradient`, and the new running statistics.
    fn backward(self, gradient: Tensor<2>) -> (Named, Named) {
        let gradients = (self.embeddings * gradient).sum().backward();
        let statistics = self.student.running_statistics();
        (self.student.gradients(&gradients), statistics)
    }
}

/// Tensors of both halves by name, combined by `with`.
fn merge(a: Named, mut b: Named, with: impl Fn(Tensor<1>, Tensor<1>) -> Tensor<1>) -> Named {
    let merged = a.into_iter().map(|(name, a)| {
        let both = match b.remove(&name) {
            Some(b) => with(a, b),
            None => a,
        };
        (name, both)
    });
    merged.collect()
}

/// See [`Epoch::spread`].
fn spread(z: Tensor<2>) -> f32 {
    let [_, p] = z.dims();
    let z = unit_rows(z);
    let centred = z.clone() - z.mean_dim(0);
    let deviation = centred.square().mean_dim(0).sqrt().mean();
    deviation.into_scalar::<f32>() * (p as f32).sqrt()
}

/// Mean and standard deviation of each channel of images `[n, 3, h, w]`, in `[0, 1]`.
fn channel_statistics(images: ArrayView4<'_, u8>) -> ([f32; 3], [f32; 3]) {
    let (mut mean, mut std) = ([0.0; 3], [1.0; 3]);
    for (c, plane) in images.axis_iter(Axis(1)).enumerate().take(3) {
        // Sums of integers are exact in any order.
        let (sum, squares) = plane
            .iter()
            .fold((0u64, 0u64), |(sum, squares), &v| (sum + u64::from(v), squares + u64::from(v) * u64::from(v)));
        let count = plane.len().max(1) as f64;
        let average = sum as f64 / count;
        let variance = (squares as f64 / count - average * average).max(0.0);
        mean[c] = (average / 255.0) as f32;
        // A constant channel is centred, and otherwise left as it is.
        if variance > 0.0 {
            std[c] = (variance.sqrt() / 255.0) as f32;
        }
    }
    (mean, std)
}

#[cfg(test)]
mod tests;
