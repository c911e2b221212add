//! Works with networks of random weights, on random images.

use crate::{Amount, Limit, PeerInputs, Run, Work};
use anyhow::{Context as _, Result, anyhow};
use hemlock_artifact::Normalization;
use hemlock_decoder as decoder;
use hemlock_fixtures::{self as fixtures, SIDE, extractor_of, images, in_context, pixels, pixels_of, stored};
use hemlock_models::device;
use hemlock_perturb::FrozenExtractor;
use hemlock_stage::{Bar, Cancel, Progress, Silent, Stage};
use hemlock_training::{Method, config::TrainConfig};
use rayon::{ThreadPoolBuilder, current_num_threads};
use serde_json::json;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread::spawn,
};

/// Number of passes through the network in feature matching and refinement.
const PASSES: u32 = 20;
/// Number of images per training step of the decoder.
const DECODED: usize = 128;

/// The size of a work, and the device that it runs on.
#[derive(Debug, Clone)]
pub struct Size {
    /// The architecture of the network.
    pub arch: &'static str,
    /// Number of images in an extraction, an image gradient, a matching, or a step of training.
    pub images: usize,
    /// Side of the images in pixels.
    pub side: usize,
    /// The name of the device.
    pub device: String,
}

impl Size {
    pub(super) fn new(arch: &'static str, images: usize, device: &str) -> Self {
        Self { arch, images, side: SIDE, device: device.to_owned() }
    }

    /// The same for images of another size.
    pub(super) fn at(self, side: usize) -> Self {
        Self { side, ..self }
    }

    fn net(&self) -> String {
        self.arch.replace("clip-resnet", "CLIP's ResNet-").replace("resnet", "ResNet-").replace("vit", "ViT")
    }

    /// Number of operations of `passes` passes of one image. A forward pass counts as one, and so do a backward pass to
    /// the image and one to the weights. `None` for networks that no work on the processor uses.
    fn operations(&self, passes: usize) -> Result<Option<Amount>> {
        let one = match self.arch {
            "resnet20" | "resnet18" => multiplications(self.arch),
            "vit-small-p16" => attended(384, self.side / 16),
            "vit-base-p16" => attended(768, self.side / 16),
            _ => return Ok(None),
        };
        let known = self.device == "flex";
        Ok(known.then_some(Amount { limit: Limit::Single, count: 2.0 * passes as f64 * one }))
    }

    fn given(&self, more: serde_json::Value) -> Result<PeerInputs> {
        let mut numbers = json!({ "arch": self.arch, "images": self.images, "side": self.side });
        if let (Some(numbers), serde_json::Value::Object(more)) = (numbers.as_object_mut(), more) {
            numbers.extend(more);
        }
        Ok(PeerInputs { numbers, ..PeerInputs::default() })
    }
}

/// Number of multiplications of one image's forward pass through a residual network of He et al. (2016): the stem, then
/// groups of blocks of two 3x3 convolutions. Every group except the first halves the sides and doubles the channels,
/// with a projection or without.
fn multiplications(arch: &str) -> f64 {
    let (width, groups, blocks, project) = if arch == "resnet20" { (16, 3, 3, 0) } else { (64, 4, 2, 1) };
    let pixels = |group: usize| (SIDE >> group) * (SIDE >> group);
    let group = |group: usize| {
        let outputs = width << group;
        let inputs = if group == 0 { width } else { outputs / 2 };
        let projection = if group == 0 { 0 } else { project * inputs * outputs };
        pixels(group) * (9 * inputs * outputs + projection + (2 * blocks - 1) * 9 * outputs * outputs)
    };
    (pixels(0) * 9 * 3 * width + (0..groups).map(group).sum::<usize>()) as f64
}

/// Number of multiplications of one image's forward pass through a transformer with 12 blocks and patches of 16 x 16
/// pixels, for a grid of `side * side` patches: the embedding, and for each block its linear maps and its attention.
fn attended(width: usize, side: usize) -> f64 {
    let (patches, tokens) = (side * side, 1 + side * side);
    (patches * 3 * 16 * 16 * width + 12 * tokens * (12 * width * width + 2 * tokens * width)) as f64
}

/// Extraction of features from 8-bit images.
pub(super) struct Extraction(pub(super) Size);

impl Work for Extraction {
    fn what(&self) -> String {
        format!("features of {} images, {}", self.0.images, self.0.net())
    }

    fn amount(&self) -> Result<Option<Amount>> {
        self.0.operations(self.0.images)
    }

