//! Networks of random weights on random images of CIFAR's size.

use crate::{Amount, Given, Limit, Run, Work};
use anyhow::{Context as _, Result, anyhow};
use hemlock_artifact::Normalization;
use hemlock_fixtures::{self as fixtures, SIDE, extractor, images, in_context, pixels, stored};
use hemlock_invert::Frozen;
use hemlock_models::device;
use hemlock_pretrain::{Method, config::TrainConfig};
use hemlock_stage::{Bar, Cancel, Progress, Silent, Stage};
use serde_json::json;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread::spawn,
};

/// What all of this runs on.
const DEVICE: &str = "flex";
/// Images of an extraction, and of image gradients.
const IMAGES: usize = 256;
/// Images of a training step, each in two views.
const BATCH: usize = 128;
/// Images that are matched, and how often they go through the network.
const MATCHED: usize = 64;
const PASSES: u32 = 20;

/// Multiplications of one image's way through a residual network of He et al. (2016): the stem, then groups of blocks of two 3x3
/// convolutions. Every group but the first halves the sides and doubles the channels, with or without a projection beside it.
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

/// Operations of so many passes of one image: forward is one, back to the image one, and to the weights one.
fn operations(arch: &str, passes: usize) -> Amount {
    Amount { limit: Limit::Single, count: 2.0 * passes as f64 * multiplications(arch) }
}

/// Features of 8-bit images.
pub(super) struct Extraction;

impl Work for Extraction {
    fn what(&self) -> String {
        format!("features of {IMAGES} images, ResNet-20")
    }

    fn amount(&self) -> Result<Option<Amount>> {
        Ok(Some(operations("resnet20", IMAGES)))
    }

    fn prepare(&self) -> Result<Run> {
        let (extractor, images) = (extractor("resnet20", DEVICE)?, pixels(IMAGES));
        Ok(Box::new(move || {
            extractor.features(images.view(), &|_| true)?;
            Ok(())
        }))
    }

    fn given(&self) -> Result<Given> {
        Ok(Given { numbers: json!({ "images": IMAGES }), ..Given::default() })
    }
}

/// The derivative by the pixels of a function of the features.
pub(super) struct Gradient;

impl Work for Gradient {
    fn what(&self) -> String {
        format!("gradient by {IMAGES} images of a function of their features, ResNet-20")
    }

    fn amount(&self) -> Result<Option<Amount>> {
        Ok(Some(operations("resnet20", 2 * IMAGES)))
    }

    fn prepare(&self) -> Result<Run> {
        let extractor = extractor("resnet20", DEVICE)?;
        let normalization = Normalization::identity(extractor.feature_dim());
        let pixels: Vec<f32> = pixels(IMAGES).iter().map(|p| f32::from(*p) / 255.0).collect();
        Ok(Box::new(move || {
            let frozen = Frozen::new(&extractor, &normalization);
            // Half the squared length.
            frozen.pull_in_tiles(&pixels, IMAGES, |_, z| (z.to_vec(), ()))?;
            Ok(())
        }))
    }

    fn given(&self) -> Result<Given> {
        Extraction.given()
    }
}

/// The stage `invert` on poisoned features that are those of other images.
pub(super) struct Matching;

impl Work for Matching {
    fn what(&self) -> String {
        format!("feature matching, {MATCHED} images, {PASSES} passes, ResNet-20")
    }

    fn amount(&self) -> Result<Option<Amount>> {
        Ok(Some(operations("resnet20", 2 * MATCHED * PASSES as usize)))
    }

    fn prepare(&self) -> Result<Run> {
        let extractor = extractor("resnet20", DEVICE)?;
        let params = json!({ "method": "feature-matching", "steps": PASSES, "tolerance": 0.0 });
        let params: hemlock_invert::Params = serde_json::from_value(params)?;
        let (stored, features) = (stored(&extractor)?, extractor.features(pixels(2 * MATCHED).view(), &|_| true)?);
        let inputs = move || -> Result<hemlock_invert::Inputs> {
            let given = fixtures::Given::of(stored.clone(), features.view(), 2 * MATCHED)?;
            let poison_features = given.poisons(MATCHED);
            let fixtures::Given { dataset, extractor, features, .. } = given;
            Ok(hemlock_invert::Inputs { dataset, extractor, features, poison_features, decoder: None, target: None })
        };
        Ok(Box::new(move || {
            let inputs = inputs()?;
            in_context(DEVICE, &Silent, &Cancel::default(), |ctx| hemlock_invert::Stage::run(&params, inputs, ctx))?;
            Ok(())
        }))
    }

    fn given(&self) -> Result<Given> {
        Ok(Given { numbers: json!({ "images": MATCHED, "passes": PASSES }), ..Given::default() })
    }
}

/// A step of SimCLR of an architecture.
pub(super) struct Simclr(pub(super) &'static str);

impl Work for Simclr {
    fn what(&self) -> String {
        format!("SimCLR step, {BATCH} images in two views, {}", self.0.replace("resnet", "ResNet-"))
    }

    fn amount(&self) -> Result<Option<Amount>> {
        Ok(Some(operations(self.0, 3 * 2 * BATCH)))
    }

    fn prepare(&self) -> Result<Run> {
        let config = TrainConfig {
            arch: self.0.parse()?,
            batch: BATCH,
            // More than anybody asks for.
            epochs: 1_000_000,
            ..TrainConfig::default()
        };
        let images = images(pixels(50 * BATCH));
        let steps = Steps::of(move |progress, cancel| {
            let device = device::open_named(DEVICE)?;
            in_context(DEVICE, progress, cancel, |ctx| {
                hemlock_pretrain::pretrain(Method::Simclr, &config, &images, None, &[device], ctx)
            })?;
            Ok(())
        })?;
        Ok(Box::new(move || steps.next()))
    }

    fn given(&self) -> Result<Given> {
        Ok(Given { numbers: json!({ "batch": BATCH }), ..Given::default() })
    }
}

/// A training that waits after every step. Dropped, it ends.
struct Steps {
    go: Sender<()>,
    done: Receiver<()>,
}

impl Steps {
    /// Starts a training, and takes its first step.
    fn of(training: impl FnOnce(&dyn Progress, &Cancel) -> Result<()> + Send + 'static) -> Result<Self> {
        let ((go, asked), (taken, done)) = (channel(), channel());
        let cancel = Cancel::default();
        let gate = Gate(Arc::new(Mutex::new(Ends { asked, taken, cancel: cancel.clone() })));
        spawn(move || training(&gate, &cancel));
        let steps = Self { go, done };
        steps.done.recv().context("the training ended before its first step")?;
        Ok(steps)
    }

    fn next(&self) -> Result<()> {
        self.go.send(()).map_err(|_| anyhow!("the training has ended"))?;
        self.done.recv().context("the training ended in a step")
    }
}

/// The progress of such a training, which hears of every step.
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

    /// He et al. (2016), table 6, has 0.27 million weights for ResNet-20; its operations are known to be 41 million, those of
    /// ResNet-18 with the small stem 0.56 billion.
    #[test]
    fn multiplications_are_those_of_the_literature() {
        assert!((multiplications("resnet20") / 40.6e6 - 1.0).abs() < 0.01);
        assert!((multiplications("resnet18") / 0.556e9 - 1.0).abs() < 0.01);
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
