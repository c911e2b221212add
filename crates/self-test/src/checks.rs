//! The checks. Inputs come from fixed seeds, and all random numbers are drawn on the processor, so that all devices get
//! the same.
//!
//! Tolerances allow for products in TF32, whose 10 bits of mantissa cause an error of about 5e-4 per product. They also
//! allow for what follows from this error in several steps, or where the sign of a small number matters. A wrong sign,
//! a missing term or a wrong axis causes a difference of the order of 1.

use crate::{Arrays, Check};
use hemlock_artifact::Poisons;
use hemlock_fixtures::{AttackInputs, extractor, images, in_context, pixels};
use hemlock_head::testing::{GaussianClusters, random};
use hemlock_head::{Head, HeadError};
use hemlock_head_device::passes_on;
use hemlock_models::{Weights, device};
use hemlock_perturb::{FrozenExtractor, base_images};
use hemlock_stage::{Cancel, Context, Params, Silent, Stage, StageError, read};
use hemlock_training::{Method, TrainConfig, config::OptimizerKind};
use serde_json::{Value, json};

/// One network of every kind.
const NETWORKS: [&str; 6] = ["resnet8", "resnet20", "resnet18", "resnet18-imagenet", "resnet50", "vit-tiny-p4-d4"];
/// The network of all checks that are not about architectures.
const SMALL: &str = "resnet8";
/// Number of images in a pass of a network.
const IMAGES: usize = 16;
/// Number of images in a step of training, and in a stage.
const BATCH: usize = 64;
/// Number of images that are poisoned.
const POISONS: usize = 8;

/// Tolerance after one forward pass.
const PASS: f64 = 2e-3;
/// Tolerance after a forward and a backward pass, or one step.
const STEP: f64 = 1e-2;
/// Tolerance after several steps, each of which continues from the last.
const STEPS: f64 = 5e-2;
/// Tolerance if the sign of a number that may be near 0 matters, as in the backward pass of a ReLU and in the direction
/// of an AdamW step. With products in TF32, a share of 5e-4 of the signs is different. This makes a difference of its
/// square root, and more after many layers:
///
/// - 0.07 (ResNet-20) to 0.13 (ResNet-50) of the gradient with respect to pixels, also if PyTorch rounds to TF32;
/// - up to 0.28 of the change of images that Adam moves along this gradient.
///
/// Random signs would make a difference of 1.4.
const SIGNS: f64 = 4e-1;

pub(crate) fn all() -> Vec<Check> {
    let networks = NETWORKS.iter().flat_map(|arch| [features(arch), image_gradient(arch)]);
    let steps = [
        (Method::Simclr, OptimizerKind::Sgd),
        (Method::MocoV3, OptimizerKind::Sgd),
        (Method::Supervised, OptimizerKind::Sgd),
        // The steps of these depend on the gradient's direction, so its entries must not be near 0, as they are for
        // views of noise.
        (Method::Supervised, OptimizerKind::AdamW),
        (Method::Supervised, OptimizerKind::Lars),
    ];
    let matching = |fields: Value| {
        let mut table = json!({ "method": "feature-matching", "clip": false, "steps": 4, "tolerance": 0.0 });
        extend(&mut table, fields);
        table
    };
    let inversions = [
        ("feature matching, L-BFGS", matching(json!({}))),
        ("feature matching, Adam", matching(json!({ "optimizer": "adam" }))),
        ("refinement", matching(json!({ "steps": 1, "refine": 3 }))),
    ];
    let attacks = ["gradient-canceling", "bilevel", "tgda"];
    networks
        .chain(steps.into_iter().map(|(method, optimizer)| step(method, optimizer)))
        .chain([decoder(), head()])
        .chain(inversions.into_iter().map(|(name, params)| inversion(name, params)))
        .chain(attacks.into_iter().map(attack_on_pixels))
        .collect()
}