    fn prepare(&self) -> Result<Run> {
        let Size { arch, images, side, device } = &self.0;
        let (extractor, images) = (extractor_of(arch, *side, device)?, pixels_of(*images, *side));
        Ok(Box::new(move || {
            extractor.features(images.view(), &|_| true)?;
            Ok(())
        }))
    }

    fn given(&self) -> Result<PeerInputs> {
        self.0.given(json!({}))
    }
}

/// The gradient of a function of the features with respect to the pixels.
pub(super) struct Gradient(pub(super) Size);

impl Work for Gradient {
    fn what(&self) -> String {
        format!("gradient of a function of the features with respect to {} images, {}", self.0.images, self.0.net())
    }

    fn amount(&self) -> Result<Option<Amount>> {
        self.0.operations(2 * self.0.images)
    }

    fn prepare(&self) -> Result<Run> {
        let Size { arch, images, side, device } = self.0.clone();
        let extractor = extractor_of(arch, side, &device)?;
        let normalization = Normalization::identity(extractor.feature_dim());
        let pixels: Vec<f32> = pixels_of(images, side).iter().map(|p| f32::from(*p) / 255.0).collect();
        Ok(Box::new(move || {
            let frozen = FrozenExtractor::new(&extractor, &normalization);
            // The gradient of half the squared norm with respect to features is the features themselves.
            frozen.vjp_tiled(&pixels, images, |_, z| (z.to_vec(), ()))?;
            Ok(())
        }))
    }

    fn given(&self) -> Result<PeerInputs> {
        self.0.given(json!({}))
    }
}

/// The stage `invert`, on poisoned features that are the features of other images. It matches each image by itself or,
/// if `refined`, moves all images together on the objective of Gradient Canceling.
pub(super) struct Matching {
    pub(super) size: Size,
    pub(super) refined: bool,
}

impl Work for Matching {
    fn what(&self) -> String {
        let what = if self.refined { "refinement" } else { "feature matching" };
        format!("{what}, {} images, {PASSES} passes, {}", self.size.images, self.size.net())
    }

    fn amount(&self) -> Result<Option<Amount>> {
        self.size.operations(2 * self.size.images * PASSES as usize)
    }

    fn prepare(&self) -> Result<Run> {
        let Size { arch, images, side, device } = self.size.clone();
        let extractor = extractor_of(arch, side, &device)?;
        let params = if self.refined {
            json!({ "method": "feature-matching", "refine": PASSES, "refine_from": "base" })
        } else {
            json!({ "method": "feature-matching", "steps": PASSES, "tolerance": 0.0 })
        };
        let params: hemlock_invert::Params = serde_json::from_value(params)?;
        let (stored, features) =
            (stored(&extractor)?, extractor.features(pixels_of(2 * images, side).view(), &|_| true)?);
        let inputs = move || -> Result<hemlock_invert::Inputs> {
            let given = fixtures::AttackInputs::of(stored.clone(), features.view(), 2 * images)?;
            let poison_features = given.poisons(images);
            let fixtures::AttackInputs { dataset, extractor, features, target } = given;
            let target = Some(target);
            Ok(hemlock_invert::Inputs { dataset, extractor, features, poison_features, decoder: None, target })
        };
        Ok(Box::new(move || {
            let inputs = inputs()?;
            in_context(&device, &Silent, &Cancel::default(), |ctx| hemlock_invert::Stage::run(&params, inputs, ctx))?;
            Ok(())
        }))
    }

    fn given(&self) -> Result<PeerInputs> {
        self.size.given(json!({ "passes": PASSES }))
    }
}

/// One epoch of the stage `decoder`.
pub(super) struct Decoding(pub(super) Size);

impl Work for Decoding {
    fn what(&self) -> String {
        format!("an epoch of a decoder, {} images, {}", self.0.images, self.0.net())
    }

    fn amount(&self) -> Result<Option<Amount>> {
        Ok(None)
    }

    fn prepare(&self) -> Result<Run> {
        let Size { arch, images, side, device } = self.0.clone();
        let extractor = extractor_of(arch, side, &device)?;
        let params = json!({ "epochs": 1, "batch": DECODED.min(images) });
        let params: decoder::Params = serde_json::from_value(params)?;
        let (stored, features) =
            (stored(&extractor)?, extractor.features(pixels_of(images + 1, side).view(), &|_| true)?);
        Ok(Box::new(move || {
            let given = fixtures::AttackInputs::of(stored.clone(), features.view(), images)?;
            let fixtures::AttackInputs { dataset, extractor, features, .. } = given;
            let inputs = decoder::Inputs { dataset, extractor, features };
            in_context(&device, &Silent, &Cancel::default(), |ctx| decoder::Stage::run(&params, inputs, ctx))?;
            Ok(())
        }))
    }

