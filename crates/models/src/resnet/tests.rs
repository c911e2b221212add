//! Compares names, shapes, counts and initial values with what is published, and a folded network with the plain one.

use super::*;
use crate::device::{self, Backend};
use crate::weights::Weights;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

fn open() -> Device {
    device::open(Backend::default()).unwrap()
}

fn build(arch: &str, seed: u64) -> ResNet {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    ResNet::new(arch.parse().unwrap(), &mut rng, &open())
}

/// Number of trainable values.
fn parameters(net: &ResNet) -> usize {
    let layer =
        |(conv, norm): (&Conv2d, &BatchNorm)| conv.weight.dims().iter().product::<usize>() + 2 * norm.beta.dims()[0];
    let blocks = net.blocks().flat_map(|block| block.path().chain(block.projection()));
    std::iter::once(net.stem()).chain(blocks).map(layer).sum()
}

/// Trainable parameters as published, with a classifier: of the CIFAR networks with option A
/// (akamaster/pytorch_resnet_cifar10) and B (chenyaofo/pytorch-cifar-models), of ResNet-18 with a 3x3 stem, and of
/// torchvision's.
#[test]
fn parameter_counts_are_the_published_ones() {
    let published = [
        ("resnet20", 10, 269_722),
        ("resnet32", 10, 464_154),
        ("resnet44", 10, 658_586),
        ("resnet56", 10, 853_018),
        ("resnet110", 10, 1_727_962),
        ("resnet1202", 10, 19_421_274),
        ("resnet20-b", 10, 272_474),
        ("resnet56-b", 100, 861_620),
        ("resnet18", 10, 11_173_962),
        ("resnet18-pool", 10, 11_173_962),
        ("resnet50-imagenet", 1000, 25_557_032),
        ("resnet101-imagenet", 1000, 44_549_160),
        ("resnet152-imagenet", 1000, 60_192_808),
        ("resnet50-imagenet-wide", 1000, 68_883_240),
        ("resnet101-imagenet-wide", 1000, 126_886_696),
    ];
    for (name, classes, with_classifier) in published {
        let arch: ResNetArch = name.parse().unwrap();
        let count = parameters(&build(name, 0)) + classes * (arch.feature_dim() + 1);
        assert_eq!(count, with_classifier, "{name}");
    }
}

#[test]
fn names_and_shapes_are_those_of_torchvision() {
    let weights = Weights::collect(&build("resnet18-w8", 0)).0;
    for (name, shape) in [
        ("conv1.weight", &[8, 3, 3, 3][..]),
        ("bn1.running_var", &[8]),
        ("layer1.0.bn2.weight", &[8]),
        ("layer2.0.downsample.0.weight", &[16, 8, 1, 1]),
        ("layer2.0.downsample.1.bias", &[16]),
        ("layer4.1.conv2.weight", &[64, 64, 3, 3]),
    ] {
        assert_eq!(weights[name].shape, shape, "{name}");
    }
    let bottleneck = Weights::collect(&build("resnet50-imagenet-w8", 0)).0;
    for (name, shape) in [
        ("conv1.weight", &[8, 3, 7, 7][..]),
        ("layer1.0.conv1.weight", &[8, 8, 1, 1]),
        ("layer1.0.downsample.0.weight", &[32, 8, 1, 1]),
        ("layer2.0.conv2.weight", &[16, 16, 3, 3]),
        ("layer4.2.conv3.weight", &[256, 64, 1, 1]),
        ("layer4.2.bn3.running_mean", &[256]),
    ] {
        assert_eq!(bottleneck[name].shape, shape, "{name}");
    }
    let wide = Weights::collect(&build("resnet101-wide-w4", 0)).0;
    for (name, shape) in [
        ("layer1.0.conv1.weight", &[8, 4, 1, 1][..]),
        ("layer3.22.conv2.weight", &[32, 32, 3, 3]),
        ("layer4.2.conv3.weight", &[128, 64, 1, 1]),
    ] {
        assert_eq!(wide[name].shape, shape, "{name}");
    }
    let option_b = Weights::collect(&build("resnet8-b-w4", 0)).0;
    assert_eq!(option_b["layer3.0.downsample.0.weight"].shape, [16, 8, 1, 1]);
    let projections: Vec<_> = option_b.keys().filter(|name| name.contains("downsample.0")).collect();
    assert_eq!(projections, ["layer2.0.downsample.0.weight", "layer3.0.downsample.0.weight"]);
    assert!(!weights.contains_key("layer1.0.downsample.0.weight"));
}