fn features(arch: &'static str) -> Check {
    Check::new(format!("features, {arch}"), PASS, move |device, _| {
        let features = extractor(arch, device)?.features(pixels(IMAGES).view(), &|_| true)?;
        Ok(vec![("features".to_owned(), features.into_raw_vec_and_offset().0)])
    })
}

/// Checks the gradient of a weighted sum of the features. The features' norm would not do: after a final layer norm it
/// hardly depends on the pixels.
fn image_gradient(arch: &'static str) -> Check {
    let tolerance = if arch.starts_with("resnet") { SIGNS } else { STEP };
    Check::new(format!("image gradient, {arch}"), tolerance, move |device, _| {
        let extractor = extractor(arch, device)?;
        let normalization = hemlock_artifact::Normalization::identity(extractor.feature_dim());
        let pixels: Vec<f32> = pixels(IMAGES).iter().map(|p| f32::from(*p) / 255.0).collect();
        let frozen = FrozenExtractor::new(&extractor, &normalization);
        let dim = extractor.feature_dim();
        let weights = |z: &[f32]| (0..z.len()).map(|i| ((i % dim) as f32).sin()).collect();
        let (gradient, _) = frozen.vjp_tiled(&pixels, IMAGES, |_, z| (weights(z), ()))?;
        Ok(vec![("gradient".to_owned(), gradient)])
    })
}

/// Checks the change of all weights in one step of training. For plain gradient descent it is proportional to the
/// gradient.
fn step(method: Method, optimizer: OptimizerKind) -> Check {
    let (name, tolerance) = match optimizer {
        OptimizerKind::Sgd => ("gradient descent", STEP),
        OptimizerKind::AdamW => ("AdamW", SIGNS),
        OptimizerKind::Lars => ("LARS", STEP),
    };
    Check::new(format!("a step of {}, {name}", method.name()), tolerance, move |name, cancel| {
        let config = TrainConfig {
            arch: parsed(SMALL)?,
            epochs: 1,
            batch: BATCH,
            optimizer,
            weight_decay: 0.0,
            warmup_epochs: 0,
            allow_collapse: true,
            ..TrainConfig::default()
        };
        let (images, opened) = (images(pixels(BATCH)), device::open_named(name)?);
        let before = hemlock_training::random(&config, images.pixels.view(), &opened)?;
        let after = in_context(name, &Silent, cancel, |ctx| {
            hemlock_training::pretrain(method, &config, &images, None, &[opened], ctx)
        })?;
        let (before, after) = (Weights::from_safetensors(&before.weights)?, Weights::from_safetensors(&after.weights)?);
        let changed = after.0.iter().zip(before.0.values());
        let changed =
            changed.flat_map(|((_, after), before)| after.values.iter().zip(&before.values).map(|(a, b)| a - b));
        Ok(vec![("change of the weights".to_owned(), changed.collect())])
    })
}

/// Checks a decoder after two steps of training.
fn decoder() -> Check {
    let params = json!({ "epochs": 1, "batch": BATCH / 2, "width": 16 });
    Check::new("two steps of a decoder", STEPS, move |device, cancel| {
        let AttackInputs { dataset, extractor, features, .. } = given()?;
        let inputs = hemlock_decoder::Inputs { dataset, extractor, features };
        let decoder = run::<hemlock_decoder::Stage>(&params, inputs, device, cancel)?;
        let weights = Weights::from_safetensors(&decoder.weights)?;
        let errors = vec![decoder.norm];
        let mut arrays = vec![("norm".to_owned(), errors)];
        arrays.push(("weights".to_owned(), weights.0.into_values().flat_map(|weight| weight.values).collect()));
        Ok(arrays)
    })
}

