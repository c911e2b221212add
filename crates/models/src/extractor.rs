//! A frozen network with its input normalisation: images in, features out.

mod functions;

pub use functions::{ExtractorFunctions, FunctionError, KeptBackward};

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use hemlock_process::{KeptPass, ProcessError, ProcessExtractor};
use ndarray::{Array2, ArrayView4, ArrayViewMut2, Axis, Slice};
use serde::{Deserialize, Serialize};

use crate::device::runs_on_rayon;
use crate::frozen::{FrozenNetwork, Tapes};
use crate::initial::Zeros;
use crate::network::{Arch, Network};
use crate::resnet::Folded;
use crate::tiles::{GPU_BATCH, on_device, par_tiles};
use crate::travel::{down, up};
use crate::weights::{Weights, WeightsError};

/// Most images of one tile on the processor. A constant, because burn's results depend on it in their last bits.
const TILE: usize = 64;

/// Architecture, image size and input normalisation: everything that defines an extractor, without its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtractorSpec {
    /// The architecture.
    pub arch: Arch,
    /// Height and width of the images that the network was trained on.
    pub image_size: [usize; 2],
    /// Mean of each colour channel in `[0, 1]`, subtracted from the input.
    pub mean: [f32; 3],
    /// Standard deviation of each colour channel, by which the centred input is divided.
    pub std: [f32; 3],
}

impl ExtractorSpec {
    /// `(x - mean) / std` for every channel of images `[n, 3, h, w]` in `[0, 1]`.
    #[must_use]
    pub fn normalise(&self, images01: Tensor<4>) -> Tensor<4> {
        let device = images01.device();
        let channel = |v: [f32; 3]| up(v.to_vec(), [1, 3, 1, 1], &device);
        (images01 - channel(self.mean)) / channel(self.std)
    }

    /// [`ExtractorSpec::normalise`] on the host.
    pub(crate) fn normalised(&self, pixels: &[f32]) -> Vec<f32> {
        let [height, width] = self.image_size;
        let planes = pixels.chunks_exact(height * width).enumerate();
        planes.flat_map(|(i, plane)| plane.iter().map(move |x| (x - self.mean[i % 3]) / self.std[i % 3])).collect()
    }
}

/// Why an extraction failed, ended early or did not start.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtractError {
    /// The progress callback returned `false`.
    #[error("feature extraction was interrupted")]
    Interrupted,
    /// The images have another shape than the extractor expects.
    #[error(
        "images have the shape {found:?}: the extractor expects [n, 3, {}, {}]; `size` in [dataset.downstream] sets it",
        size[0], size[1]
    )]
    Shape {
        /// Shape of the images.
        found: Vec<usize>,
        /// Height and width that the extractor expects.
        size: [usize; 2],
    },
    /// The extractor is a child process, which failed.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The extractor is functions of whoever embeds Hemlock, and one of them failed.
    #[error(transparent)]
    Function(#[from] FunctionError),
    /// The network of a child process, or of functions, was asked for.
    #[error("the extractor is a child process or a function, which keeps its network and its weights to itself")]
    NoNetwork,
}

/// A feature extractor f: a frozen network, with the running statistics in its batch norms, and its input
/// normalisation; or a child process that has one; or functions that compute the same.
#[derive(Clone, Debug)]
pub struct Extractor {
    body: Body,
    device: Device,
}

/// What images are passed through an extractor for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Features alone.
    Features,
    /// Gradients with respect to pixels.
    Gradients,
}

/// What computes features.
#[derive(Clone, Debug)]
enum Body {
    Native(Box<Native>),
    Process(Arc<ProcessExtractor>),
    Functions(Arc<dyn ExtractorFunctions>),
}

/// A network of this process.
#[derive(Clone, Debug)]
struct Native {
    spec: ExtractorSpec,
    /// The network as it was trained, with batch norms that are not folded; its weights are read from here.
    net: Network,
    kernels: Kernels,
}

/// The forward cache of some images: features, and what [`Extractor::backward`] needs.
#[derive(Debug)]
pub struct ForwardCache {
    /// Features `[n, d]`.
    pub features: Vec<f32>,
    kept: Kept,
}

/// What is kept of a forward pass.
#[derive(Debug)]
enum Kept {
    Tapes(Tapes),
    Pass(KeptPass),
    Back(functions::Kept),
}