#[test]
fn features_have_the_dimension_of_the_architecture() {
    for arch in [
        "resnet8-w4",
        "resnet44-b-w4",
        "resnet18-w4",
        "resnet18-pool-w4",
        "resnet18-pad2-w4",
        "resnet50-wide-w4",
        "resnet18-imagenet-w4",
    ] {
        let net = build(arch, 0).valid();
        let y = net.forward(Tensor::ones([2, 3, 16, 16], &open()));
        assert_eq!(y.dims(), [2, arch.parse::<ResNetArch>().unwrap().feature_dim()], "{arch}");
    }
}

#[test]
fn the_seed_decides_the_initial_values() {
    let weights = |seed| Weights::collect(&build("resnet8", seed));
    assert_eq!(weights(7), weights(7));
    assert_ne!(weights(7), weights(8));
    let conv = &weights(7).0["layer3.0.conv2.weight"].values;
    let square: f32 = conv.iter().map(|v| v * v).sum();
    let variance = square / conv.len() as f32;
    let kaiming = 2.0 / (64.0 * 9.0);
    // 36,864 draws: the standard error of the variance is 0.7 %.
    assert!((variance / kaiming - 1.0).abs() < 0.04, "{variance}");
}

#[test]
fn option_a_takes_every_second_pixel_and_pads_channels_on_both_sides() {
    let device = open();
    let x = Tensor::<1>::from_floats(
        [1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15., 16., 17., 18.],
        &device,
    );
    let y = channels_first(pad_channels(channels_last(x.reshape([1, 2, 3, 3])), 4));
    assert_eq!(y.dims(), [1, 4, 2, 2]);
    assert_eq!(
        y.into_data().try_to_vec::<f32>().unwrap(),
        [0., 0., 0., 0., 1., 3., 7., 9., 10., 12., 16., 18., 0., 0., 0., 0.]
    );
}

/// A network in inference mode whose batch norms are far from their identity.
fn trained(arch: &str) -> ResNet {
    let net = build(arch, 3);
    let mut weights = Weights::collect(&net);
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for (name, weight) in &mut weights.0 {
        let spread = if name.contains("running_var") { 0.3 } else { 0.5 };
        if name.contains("bn") || name.contains("downsample.1") {
            for value in &mut weight.values {
                let z: f32 = StandardNormal.sample(&mut rng);
                *value += spread * z.clamp(-2.0, 2.0);
            }
        }
    }
    weights.load(build(arch, 0)).unwrap().valid()
}

#[test]
fn folding_changes_nothing() {
    for arch in ["resnet8-w4", "resnet8-b-w4", "resnet18-w4", "resnet18-pool-w4", "resnet50-imagenet-w4"] {
        let net = trained(arch);
        let images = Tensor::<1>::from_floats(
            std::array::from_fn::<f32, { 2 * 3 * 8 * 8 }, _>(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0),
            &open(),
        )
        .reshape([2, 3, 8, 8]);
        let expected = net.forward(images.clone());
        let largest = expected.clone().abs().max().into_scalar::<f32>();
        let off = (Folded::new(&net).forward(images) - expected).abs().max().into_scalar::<f32>();
        assert!(largest > 0.1 && off < 1e-5 * largest, "{arch}: {off} of {largest}");
    }
}
