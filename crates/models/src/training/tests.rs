//! Compares the operation with burn's own operations, layer by layer.

use std::collections::HashMap;

use super::*;
use crate::device::{self, Backend};
use crate::weights::{Path, Weights};
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Gradients;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use std::collections::{BTreeMap, BTreeSet};

/// Gradients by the names of their parameters.
struct Collect<'a>(Path, &'a Gradients, BTreeMap<String, Vec<f32>>);

impl ModuleVisitor for Collect<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.0.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.0.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.val().grad(self.1) {
            self.2.insert(self.0.name(), values(gradient));
        }
    }
}

/// A network in training mode, with the same weights in every call.
fn build(arch: &str) -> ResNet {
    let device = device::open(Backend::default()).unwrap();
    let net = ResNet::new(arch.parse().unwrap(), &mut ChaCha8Rng::seed_from_u64(3), &device);
    let mut weights = Weights::collect(&net);
    for (name, weight) in weights.0.iter_mut().filter(|(name, _)| name.contains("bn")) {
        for (i, value) in weight.values.iter_mut().enumerate() {
            *value += if name.ends_with("weight") { 0.3 } else { 0.2 } * ((7 * i) as f32).sin();
        }
    }
    weights.load(net).unwrap().valid().train()
}

/// Features of six images, the gradients of a weighted sum of these with respect to images and parameters, and all
/// tensors of the network afterwards.
fn results(arch: &str, forward: impl Fn(&ResNet, &Tensor<4>) -> Tensor<2>) -> BTreeMap<String, Vec<f32>> {
    results_of(
        arch,
        [
            3,
            if arch.contains("imagenet") {
                96
            } else if arch.contains("pool") {
                48
            } else {
                12
            },
        ],
        forward,
    )
}

/// The same results for square images with the given number of channels and side.
fn results_of(
    arch: &str,
    [channels, side]: [usize; 2],
    forward: impl Fn(&ResNet, &Tensor<4>) -> Tensor<2>,
) -> BTreeMap<String, Vec<f32>> {
    let net = build(arch);
    let device = device::open(Backend::default()).unwrap().autodiff();
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let pixels: Vec<f32> = StandardNormal.sample_iter(&mut rng).take(6 * channels * side * side).collect();
    let images = Tensor::<4>::from_data(TensorData::new(pixels, [6, channels, side, side]), &device).require_grad();
    let features = forward(&net, &images);
    let [n, d] = features.dims();
    let share = Tensor::arange(0..(n * d) as i64, &device).float().reshape([n, d]).sin();
    let gradients = (features.clone() * share).sum().backward();
    let mut collect = Collect(Path::default(), &gradients, BTreeMap::new());
    net.visit(&mut collect);
    let mut all: BTreeMap<_, _> = collect.2.into_iter().map(|(name, values)| (format!("by {name}"), values)).collect();
    all.insert("features".into(), values(features));
    all.insert("by images".into(), values(images.grad(&gradients).unwrap()));
    all.extend(Weights::collect(&net).0.into_iter().map(|(name, weight)| (name, weight.values)));
    all
}

fn assert_close(own: &BTreeMap<String, Vec<f32>>, burn: &BTreeMap<String, Vec<f32>>, arch: &str) {
    assert!(own.keys().eq(burn.keys()), "{arch}");
    for (name, burn) in burn {
        let largest = burn.iter().fold(1e-3f32, |m, x| m.max(x.abs()));
        let off = own[name].iter().zip(burn).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(own[name].len() == burn.len() && off < 1e-4 * largest, "{arch}, {name}: {off} of {largest}");
    }
}

#[test]
fn features_derivatives_and_running_statistics_are_those_of_burn() {
    for arch in [
        "resnet8-w4",
        "resnet8-b-w4",
        "resnet14",
        "resnet18-w20",
        "resnet18-pool-w4",
        "resnet18-pad2-w4",
        "resnet50-imagenet-w4",
        "resnet50-wide-w4",
    ] {
        let own = results(arch, |net, images| forward(net, images).unwrap());
        let burn = results(arch, |net, images| net.forward_by_layers(images.clone()));
        assert!(own.contains_key("by layer3.0.conv2.weight"), "{arch}");
        assert_close(&own, &burn, arch);
    }
}

/// With either kind of shortcut that the first of these blocks has, and inputs of both signs.
#[test]
fn so_are_those_of_the_last_blocks() {
    for (arch, blocks, channels, trained) in [
        ("resnet8-w4", 2, 8, &["layer3"][..]),
        ("resnet8-b-w4", 2, 8, &["layer3"]),
        ("resnet8-w4", 1, 4, &["layer2", "layer3"]),
        ("resnet14", 5, 64, &["layer3"]),
        ("resnet14", 3, 32, &["layer2", "layer3"]),
        ("resnet18-w4", 7, 32, &["layer4"]),
        ("resnet50-w4", 15, 128, &["layer4"]),
        ("resnet50-w4", 7, 32, &["layer3", "layer4"]),
    ] {
        let own = results_of(arch, [channels, 6], |net, x| after(net, blocks, x).unwrap());
        let burn = results_of(arch, [channels, 6], |net, x| net.after_by_layers(blocks, x.clone()));
        let by: BTreeSet<&str> = own.keys().filter_map(|name| name.strip_prefix("by ")?.get(..6)).collect();
        let by: Vec<&str> = by.into_iter().filter(|name| name.starts_with("layer")).collect();
        assert_eq!(by, trained, "{arch} after {blocks}");
        assert_close(&own, &burn, arch);
    }
}

#[test]
fn threads_change_nothing() {
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| results("resnet14", |net, images| forward(net, images).unwrap()))
    };
    assert_eq!(on(1), on(4));
}

/// Tensors return to the pool, and their borders are still zero.
#[test]
fn a_second_pass_is_the_first_one_again() {
    let net = build("resnet8-w4");
    let device = device::open(Backend::default()).unwrap().autodiff();
    let images = Tensor::<4>::ones([5, 3, 8, 8], &device) * Tensor::arange(0..8, &device).float().reshape([1, 1, 1, 8]);
    let pass = || {
        let features = forward(&net, &images).unwrap();
        let gradients = features.clone().powi_scalar(2).sum().backward();
        let by_weight = net.stem().0.weight.val().grad(&gradients).unwrap();
        (values(features), values(by_weight))
    };
    let first = pass();
    assert!(first.1.iter().any(|x| *x != 0.0));
    assert_eq!(pass(), first);
    let count = |tensors: &HashMap<_, Vec<BlockedTensor>>| tensors.values().map(Vec::len).sum::<usize>();
    let before = count(&net.pool.free.lock().unwrap());
    pass();
    assert_eq!(count(&net.pool.free.lock().unwrap()), before);
}

#[test]
fn what_is_not_in_training_is_left_to_burn() {
    let device = device::open(Backend::default()).unwrap();
    let net = build("resnet8-w4");
    let images = Tensor::<4>::ones([2, 3, 8, 8], &device);
    assert!(forward(&net.valid(), &images).is_none());
    assert!(forward(&build("resnet8-w4"), &images).is_none());
    assert!(forward(&net, &images.autodiff()).is_some());
}