    fn given(&self) -> Result<PeerInputs> {
        self.0.given(json!({ "batch": DECODED.min(self.0.images) }))
    }
}

/// One step of pre-training on two views of images.
pub(super) struct Pretraining {
    pub(super) method: Method,
    pub(super) size: Size,
}

impl Work for Pretraining {
    fn what(&self) -> String {
        let name = if self.method == Method::Simclr { "SimCLR" } else { "MoCo v3" };
        format!("{name} step, {} images in two views, {}", self.size.images, self.size.net())
    }

    fn amount(&self) -> Result<Option<Amount>> {
        self.size.operations(3 * 2 * self.size.images)
    }

    fn prepare(&self) -> Result<Run> {
        let (method, Size { arch, images: batch, device, .. }) = (self.method, self.size.clone());
        let config = TrainConfig {
            arch: arch.parse()?,
            batch,
            // More epochs than any benchmark runs, so that training does not end.
            epochs: 1_000_000,
            ..TrainConfig::default()
        };
        let images = images(pixels(50 * batch));
        let steps = Steps::of(move |progress, cancel| {
            let opened = device::open_named(&device)?;
            in_context(&device, progress, cancel, |ctx| {
                hemlock_training::pretrain(method, &config, &images, None, &[opened], ctx)
            })?;
            Ok(())
        })?;
        Ok(Box::new(move || steps.next()))
    }

    fn given(&self) -> Result<PeerInputs> {
        self.size.given(json!({}))
    }
}

/// A training in another thread, which waits after every step. Dropping this ends it.
struct Steps {
    go: Sender<()>,
    done: Receiver<()>,
}

impl Steps {
    /// Starts a training and waits for its first step.
    fn of(training: impl FnOnce(&dyn Progress, &Cancel) -> Result<()> + Send + 'static) -> Result<Self> {
        let ((go, asked), (taken, done)) = (channel(), channel());
        let cancel = Cancel::default();
        let gate = Gate(Arc::new(Mutex::new(Ends { asked, taken, cancel: cancel.clone() })));
        // A pool of its own: whoever waits for a step may be a thread of the usual one.
        let pool = ThreadPoolBuilder::new().num_threads(current_num_threads()).build()?;
        spawn(move || pool.install(|| training(&gate, &cancel)));
        let steps = Self { go, done };
        steps.done.recv().context("the training ended before its first step")?;
        Ok(steps)
    }

    fn next(&self) -> Result<()> {
        self.go.send(()).map_err(|_| anyhow!("the training has ended"))?;
        self.done.recv().context("the training ended in a step")
    }
}

/// A progress bar of such a training, which is called after every step and waits there.
struct Gate(Arc<Mutex<Ends>>);

struct Ends {
    asked: Receiver<()>,
    taken: Sender<()>,
    cancel: Cancel,
}

impl Progress for Gate {
    fn start(&self, _: &str, _: u64, _: &'static str) -> Box<dyn Bar> {
        Box::new(Self(Arc::clone(&self.0)))
    }
}

impl Bar for Gate {
    fn at(&self, _: u64) {
        let Ends { asked, taken, cancel } = &*self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.send(()).is_err() || asked.recv().is_err() {
            cancel.request();
        }
    }

    fn say(&self, _: String) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// He et al. (2016), table 6, give 0.27 million weights for ResNet-20. Its number of multiplications is known to be
    /// 41 million, and that of ResNet-18 with the small stem 0.56 billion.
    #[test]
    fn multiplications_are_those_of_the_literature() {
        assert!((multiplications("resnet20") / 40.6e6 - 1.0).abs() < 0.01);
        assert!((multiplications("resnet18") / 0.556e9 - 1.0).abs() < 0.01);
        // Of 4.6 and 17.6 billion, timm's table has these for images of 224 pixels.
        assert!((attended(384, 14) / 4.61e9 - 1.0).abs() < 0.01);
        assert!((attended(768, 14) / 17.58e9 - 1.0).abs() < 0.01);
    }

    #[test]
    fn a_training_waits_between_steps_and_ends_when_dropped() {
        let (say, heard) = channel();
        let steps = Steps::of(move |progress, cancel| {
            let bar = progress.start("", 0, "");
            for step in 0.. {
                say.send(step)?;
                bar.at(step);
                if cancel.requested() {
                    break;
                }
            }
            Ok(())
        });
        let steps = steps.unwrap();
        steps.next().unwrap();
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), [0, 1]);
        drop(steps);
        assert_eq!(heard.iter().count(), 0);
    }
}
