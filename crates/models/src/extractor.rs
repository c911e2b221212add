//! A frozen network with its input normalisation: images in, features out.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use hemlock_streams::Purpose;
use ndarray::{Array2, ArrayView4, ArrayViewMut2, Axis, Slice};
use serde::{Deserialize, Serialize};

use crate::device::runs_on_rayon;
use crate::frozen::{FoldedNetwork, Tape};
use crate::network::{Arch, Network};
use crate::resnet::Folded;
use crate::tiles::{GPU_BATCH, par_tiles};
use crate::travel::{down, up};
use crate::weights::{Weights, WeightsError};

/// Images of one tile on the processor. Part of the numbers' definition: never a setting.
const TILE: usize = 64;

/// Everything about an extractor but its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtractorSpec {
    /// The network.
    pub arch: Arch,
    /// Height and width of the images that it was trained on.
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

/// Extraction that did not come to its end.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtractError {
    /// The progress callback asked to stop.
    #[error("feature extraction was interrupted")]
    Interrupted,
    /// Images of another shape.
    #[error("images have the shape {found:?}: the extractor expects [n, 3, {}, {}]", size[0], size[1])]
    Shape {
        /// Shape of the images.
        found: Vec<usize>,
        /// Height and width that the extractor was trained on.
        size: [usize; 2],
    },
}

/// A feature extractor f: a frozen network (batch norm with its running statistics) and the
/// normalisation of its input.
#[derive(Clone, Debug)]
pub struct Extractor {
    spec: ExtractorSpec,
    /// For its weights.
    net: Network,
    kernels: Kernels,
    device: Device,
}

/// A pass of some images through an extractor.
#[derive(Debug)]
pub struct Trace {
    /// Their features `[n, d]`.
    pub features: Vec<f32>,
    tapes: Vec<Tape>,
}

/// Images that have passed an extractor as tensors, from which [`Passed::back`] goes back.
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

    /// The derivative `[n, 3, h, w]` by the pixels of a function of the features, which has that derivative by these.
    #[must_use]
    pub fn back(self, grad_features: Tensor<2>) -> Tensor<4> {
        let mut gradients = (self.features * Tensor::from_inner(grad_features)).sum().backward();
        // A network without a path from pixels to features has no gradient there.
        self.images.grad_remove(&mut gradients).unwrap_or_else(|| self.images.inner().zeros_like())
    }
}

/// What computes: burn, or on the processor our own convolutions, which are several times faster.
#[derive(Clone, Debug)]
enum Kernels {
    /// The network as it is.
    Plain,
    Folded(Folded),
    Own(FoldedNetwork),
}

impl Extractor {
    /// Freezes `net`, a network of `spec.arch`.
    #[must_use]
    pub fn new(spec: ExtractorSpec, net: &Network, device: &Device) -> Self {
        let net = net.valid();
        let kernels = match &net {
            Network::ResNet(net) if runs_on_rayon(device) => Kernels::Own(FoldedNetwork::new(&Folded::new(net))),
            Network::ResNet(net) => Kernels::Folded(Folded::new(net)),
            Network::Vit(_) => Kernels::Plain,
        };
        Self { spec, net, kernels, device: device.clone().inner() }
    }

    /// An extractor with the weights of a safetensors file.
    ///
    /// # Errors
    /// [`WeightsError`] when the bytes are no safetensors file, or hold other tensors than
    /// `spec.arch` has.
    pub fn from_safetensors(spec: ExtractorSpec, bytes: &[u8], device: &Device) -> Result<Self, WeightsError> {
        // Every value is replaced, or loading fails.
        let net = Network::new(spec.arch, spec.image_size, &mut Purpose::Placeholder.of(0), device);
        let net = Weights::from_safetensors(bytes)?.load(net)?;
        Ok(Self::new(spec, &net, device))
    }