/// The forward pass of some images as tensors, with burn's graph, from which [`Passed::back`] computes the gradient.
#[derive(Debug)]
pub struct Passed {
    images: Tensor<4>,
    features: Tensor<2>,
}

impl Passed {
    /// Features `[n, d]`.
    #[must_use]
    pub fn features(&self) -> Tensor<2> {
        self.features.clone().inner()
    }

    /// The vector-Jacobian product: given the gradient of a scalar with respect to the features, `[n, d]`, returns its
    /// gradient with respect to the pixels, `[n, 3, h, w]`.
    #[must_use]
    pub fn back(self, grad_features: Tensor<2>) -> Tensor<4> {
        let mut gradients = (self.features * Tensor::from_inner(grad_features)).sum().backward();
        // burn registers no gradient if the features do not depend on the pixels; then it is zero.
        self.images.grad_remove(&mut gradients).unwrap_or_else(|| self.images.inner().zeros_like())
    }
}

/// What computes the forward and the backward pass: burn, or, on the processor, our own kernels, which are several
/// times faster.
#[derive(Clone, Debug)]
enum Kernels {
    /// burn, on the network as it is.
    Plain,
    Folded(Box<Folded>),
    Own(Box<FrozenNetwork>),
}

impl Extractor {
    /// Freezes `net`, which must be a network of `spec.arch`.
    #[must_use]
    pub fn new(spec: ExtractorSpec, net: &Network, device: &Device) -> Self {
        let net = net.valid();
        let kernels = match &net {
            net if runs_on_rayon(device) => Kernels::Own(Box::new(FrozenNetwork::new(net, spec.image_size, device))),
            Network::ResNet(net) => Kernels::Folded(Box::new(Folded::new(net))),
            Network::ClipResNet(net) => Kernels::Folded(Box::new(Folded::of_clip(net))),
            Network::ConvNext(_) | Network::Vit(_) => Kernels::Plain,
        };
        Self { body: Body::Native(Box::new(Native { spec, net, kernels })), device: device.clone().inner() }
    }

    /// An extractor that is a child process. Networks that work with it are on `device`.
    #[must_use]
    pub fn process(child: ProcessExtractor, device: &Device) -> Self {
        Self { body: Body::Process(Arc::new(child)), device: device.clone().inner() }
    }

    /// An extractor that is functions of whoever embeds Hemlock. Networks that work with it are on `device`.
    #[must_use]
    pub fn functions(functions: Arc<dyn ExtractorFunctions>, device: &Device) -> Self {
        Self { body: Body::Functions(functions), device: device.clone().inner() }
    }

    /// An extractor with the weights of a safetensors file.
    ///
    /// # Errors
    /// [`WeightsError`] if `bytes` is not a safetensors file, or if its tensors are not exactly those of `spec.arch`.
    pub fn from_safetensors(spec: ExtractorSpec, bytes: &[u8], device: &Device) -> Result<Self, WeightsError> {
        // The initial values do not matter: loading replaces every one of them, or fails.
        let net = Network::new(spec.arch, spec.image_size, &mut Zeros, device);
        let net = Weights::from_safetensors(bytes)?.load(net)?;
        Ok(Self::new(spec, &net, device))
    }