/// Checks a pass of a head over labelled features, and a product with its Hessian.
fn head() -> Check {
    Check::new("a pass of a head", STEP, |device, _| {
        let wrong = |e: HeadError| StageError::internal(e.to_string());
        let data = GaussianClusters::new(1024, 64, 10, 0);
        let head = Head::from_packed(random(10, 65, 1)).map_err(wrong)?;
        let blocks = [data.samples()];
        let device = device::open_named(device)?;
        let passes = passes_on(&device, &blocks);
        let found = passes.rough(&head).map_err(wrong)?;
        let product = passes.rough_hessian_vector(&head, random(10, 65, 2).view()).map_err(wrong)?;
        Ok(vec![
            ("loss".to_owned(), vec![found.loss as f32]),
            ("gradient".to_owned(), found.gradient.iter().map(|g| *g as f32).collect()),
            ("Hessian product".to_owned(), product.iter().map(|p| *p as f32).collect()),
        ])
    })
}

fn inversion(name: &'static str, params: Value) -> Check {
    Check::new(name, SIGNS, move |device, cancel| {
        let given = given()?;
        let (base, poison_features) = (base(&given)?, given.poisons(POISONS));
        let AttackInputs { dataset, extractor, features, target } = given;
        let target = Some(target);
        let inputs = hemlock_invert::Inputs { dataset, extractor, features, poison_features, decoder: None, target };
        moved(&run::<hemlock_invert::Stage>(&params, inputs, device, cancel)?, &base)
    })
}

fn attack_on_pixels(attack: &'static str) -> Check {
    let params =
        json!({ "attack": attack, "poison_fraction": POISONS as f64 / BATCH as f64, "clip": false, "steps": 4 });
    Check::new(format!("attack on pixels, {attack}"), SIGNS, move |device, cancel| {
        let given = given()?;
        let base = base(&given)?;
        let AttackInputs { dataset, extractor, features, target } = given;
        let inputs = hemlock_poison_images::Inputs { dataset, extractor, features, target };
        moved(&run::<hemlock_poison_images::Stage>(&params, inputs, device, cancel)?, &base)
    })
}

/// The inputs of stages. They are always made on the processor, whichever device is tested.
fn given() -> Result<AttackInputs, StageError> {
    AttackInputs::new(&extractor(SMALL, crate::REFERENCE)?, BATCH, 0)
}

/// The pixels of all training images, in `[0, 1]`.
fn base(given: &AttackInputs) -> Result<Vec<Vec<f32>>, StageError> {
    let rows: Vec<u32> = (0..BATCH as u32).collect();
    let images = base_images(&given.dataset.train, &rows)?;
    Ok(images.outer_iter().map(|image| image.iter().map(|p| f32::from(*p) / 255.0).collect()).collect())
}

/// The difference between the pixels of poisons and of their base images.
fn moved(poisons: &Poisons, base: &[Vec<f32>]) -> Result<Arrays, StageError> {
    let pixels = poisons.pixels.as_ref().ok_or_else(|| StageError::internal("the poisons have no unclipped pixels"))?;
    let from = poisons.base_index.iter().map(|i| &base[*i as usize]);
    let moved = pixels
        .outer_iter()
        .zip(from)
        .flat_map(|(image, base)| image.iter().zip(base).map(|(x, base)| x - base).collect::<Vec<f32>>());
    Ok(vec![("change of the pixels".to_owned(), moved.collect())])
}

fn run<S: Stage>(params: &Value, inputs: S::Inputs, device: &str, cancel: &Cancel) -> Result<S::Output, StageError> {
    let params: S::Params = read(params)?;
    params.check()?;
    in_context(device, &Silent, cancel, |ctx: &Context| S::run(&params, inputs, ctx))
}

fn parsed<T: std::str::FromStr>(name: &str) -> Result<T, StageError>
where
    T::Err: std::fmt::Display,
{
    name.parse().map_err(|e: T::Err| StageError::internal(e.to_string()))
}

fn extend(table: &mut Value, fields: Value) {
    if let (Some(table), Value::Object(fields)) = (table.as_object_mut(), fields) {
        table.extend(fields);
    }
}