    /// The weights as a safetensors file under PyTorch's names; equal weights give equal bytes.
    ///
    /// It loads strictly into the torchvision module whose classifier is `nn.Identity()`.
    ///
    /// # Errors
    /// [`WeightsError::Format`] if the file cannot be written.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, WeightsError> {
        Weights::collect(&self.net).to_safetensors()
    }

    /// Architecture and normalisation.
    #[must_use]
    pub fn spec(&self) -> &ExtractorSpec {
        &self.spec
    }

    /// The network, in inference mode. Its clones share running statistics with it: train [`Module::valid`] copies.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.net
    }

    /// Number of features d.
    #[must_use]
    pub fn feature_dim(&self) -> usize {
        self.spec.arch.feature_dim()
    }

    /// The device that holds the network.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Features `[n, d]` of images `[n, 3, h, w]` in `[0, 1]`, on the calling thread alone.
    #[must_use]
    pub fn forward(&self, pixels: &[f32]) -> Vec<f32> {
        match &self.kernels {
            Kernels::Own(net) => net.features(&self.spec.normalised(pixels), self.spec.image_size),
            Kernels::Folded(_) | Kernels::Plain => down(self.on_burn(self.images(pixels.to_vec()))),
        }
    }

    /// The derivative `[n, 3, h, w]` by the pixels, in `[0, 1]`, of a function of the features, on the calling thread
    /// alone. `derivative` is told the features of some images and the first one's row, and answers with the derivative
    /// by these features.
    pub fn vjp(&self, pixels: &[f32], mut derivative: impl FnMut(usize, &[f32]) -> Vec<f32>) -> Vec<f32> {
        match &self.kernels {
            Kernels::Own(net) => {
                self.grad_pixels(net.vjp(&self.spec.normalised(pixels), self.spec.image_size, derivative))
            }
            Kernels::Folded(_) | Kernels::Plain => {
                let passed = self.pass(self.images(pixels.to_vec()));
                let features = passed.features();
                let shape = features.dims();
                let grad_features = derivative(0, &down(features));
                down(passed.back(up(grad_features, shape, &self.device)))
            }
        }
    }

    /// A pass of images `[n, 3, h, w]` in `[0, 1]`, tensors on the extractor's device, by burn's operations. Nothing is
    /// waited for.
    #[must_use]
    pub fn pass(&self, images: Tensor<4>) -> Passed {
        let images = Tensor::from_inner(images).require_grad();
        let features = self.on_burn(images.clone());
        Passed { images, features }
    }

    /// Features, and what [`Extractor::backward`] needs to go back from them: one pass where [`Extractor::forward`]
    /// and [`Extractor::pull`] take two. `None` on devices where they do.
    #[must_use]
    pub fn trace(&self, pixels: &[f32]) -> Option<Trace> {
        let Kernels::Own(net) = &self.kernels else { return None };
        let (features, tapes) = net.trace(&self.spec.normalised(pixels), self.spec.image_size);
        Some(Trace { features, tapes })
    }

    /// Memory that the trace of one image takes, in bytes.
    #[must_use]
    pub fn trace_bytes(&self) -> usize {
        match &self.kernels {
            Kernels::Own(net) => net.trace_bytes(self.spec.image_size),
            Kernels::Folded(_) | Kernels::Plain => 0,
        }
    }

    /// The derivative `[n, 3, h, w]` by the pixels, in `[0, 1]`, of a function of the features, which has that
    /// derivative by these. The trace is of this extractor.
    #[must_use]
    pub fn backward(&self, trace: Trace, grad_features: &[f32]) -> Vec<f32> {
        match &self.kernels {
            Kernels::Own(net) => self.grad_pixels(net.backward(trace.tapes, grad_features)),
            Kernels::Folded(_) | Kernels::Plain => Vec::new(),
        }
    }

    /// Of derivatives by normalised pixels.
    fn grad_pixels(&self, mut pulled: Vec<f32>) -> Vec<f32> {
        let [height, width] = self.spec.image_size;
        for (i, plane) in pulled.chunks_exact_mut(height * width).enumerate() {
            plane.iter_mut().for_each(|v| *v /= self.spec.std[i % 3]);
        }
        pulled
    }

    /// Features of images in `[0, 1]`, by burn.
    fn on_burn(&self, images: Tensor<4>) -> Tensor<2> {
        let images = self.spec.normalise(images);
        match &self.kernels {
            Kernels::Folded(net) => net.forward(images),
            Kernels::Plain | Kernels::Own(_) => self.net.forward(images),
        }
    }

    /// Pixels as a tensor on the device.
    fn images(&self, pixels: Vec<f32>) -> Tensor<4> {
        let [height, width] = self.spec.image_size;
        let shape = [pixels.len() / (3 * height * width), 3, height, width];
        up(pixels, shape, &self.device)
    }

    /// Features `[n, d]` of 8-bit images `[n, 3, h, w]`: [`Extractor::features_into`] memory.
    ///
    /// # Errors
    /// As there.
    pub fn features(
        &self,
        images: ArrayView4<'_, u8>,
        progress: &(dyn Fn(usize) -> bool + Sync),
    ) -> Result<Array2<f32>, ExtractError> {
        let mut features = Array2::zeros((images.len_of(Axis(0)), self.feature_dim()));
        self.features_into(images, features.view_mut(), progress)?;
        Ok(features)
    }

    /// Writes features `[n, d]` of 8-bit images `[n, 3, h, w]` to `features`, in tiles over the threads of the current
    /// rayon pool; the tiles are fixed, so on `flex` the bytes don't depend on the thread count. Only those at work are
    /// held in memory.
    ///
    /// `progress` is told the number of images done, from several threads, and answers whether to
    /// go on.
    ///
    /// # Errors
    /// [`ExtractError::Shape`] for images of another size, [`ExtractError::Interrupted`] when
    /// `progress` answers `false`.
    ///
    /// # Panics
    /// Panics if `features` has another shape.
    pub fn features_into(
        &self,
        images: ArrayView4<'_, u8>,
        features: ArrayViewMut2<'_, f32>,
        progress: &(dyn Fn(usize) -> bool + Sync),
    ) -> Result<(), ExtractError> {
        let [h, w] = self.spec.image_size;
        let (n, d) = (images.len_of(Axis(0)), self.feature_dim());
        if images.shape()[1..] != [3, h, w] {
            return Err(ExtractError::Shape { found: images.shape().to_vec(), size: self.spec.image_size });
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
        if runs_on_rayon(&self.device) {
            par_tiles(n, TILE, |rows| {
                let made = self.forward(&pixels(&rows));
                keep(rows, made)
            })?;
            return Ok(());
        }
        // The device is at work on a batch while the next one is prepared.
        let mut under_way: Option<(Range<usize>, Tensor<2>)> = None;
        let batches = (0..n).step_by(GPU_BATCH).map(|start| start..(start + GPU_BATCH).min(n));
        for rows in batches {
            let made = self.on_burn(self.images(pixels(&rows)));
            if let Some((rows, made)) = under_way.replace((rows, made)) {
                keep(rows, down(made))?;
            }
        }
        under_way.map_or(Ok(()), |(rows, made)| keep(rows, down(made)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{self, Backend};
    use ndarray::Array4;

    fn extractor(arch: &str) -> Extractor {
        let device = device::open(Backend::default()).unwrap();
        let spec = ExtractorSpec {
            arch: arch.parse().unwrap(),
            image_size: [8, 8],
            mean: [0.5, 0.4, 0.3],
            std: [0.2, 0.25, 0.3],
        };
        let net = Network::new(spec.arch, spec.image_size, &mut Purpose::Test.of(1), &device);
        Extractor::new(spec, &net, &device)
    }

    fn images(n: usize) -> Array4<u8> {
        Array4::from_shape_fn((n, 3, 8, 8), |(i, c, y, x)| ((i * 37 + c * 101 + y * 17 + x * 29) % 256) as u8)
    }

    #[test]
    fn features_do_not_depend_on_threads_or_on_how_many_are_asked_for() {
        let extractor = extractor("resnet8-w4");
        let images = images(150);
        let extract = |threads, n: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                let some = images.slice_axis(Axis(0), Slice::from(..n));
                extractor.features(some, &|_| true).unwrap()
            })
        };
        let one = extract(1, 150);
        assert_eq!(one.dim(), (150, 16));
        assert_eq!(one, extract(3, 150));
        assert_eq!(one.slice_axis(Axis(0), Slice::from(..70)), extract(3, 70));
    }

    #[test]
    fn extraction_stops_when_asked_and_refuses_other_sizes() {
        let extractor = extractor("resnet8-w4");
        let stopped = extractor.features(images(200).view(), &|done| done < 100);
        assert_eq!(stopped.unwrap_err(), ExtractError::Interrupted);
        let wide = Array4::zeros((1, 3, 8, 9));
        assert_eq!(
            extractor.features(wide.view(), &|_| true).unwrap_err().to_string(),
            "images have the shape [1, 3, 8, 9]: the extractor expects [n, 3, 8, 8]"
        );
    }

    #[test]
    fn normalisation_is_per_channel() {
        let extractor = extractor("resnet8-w4");
        let grey = Tensor::<4>::full([1, 3, 1, 1], 0.5, extractor.device());
        let data = extractor.spec().normalise(grey).into_data();
        let expected = [0.0, 0.1 / 0.25, 0.2 / 0.3];
        for (value, expected) in data.iter::<f32>().zip(expected) {
            assert!((value - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn safetensors_round_trips_and_names_what_is_missing() {
        let extractor = extractor("resnet18-w4");
        let bytes = extractor.to_safetensors().unwrap();
        let load = |spec, bytes: &[u8]| Extractor::from_safetensors(spec, bytes, extractor.device());
        let again = load(extractor.spec().clone(), &bytes).unwrap();
        assert_eq!(again.to_safetensors().unwrap(), bytes);
        let images = images(5);
        let features = |e: &Extractor| e.features(images.view(), &|_| true).unwrap();
        assert_eq!(features(&again), features(&extractor));

        let mut other = extractor.spec().clone();
        other.arch = "resnet20-w4".parse().unwrap();
        let message = load(other, &bytes).unwrap_err().to_string();
        assert!(message.contains("missing: `layer1.2.bn1.bias`"), "{message}");
        assert!(message.contains("unexpected: `layer2.0.downsample.0.weight`"), "{message}");
    }

    /// The gradient of a weighted sum of features agrees with central differences, and taking it
    /// leaves the running statistics alone.
    #[test]
    fn image_gradients_match_finite_differences() {
        let extractor = extractor("resnet8-w4");
        let before = extractor.to_safetensors().unwrap();
        let pixels: Vec<f32> = images(1).iter().map(|&p| f32::from(p) / 255.0).collect();
        let weights: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let gradient = extractor.vjp(&pixels, |_, _| weights.clone());
        let at = |i: usize, step: f32| {
            let mut moved = pixels.clone();
            moved[i] += step;
            extractor.forward(&moved).iter().zip(&weights).map(|(z, w)| z * w).sum::<f32>()
        };
        let largest = gradient.iter().fold(0.0f32, |m, g| m.max(g.abs()));
        for i in [0, 17, 70, 130, 191] {
            let difference = (at(i, 1e-3) - at(i, -1e-3)) / 2e-3;
            assert!(
                (gradient[i] - difference).abs() < 0.02 * largest,
                "pixel {i}: {} against {difference}",
                gradient[i]
            );
        }
        assert_eq!(extractor.to_safetensors().unwrap(), before);
    }

    /// Our own convolutions compute what burn's do.
    #[test]
    fn both_kernels_agree() {
        for arch in ["resnet8-w4", "resnet20", "resnet18-w8", "resnet50-imagenet-w4"] {
            let own = extractor(arch);
            let Network::ResNet(net) = &own.net else { panic!("{arch} is a residual network") };
            let burn = Extractor { kernels: Kernels::Folded(Folded::new(net)), ..own.clone() };
            let pixels: Vec<f32> = images(6).iter().map(|&p| f32::from(p) / 255.0).collect();
            let close = |a: &[f32], b: &[f32]| {
                let largest = b.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                let off = a.iter().zip(b).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
                assert!(a.len() == b.len() && largest > 0.0 && off < 1e-5 * largest, "{arch}: {off} of {largest}");
            };
            close(&own.forward(&pixels), &burn.forward(&pixels));
            // Each image's features by themselves, whichever come together.
            let d = own.feature_dim();
            let by = |row: usize, z: &[f32]| z.iter().enumerate().map(|(i, z)| z + (row + i / d) as f32).collect();
            close(&own.vjp(&pixels, by), &burn.vjp(&pixels, by));
            // And whichever go forward before one goes back.
            let traces = [0, 3].map(|from| own.trace(&pixels[from * 192..(from + 3) * 192]).unwrap());
            let features = traces.iter().flat_map(|trace| trace.features.clone()).collect::<Vec<_>>();
            assert_eq!(features, own.forward(&pixels));
            let back = traces.into_iter().enumerate().rev().map(|(i, trace)| {
                let grad_features = by(3 * i, &trace.features);
                own.backward(trace, &grad_features)
            });
            let back: Vec<Vec<f32>> = back.collect();
            assert_eq!([&back[1][..], &back[0]].concat(), own.vjp(&pixels, by), "{arch}");
        }
    }
}