    /// The weights as a safetensors file under PyTorch's names; equal weights give equal bytes.
    ///
    /// The file can be loaded strictly into the torchvision module whose classifier is `nn.Identity()`.
    ///
    /// # Errors
    /// If the extractor has no network ([`ExtractError::NoNetwork`]), or if the file cannot be written.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, WeightsError> {
        Weights::collect(self.network()?).to_safetensors()
    }

    fn native(&self) -> Result<&Native, ExtractError> {
        match &self.body {
            Body::Native(native) => Ok(native),
            Body::Process(_) | Body::Functions(_) => Err(ExtractError::NoNetwork),
        }
    }

    /// Architecture, image size and normalisation.
    ///
    /// # Errors
    /// [`ExtractError::NoNetwork`] if the extractor is a child process or functions.
    pub fn spec(&self) -> Result<&ExtractorSpec, ExtractError> {
        Ok(&self.native()?.spec)
    }

    /// The network in inference mode. Clones share its running statistics, so train a copy made by [`Module::valid`].
    ///
    /// # Errors
    /// [`ExtractError::NoNetwork`] if the extractor is a child process or functions.
    pub fn network(&self) -> Result<&Network, ExtractError> {
        Ok(&self.native()?.net)
    }

    /// Number of features, d.
    #[must_use]
    pub fn feature_dim(&self) -> usize {
        match &self.body {
            Body::Native(native) => native.spec.arch.feature_dim(),
            Body::Process(child) => child.about().features,
            Body::Functions(functions) => functions.about().features,
        }
    }

    /// Height and width of the images, in pixels.
    #[must_use]
    pub fn image_size(&self) -> [usize; 2] {
        match &self.body {
            Body::Native(native) => native.spec.image_size,
            Body::Process(child) => child.about().image_size,
            Body::Functions(functions) => functions.about().image_size,
        }
    }

    /// The device that holds the network, or, where there is none, that holds what works with the extractor.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether images come from the host's memory and features go there, so that work is done in tiles. Otherwise they
    /// are tensors on the device ([`Extractor::pass`]).
    #[must_use]
    pub fn on_host(&self) -> bool {
        !matches!(self.body, Body::Native(_)) || runs_on_rayon(&self.device)
    }

    /// Calls `work` for ranges that cover `0..n`, of a size that suits what computes, and returns the results in order:
    /// in tiles of `tile` images on the host ([`par_tiles`]), and in large batches on a device. `needs` says what
    /// `work` computes with the extractor.
    ///
    /// # Errors
    /// The error of the first range that fails.
    pub fn in_tiles<T: Send, E: Send>(
        &self,
        n: usize,
        tile: usize,
        needs: Needs,
        work: impl Fn(Range<usize>) -> Result<T, E> + Sync,
    ) -> Result<Vec<T>, E> {
        if !self.on_host() {
            return on_device(&self.device, n, tile, work);
        }
        if let Some(net) = self.own_kernels() {
            net.prepare(needs);
        }
        par_tiles(n, self.tile(n, tile), work)
    }

    /// The network, if our own kernels compute it.
    fn own_kernels(&self) -> Option<&FrozenNetwork> {
        let Body::Native(native) = &self.body else { return None };
        if let Kernels::Own(net) = &native.kernels { Some(net) } else { None }
    }

    /// Features `[n, d]` of images `[n, 3, h, w]` in `[0, 1]`, computed on the calling thread alone.
    ///
    /// # Errors
    /// If a child process or a function fails; a network never does.
    pub fn forward(&self, pixels: &[f32]) -> Result<Vec<f32>, ExtractError> {
        let native = match &self.body {
            Body::Native(native) => native,
            Body::Process(child) => return Ok(child.forward(pixels)?),
            Body::Functions(functions) => return Ok(functions::forward(&**functions, pixels)?),
        };
        Ok(match &native.kernels {
            Kernels::Own(net) => net.features(&native.spec.normalised(pixels)),
            Kernels::Folded(_) | Kernels::Plain => down(native.on_burn(self.images(pixels.to_vec()))),
        })
    }

    /// The gradient of a scalar function of the features with respect to the pixels, `[n, 3, h, w]`, computed on the
    /// calling thread alone. `pixels` are in `[0, 1]`. `derivative(first_row, features)` is called with the features of
    /// consecutive images, the first of which is image `first_row`, and returns the gradient with respect to these
    /// features.
    ///
    /// # Errors
    /// If a child process or a function fails; a network never does.
    pub fn vjp(
        &self,
        pixels: &[f32],
        mut derivative: impl FnMut(usize, &[f32]) -> Vec<f32>,
    ) -> Result<Vec<f32>, ExtractError> {
        let native = match &self.body {
            Body::Native(native) => native,
            Body::Process(child) => {
                let (features, kept) = child.forward_kept(pixels)?;
                let grad_features = derivative(0, &features);
                return Ok(match kept {
                    Some(kept) => child.backward(kept, pixels, &grad_features)?,
                    None => child.vjp(pixels, &grad_features)?,
                });
            }
            Body::Functions(functions) => {
                let (features, kept) = functions::forward_kept(&**functions, pixels)?;
                let grad_features = derivative(0, &features);
                return Ok(functions::backward(&**functions, kept, pixels, &grad_features)?);
            }
        };
        match &native.kernels {
            Kernels::Own(net) => {
                let spec = &native.spec;
                Ok(native.grad_pixels(net.vjp(&spec.normalised(pixels), derivative)))
            }
            Kernels::Folded(_) | Kernels::Plain => {
                let passed = self.pass(self.images(pixels.to_vec()))?;
                let features = passed.features();
                let shape = features.dims();
                let grad_features = derivative(0, &down(features));
                Ok(down(passed.back(up(grad_features, shape, &self.device))))
            }
        }
    }

    /// The forward pass of images `[n, 3, h, w]` in `[0, 1]`, which are tensors on the extractor's device, by burn's
    /// operations. It does not wait for the device.
    ///
    /// # Errors
    /// [`ExtractError::NoNetwork`] if the extractor is a child process or functions.
    pub fn pass(&self, images: Tensor<4>) -> Result<Passed, ExtractError> {
        let native = self.native()?;
        let images = Tensor::from_inner(images).require_grad();
        let features = native.on_burn(images.clone());
        Ok(Passed { images, features })
    }

    /// Images of one tile on the host, of `n` in all: at most `most`.
    fn tile(&self, n: usize, most: usize) -> usize {
        self.own_kernels().map_or(most, |net| net.tile(n, most, rayon::current_num_threads()))
    }

    /// Features, and the forward cache for [`Extractor::backward`], so that features and gradient take one forward pass
    /// and not the two of [`Extractor::forward`] and [`Extractor::vjp`]. Returns `None` on devices and for networks
    /// that burn computes, and if a child process or a function keeps no pass.
    ///
    /// # Errors
    /// If a child process or a function fails; a network never does.
    pub fn forward_cached(&self, pixels: &[f32]) -> Result<Option<ForwardCache>, ExtractError> {
        match &self.body {
            Body::Native(native) => {
                let Kernels::Own(net) = &native.kernels else { return Ok(None) };
                let (features, tapes) = net.forward_cached(&native.spec.normalised(pixels));
                Ok(Some(ForwardCache { features, kept: Kept::Tapes(tapes) }))
            }
            Body::Process(child) => {
                let (features, kept) = child.forward_kept(pixels)?;
                Ok(kept.map(|kept| ForwardCache { features, kept: Kept::Pass(kept) }))
            }
            Body::Functions(functions) => {
                let (features, kept) = functions::forward_kept(&**functions, pixels)?;
                Ok(kept.map(|kept| ForwardCache { features, kept: Kept::Back(kept) }))
            }
        }
    }

    /// Number of images for which there is room, in `memory` bytes, for forward caches of `tile` images each; 0 if
    /// [`Extractor::forward_cached`] returns `None`. A child process and functions say how many passes they keep, in
    /// memory of their own.
    #[must_use]
    pub fn cache_room(&self, memory: usize, tile: usize) -> usize {
        match &self.body {
            Body::Native(native) => match &native.kernels {
                Kernels::Own(net) => memory / net.cache_bytes().max(1),
                Kernels::Folded(_) | Kernels::Plain => 0,
            },
            Body::Process(child) => child.about().keep * tile,
            Body::Functions(functions) => functions.about().keep * tile,
        }
    }

    /// The vector-Jacobian product: given the gradient of a scalar with respect to the features, `[n, d]`, returns its
    /// gradient with respect to the pixels in `[0, 1]`, `[n, 3, h, w]`. `cache` must come from
    /// [`Extractor::forward_cached`] of the same extractor and the same pixels.
    ///
    /// # Errors
    /// If a child process or a function fails; a network never does.
    pub fn backward(
        &self,
        cache: ForwardCache,
        pixels: &[f32],
        grad_features: &[f32],
    ) -> Result<Vec<f32>, ExtractError> {
        Ok(match (&self.body, cache.kept) {
            (Body::Native(native), Kept::Tapes(tapes)) => match &native.kernels {
                Kernels::Own(net) => native.grad_pixels(net.backward(tapes, grad_features)),
                Kernels::Folded(_) | Kernels::Plain => Vec::new(),
            },
            (Body::Process(child), Kept::Pass(kept)) => child.backward(kept, pixels, grad_features)?,
            (Body::Functions(functions), Kept::Back(kept)) => {
                functions::backward(&**functions, Some(kept), pixels, grad_features)?
            }
            _ => Vec::new(),
        })
    }

    /// Pixels as a tensor `[n, 3, h, w]` on the extractor's device.
    fn images(&self, pixels: Vec<f32>) -> Tensor<4> {
        let [height, width] = self.image_size();
        let shape = [pixels.len() / (3 * height * width), 3, height, width];
        up(pixels, shape, &self.device)
    }

    /// Features `[n, d]` of 8-bit images `[n, 3, h, w]`, as [`Extractor::features_into`] computes them, in memory.
    ///
    /// # Errors
    /// As [`Extractor::features_into`].
    pub fn features(
        &self,
        images: ArrayView4<'_, u8>,
        progress: &(dyn Fn(usize) -> bool + Sync),
    ) -> Result<Array2<f32>, ExtractError> {
        let mut features = Array2::zeros((images.len_of(Axis(0)), self.feature_dim()));
        self.features_into(images, features.view_mut(), progress)?;
        Ok(features)
    }

    /// Writes the features `[n, d]` of 8-bit images `[n, 3, h, w]` to `features`.
    ///
    /// Images are processed in tiles on the threads of the current rayon pool, whose number does not change the bytes
    /// on `flex`. Only the tiles in progress are in memory as floats.
    ///
    /// `progress` is called with the number of finished images, from several threads, and returns whether to continue.
    ///
    /// # Errors
    /// - [`ExtractError::Shape`] if the images have another size than the extractor expects;
    /// - [`ExtractError::Interrupted`] if `progress` returns `false`;
    /// - [`ExtractError::Process`] and [`ExtractError::Function`] if a child process or a function fails.
    ///
    /// # Panics
    /// If `features` does not have the shape `[n, d]`.
    pub fn features_into(
        &self,
        images: ArrayView4<'_, u8>,
        features: ArrayViewMut2<'_, f32>,
        progress: &(dyn Fn(usize) -> bool + Sync),
    ) -> Result<(), ExtractError> {
        let [h, w] = self.image_size();
        let (n, d) = (images.len_of(Axis(0)), self.feature_dim());
        if images.shape()[1..] != [3, h, w] {
            return Err(ExtractError::Shape { found: images.shape().to_vec(), size: self.image_size() });
        }
        assert_eq!(features.dim(), (n, d), "the features of {n} images");
        let pixels = |rows: &Range<usize>| -> Vec<f32> {
            let tile = images.slice_axis(Axis(0), Slice::from(rows.clone()));
            tile.iter().map(|&p| f32::from(p) / 255.0).collect()
        };
        let (features, done) = (Mutex::new(features), AtomicUsize::new(0));
        let keep = |rows: Range<usize>, made: Vec<f32>| {
            let mut features = features.lock().unwrap_or_else(PoisonError::into_inner);
            let to = features.slice_axis_mut(Axis(0), Slice::from(rows.clone()));
            to.into_iter().zip(made).for_each(|(to, z)| *to = z);
            drop(features);
            let done = done.fetch_add(rows.len(), Ordering::Relaxed) + rows.len();
            if progress(done) { Ok(()) } else { Err(ExtractError::Interrupted) }
        };
        if self.on_host() {
            self.in_tiles(n, TILE, Needs::Features, |rows| {
                let made = self.forward(&pixels(&rows))?;
                keep(rows, made)
            })?;
            return Ok(());
        }
        let native = self.native()?;
        // The next batch is prepared while the device computes the current one.
        let mut under_way: Option<(Range<usize>, Tensor<2>)> = None;
        let batches = (0..n).step_by(GPU_BATCH).map(|start| start..(start + GPU_BATCH).min(n));
        for rows in batches {
            let made = native.on_burn(self.images(pixels(&rows)));
            if let Some((rows, made)) = under_way.replace((rows, made)) {
                keep(rows, down(made))?;
            }
        }
        under_way.map_or(Ok(()), |(rows, made)| keep(rows, down(made)))
    }
}

impl Native {
    /// Turns gradients with respect to normalised pixels into gradients with respect to pixels in `[0, 1]`.
    fn grad_pixels(&self, mut pulled: Vec<f32>) -> Vec<f32> {
        let [height, width] = self.spec.image_size;
        for (i, plane) in pulled.chunks_exact_mut(height * width).enumerate() {
            plane.iter_mut().for_each(|v| *v /= self.spec.std[i % 3]);
        }
        pulled
    }

    /// Features of images in `[0, 1]`, by burn's operations.
    fn on_burn(&self, images: Tensor<4>) -> Tensor<2> {
        let images = self.spec.normalise(images);
        match &self.kernels {
            Kernels::Folded(net) => net.forward(images),
            Kernels::Plain | Kernels::Own(_) => self.net.forward(images),
        }
    }
}

#[cfg(test)]
mod tests;
