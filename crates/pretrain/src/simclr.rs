//! The training loop: two views, one loss, a checkpoint after every epoch.
//!
//! The views go through the network separately, each with its own batch statistics (as in MoCo v3),
//! so that each has a gradient graph of its own and both run side by side on one-thread pools. The
//! graphs are cut at the embeddings z: with g = dL/dz from the loss on the detached embeddings, the
//! gradient of sum(z * g) with g constant is, by the chain rule, the exact gradient of L. There are
//! always two halves, so the bytes don't depend on the thread count.

use burn::tensor::{Device, Tensor, TensorData};
use hemlock_artifact::{Epoch, Images};
use hemlock_models::device::runs_on_rayon;
use hemlock_models::tiles::par_pair;
use hemlock_models::{Extractor, ExtractorSpec};
use hemlock_stage::{Context, ErrorKind, ParamError, StageError};
use ndarray::{ArrayView4, Axis};
use rand::seq::SliceRandom;

use crate::augment::render_views;
use crate::checkpoint;
use crate::config::SimclrConfig;
use crate::knn;
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

/// Labelled images for the k-nearest-neighbour check. The training never sees the labels.
#[derive(Clone, Copy, Debug)]
pub struct Monitor<'a> {
    /// The neighbours.
    pub reference: &'a Images,
    /// The images to classify.
    pub queries: &'a Images,
}

/// Trains an extractor on images `[n, 3, h, w]` without labels.
///
/// On `flex` the result depends on `config` and `images` alone: a run that goes on from a
/// checkpoint ends in the same bytes as one that was never interrupted. `monitor` only adds
/// numbers to the curve.
///
/// # Errors
/// A parameter is out of its range or doesn't fit the images; the loss is not finite; the run was
/// interrupted; a checkpoint could not be written.
pub fn pretrain(
    config: &SimclrConfig,
    images: ArrayView4<'_, u8>,
    monitor: Option<Monitor<'_>>,
    device: &Device,
    ctx: &Context<'_>,
) -> Result<Pretrained, StageError> {
    let (spec, student) = start(config, images, device)?;
    let n = images.len_of(Axis(0));
    if n < config.batch {
        let message = format!("is {}; expected at most the {n} images", config.batch);
        return Err(ParamError::new("batch", message).into());
    }
    let run = Run { config, images, monitor, spec: &spec, device: &device.clone().inner() };
    let (student, curve) = run.train(student, ctx)?;
    finish(spec, &student, curve)
}

/// The extractor that [`pretrain`] starts from, normalised by the same images `[n, 3, h, w]`.
///
/// # Errors
/// A parameter is out of its range.
pub fn random(config: &SimclrConfig, images: ArrayView4<'_, u8>, device: &Device) -> Result<Pretrained, StageError> {
    let (spec, student) = start(config, images, device)?;
    finish(spec, &student, Vec::new())
}

fn start(
    config: &SimclrConfig,
    images: ArrayView4<'_, u8>,
    device: &Device,
) -> Result<(ExtractorSpec, Student), StageError> {
    config.check()?;
    let (_, _, height, width) = images.dim();
    config.arch.check_size([height, width]).map_err(|e| ParamError::new("arch", e.to_string()))?;
    let (mean, std) = channel_statistics(images);
    let mut rng = stream(config.seed, Stream::Init);
    let student = Student::new(config.arch, [height, width], config.projector, &mut rng, &device.clone().inner());
    Ok((ExtractorSpec { arch: config.arch, image_size: [height, width], mean, std }, student))
}

fn finish(spec: ExtractorSpec, student: &Student, curve: Vec<Epoch>) -> Result<Pretrained, StageError> {
    let extractor = Extractor::new(spec.clone(), &student.net, &student.device());
    Ok(Pretrained { weights: extractor.to_safetensors().map_err(internal)?, spec, curve })
}

/// Everything that stays the same in a run.
struct Run<'a> {
    config: &'a SimclrConfig,
    images: ArrayView4<'a, u8>,
    monitor: Option<Monitor<'a>>,
    spec: &'a ExtractorSpec,
    device: &'a Device,
}

/// One view's way through a copy of the student.
struct Half {
    student: Student,
    embeddings: Tensor<2>,
}

impl Run<'_> {
    fn train(&self, student: Student, ctx: &Context<'_>) -> Result<(Student, Vec<Epoch>), StageError> {
        let config = self.config;
        let mut optimizer = Optimizer::new(config.optimizer, config.weight_decay);
        let (mut student, mut curve) = self.resume(student, &mut optimizer, ctx);
        let n = self.images.len_of(Axis(0));
        let steps = n / config.batch;
        let bar = ctx.progress.start("pre-training", (config.epochs * steps) as u64, "steps");
        for epoch in curve.len()..config.epochs {
            let mut order: Vec<usize> = (0..n).collect();
            order.shuffle(&mut stream(self.config.seed, Stream::Shuffle { epoch }));
            let (mut total, mut spread, mut lr) = (0.0, 0.0, 0.0);
            for (i, batch) in order.chunks_exact(config.batch).enumerate() {
                ctx.check()?;
                lr = config.learning_rate_at(epoch * steps + i, config.epochs * steps);
                let loss;
                (student, loss, spread) = self.step(student, &mut optimizer, epoch, batch, lr);
                if !loss.is_finite() {
                    let message = format!(
                        "the loss is {loss} in epoch {}, step {}, at learning rate {lr:.1e}: choose a smaller `learning_rate`",
                        epoch + 1,
                        i + 1
                    );
                    return Err(StageError::new(ErrorKind::Numeric, message));
                }
                total += f64::from(loss);
                bar.at((epoch * steps + i + 1) as u64);
                bar.say(format!("epoch {}/{} loss {loss:.3}", epoch + 1, config.epochs));
            }
            curve.push(Epoch {
                epoch: epoch as u32 + 1,
                loss: total / steps as f64,
                learning_rate: lr,
                spread: f64::from(spread),
                knn: self.knn(&student, epoch)?.map(f64::from),
            });
            ctx.checkpoints.save(&checkpoint::write(config, &student, &optimizer, &curve).map_err(internal)?)?;
        }
        Ok((student, curve))
    }

    /// The state after the last whole epoch, or the beginning.
    ///
    /// A checkpoint that cannot be read costs time, never correctness: the run starts over.
    fn resume(&self, student: Student, optimizer: &mut Optimizer, ctx: &Context<'_>) -> (Student, Vec<Epoch>) {
        let read = |bytes: Vec<u8>| {
            checkpoint::read(&bytes, self.config, &student, optimizer).map_err(|reason| reason.to_string())
        };
        match ctx.checkpoints.load().map_err(|e| e.to_string()).and_then(|found| found.map(read).transpose()) {
            Ok(resumed) => resumed.unwrap_or((student, Vec::new())),
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

    fn knn(&self, student: &Student, epoch: usize) -> Result<Option<f32>, StageError> {
        let every = self.config.knn_every;
        let Some(monitor) = self.monitor.filter(|_| every > 0) else {
            return Ok(None);
        };
        if !(epoch + 1).is_multiple_of(every) && epoch + 1 != self.config.epochs {
            return Ok(None);
        }
        let extractor = Extractor::new(self.spec.clone(), &student.net, self.device);
        let features = |images: &Images| extractor.features(images.pixels.view(), &|_| true).map_err(internal);
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

pub(crate) fn internal(e: impl std::error::Error + Send + Sync + 'static) -> StageError {
    StageError::new(ErrorKind::Internal, e)
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
