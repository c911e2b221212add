//! Networks of random weights on random images of CIFAR's size.

use super::heads::CLASSES;
use crate::{Amount, Given, Limit, Run, Work};
use anyhow::{Context as _, Result, anyhow};
use hemlock_artifact::{Aim, Dataset, FeatureSplit, Features, Images, Normalization, PoisonFeatures};
use hemlock_invert::Frozen;
use hemlock_models::{Backend, Extractor, ExtractorSpec, Network, device};
use hemlock_pretrain::{Method, config::TrainConfig};
use hemlock_stage::{Bar, Cancel, Context, Environment, NoCheckpoints, Progress, Silent, Stage};
use ndarray::{Array2, Array4, Axis, Slice};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread::spawn,
};

const SIDE: usize = 32;
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

fn extractor(arch: &str) -> Result<Extractor> {
    let device = device::open(Backend::Flex)?;
    let spec = ExtractorSpec { arch: arch.parse()?, image_size: [SIDE; 2], mean: [0.5; 3], std: [0.25; 3] };
    let net = Network::new(spec.arch, spec.image_size, &mut ChaCha8Rng::seed_from_u64(0), &device);
    Ok(Extractor::new(spec, &net, &device))
}

fn images(count: usize) -> Array4<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    Array4::from_shape_simple_fn((count, 3, SIDE, SIDE), || rng.random())
}

fn labels(count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| i % CLASSES as u32).collect()
}

fn labelled(pixels: Array4<u8>) -> Images {
    let count = pixels.len_of(Axis(0));
    Images { pixels: pixels.into(), labels: labels(count), source_index: (0..count as u32).collect() }
}

/// Runs with what surrounds a stage.
fn in_context<T>(progress: &dyn Progress, cancel: &Cancel, run: impl FnOnce(&Context) -> T) -> T {
    run(&Context {
        seed: 0,
        device: "flex",
        env: &Environment::default(),
        progress,
        cancel,
        checkpoints: &NoCheckpoints,
        scratch: &std::env::temp_dir(),
    })
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
        let (extractor, images) = (extractor("resnet20")?, images(IMAGES));
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
        let extractor = extractor("resnet20")?;
        let normalization = Normalization::identity(extractor.feature_dim());
        let pixels: Vec<f32> = images(IMAGES).iter().map(|p| f32::from(*p) / 255.0).collect();
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
        let pixels = images(2 * MATCHED);
        let extractor = extractor("resnet20")?;
        let features = extractor.features(pixels.view(), &|_| true)?;
        let weights = extractor.to_safetensors()?;
        let params = json!({ "method": "feature-matching", "steps": PASSES, "tolerance": 0.0 });
        let params: hemlock_invert::Params = serde_json::from_value(params)?;
        let inputs = move || {
            let nothing = || labelled(Array4::zeros((0, 3, SIDE, SIDE)));
            let classes: Vec<String> = (0..CLASSES).map(|class| class.to_string()).collect();
            let split = |features: Array2<f32>| {
                let labels = labels(features.nrows());
                FeatureSplit::all(features.into(), labels)
            };
            let empty = || split(Array2::zeros((0, features.ncols())));
            let spec = extractor.spec();
            hemlock_invert::Inputs {
                dataset: Dataset {
                    name: "random".to_owned(),
                    classes: classes.clone(),
                    train: labelled(pixels.clone()),
                    validation: nothing(),
                    test: nothing(),
                    skipped: 0,
                },
                extractor: hemlock_artifact::Extractor {
                    arch: spec.arch.to_string(),
                    method: "random".to_owned(),
                    dim: features.ncols(),
                    image_size: SIDE,
                    mean: spec.mean,
                    std: spec.std,
                    weights: weights.clone(),
                    curve: Vec::new(),
                    verified: None,
                },
                features: Features {
                    classes,
                    normalization: Normalization::identity(features.ncols()),
                    train: split(features.clone()),
                    validation: empty(),
                    test: empty(),
                },
                poison_features: PoisonFeatures {
                    features: features.slice_axis(Axis(0), Slice::from(MATCHED..)).to_owned(),
                    labels: labels(MATCHED),
                    base_index: (0..MATCHED as u32).collect(),
                    aim: Aim {
                        attack: "gradient-canceling".to_owned(),
                        parameters: serde_json::Map::new(),
                        seed: 0,
                        constraint: Default::default(),
                        quantile: 1.0,
                        neighbors: 1,
                    },
                    clean_label: true,
                    eps_d: 0.5,
                    objective: 0.0,
                    bound: None,
                    gap: None,
                    stopped: "steps".to_owned(),
                    curve: Vec::new(),
                },
                decoder: None,
                target: None,
            }
        };
        Ok(Box::new(move || {
            in_context(&Silent, &Cancel::default(), |ctx| hemlock_invert::Stage::run(&params, inputs(), ctx))?;
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
        let images = labelled(images(50 * BATCH));
        let steps = Steps::of(move |progress, cancel| {
            let device = device::open(Backend::Flex)?;
            in_context(progress, cancel, |ctx| {
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
