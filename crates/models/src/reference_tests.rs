//! Imports checkpoints that were trained with PyTorch and compares the results with PyTorch's. This tests architecture,
//! names, normalisation and numerics at once.
//!
//! The checkpoints (the supervised one is akamaster/pytorch_resnet_cifar10, resnet20-12fca82f.th) and the images (a
//! balanced part of CIFAR-10 in its binary layout: 20,000 for training, 4,000 for tests) are not part of this project.
//! The tests look for them in the directory `HEMLOCK_REFERENCE` (by default `../shared` next to the workspace), and say
//! so if they are missing.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use hemlock_artifact::Normalization;
use hemlock_head::{FitOptions, Head, Samples, accuracy, fit, logits};
use ndarray::{Array2, Array4, Axis, concatenate};

use crate::device::{self, Backend};
use crate::extractor::{Extractor, ExtractorSpec};
use crate::import::{self, WeightsChoice};

const SUPERVISED: &str = "weights/cifar10-supervised-resnet20.th";
const SELF_SUPERVISED: &str = "weights/cifar10-simclr-resnet20.pth";
const IMAGES: &str = "datasets/cifar-10-binary.tar.gz";
const CLASSES: usize = 10;

/// PyTorch's results, written by `benches/peer/checkpoints.py logits`: `accuracy` on the first `images` test images,
/// and the `logits` of some of them.
const PYTORCH: &str = include_str!("../tests/data/cifar10_supervised_resnet20_logits.json");

/// The path of a reference file; says so if it is missing.
#[allow(clippy::print_stderr)]
fn found(file: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("HEMLOCK_REFERENCE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let path = folder.join(file);
    if !path.exists() {
        let required = std::env::var_os("HEMLOCK_REQUIRE_REFERENCE").is_some();
        assert!(!required, "there is no reference file {}, and it is required", path.display());
        eprintln!("SKIPPED: no reference file {}", path.display());
    }
    path.exists().then_some(path)
}

/// Images and labels of the archive's files whose names begin with `files`. A record is a label byte followed by the
/// pixels.
fn images(archive: &Path, files: &str) -> (Array4<u8>, Vec<u32>) {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(File::open(archive).unwrap()));
    let mut bytes = Vec::new();
    for mut entry in archive.entries().unwrap().map(Result::unwrap) {
        if entry.path().unwrap().file_name().is_some_and(|name| name.to_string_lossy().starts_with(files)) {
            entry.read_to_end(&mut bytes).unwrap();
        }
    }
    let records = bytes.chunks_exact(1 + 3 * 32 * 32);
    let labels: Vec<u32> = records.clone().map(|r| u32::from(r[0])).collect();
    let pixels = records.flat_map(|r| r[1..].iter().copied()).collect();
    (Array4::from_shape_vec((labels.len(), 3, 32, 32), pixels).unwrap(), labels)
}

fn resnet20(path: &Path, mean: [f32; 3], std: [f32; 3]) -> Extractor {
    let spec = ExtractorSpec { arch: "resnet20".parse().unwrap(), image_size: [32, 32], mean, std };
    let device = device::open(Backend::default()).unwrap();
    Extractor::import(spec, path, WeightsChoice::default(), &device).unwrap().extractor
}

/// The checkpoint's classifier, which an import ignores.
fn classifier(path: &Path, dim: usize) -> Head {
    let tensors = import::open(path).unwrap().tensors;
    let part = |name: &str, columns: usize| {
        let values = import::read(path, &tensors[&format!("state_dict.module.linear.{name}")]).unwrap().values;
        Array2::from_shape_vec((CLASSES, columns), values).unwrap().mapv(f64::from)
    };
    Head::from_packed(concatenate![Axis(1), part("weight", dim), part("bias", 1)]).unwrap()
}

#[test]
fn a_supervised_checkpoint_answers_as_in_pytorch() {
    let (Some(path), Some(archive)) = (found(SUPERVISED), found(IMAGES)) else { return };
    let extractor = resnet20(&path, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    let head = classifier(&path, extractor.feature_dim());
    let (images, labels) = images(&archive, "test_batch");
    let features = extractor.features(images.view(), &|_| true).unwrap();

    let pytorch: serde_json::Value = serde_json::from_str(PYTORCH).unwrap();
    assert_eq!(Some(labels.len() as u64), pytorch["images"].as_u64(), "these are other images");
    let expected: Vec<[f64; CLASSES]> = serde_json::from_value(pytorch["logits"].clone()).unwrap();
    let found = logits(&head, features.mapv(f64::from).view()).unwrap();
    let pairs = found.iter().zip(expected.as_flattened());
    let off = pairs.map(|(found, expected)| (found - expected).abs()).fold(0.0, f64::max);
    assert!(expected.len() == 64 && off < 1e-4, "logits of {} images differ by {off}", expected.len());

    let accuracy = accuracy(&head, Samples::from_f32(features.view(), &labels, CLASSES).unwrap()).unwrap();
    let expected = pytorch["accuracy"].as_f64().unwrap();
    assert!((accuracy - expected).abs() < 1e-3, "{expected} with PyTorch, {accuracy} here");
}

/// With PyTorch, the linear accuracy is 0.6025.
#[test]
fn a_self_supervised_checkpoint_keeps_its_linear_accuracy() {
    let (Some(path), Some(archive)) = (found(SELF_SUPERVISED), found(IMAGES)) else { return };
    let extractor = resnet20(&path, [0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]);
    let [(mut train, train_labels), (mut test, test_labels)] = ["data_batch", "test_batch"].map(|files| {
        let (images, labels) = images(&archive, files);
        (extractor.features(images.view(), &|_| true).unwrap(), labels)
    });
    let normalization = Normalization::standardizing(train.view());
    normalization.apply(train.view_mut());
    normalization.apply(test.view_mut());
    let samples = |z, labels| Samples::from_f32(z, labels, CLASSES).unwrap();
    let head = fit(&[samples(train.view(), &train_labels)], &FitOptions::new(1e-4), &|_, _| true).unwrap().head;
    let accuracy = accuracy(&head, samples(test.view(), &test_labels)).unwrap();
    assert!((accuracy - 0.6025).abs() < 0.005, "0.6025 with PyTorch, {accuracy} here");
}
