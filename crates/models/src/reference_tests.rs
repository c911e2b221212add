//! Checkpoints trained with PyTorch, through the import. A supervised one must keep its accuracy: the
//! whole architecture, its names, its normalisation and its numbers at once.
//!
//! The checkpoints (the supervised one is akamaster/pytorch_resnet_cifar10, resnet20-12fca82f.th) and
//! CIFAR-10 are not part of this project; the tests look for them in the directory
//! `HEMLOCK_REFERENCE` (by default `../shared` beside the workspace) and say so when they find none.

use std::io::Read;
use std::path::{Path, PathBuf};

use ndarray::{Array1, Array2, Array4};

use crate::device::{self, Backend};
use crate::extractor::{Extractor, ExtractorSpec};
use crate::import;

const IMAGES: usize = 1000;
const PIXELS: usize = 3 * 32 * 32;

fn reference() -> PathBuf {
    std::env::var_os("HEMLOCK_REFERENCE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from)
}

/// The first test images and labels of CIFAR-10's binary layout: a label byte, then the pixels.
fn test_images(archive: &Path) -> (Array4<u8>, Vec<usize>) {
    let file = std::fs::File::open(archive).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let mut entry = (archive.entries().unwrap().map(Result::unwrap))
        .find(|entry| entry.path().unwrap().ends_with("test_batch.bin"))
        .unwrap();
    let mut bytes = vec![0; IMAGES * (1 + PIXELS)];
    entry.read_exact(&mut bytes).unwrap();
    let records = bytes.chunks(1 + PIXELS);
    let labels = records.clone().map(|r| usize::from(r[0])).collect();
    let pixels = records.flat_map(|r| r[1..].iter().copied()).collect();
    let images = Array4::from_shape_vec((IMAGES, 3, 32, 32), pixels).unwrap();
    (images, labels)
}

fn spec(mean: [f32; 3], std: [f32; 3]) -> ExtractorSpec {
    ExtractorSpec { arch: "resnet20".parse().unwrap(), image_size: [32, 32], mean, std }
}

/// Asks for a reference file, and says so where there is none.
#[allow(clippy::print_stderr)]
fn found(file: &str) -> Option<PathBuf> {
    let path = reference().join(file);
    if !path.exists() {
        eprintln!("SKIPPED: no reference file {}", path.display());
    }
    path.exists().then_some(path)
}

#[test]
fn a_supervised_checkpoint_keeps_its_accuracy() {
    let files = (found("weights/cifar10-supervised-resnet20.th"), found("datasets/cifar-10-binary.tar.gz"));
    let (Some(path), Some(archive)) = files else { return };
    let device = device::open(Backend::default()).unwrap();
    let spec = spec([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    let extractor = Extractor::import(spec, &path, &device).unwrap();
    // The classifier W [10, 64], b [10], which an import leaves aside.
    let tensors = import::open(&path).unwrap();
    let head = |name: &str| import::read(&path, &tensors[&format!("state_dict.module.linear.{name}")]).unwrap().values;
    let w = Array2::from_shape_vec((10, 64), head("weight")).unwrap();
    let b = Array1::from(head("bias"));
    let (images, labels) = test_images(&archive);
    let features = extractor.features(images.view(), &|_| true).unwrap();
    let logits = features.dot(&w.t()) + &b;
    let correct =
        (logits.rows().into_iter().zip(labels)).filter(|(row, label)| row.iter().all(|v| *v <= row[*label])).count();
    let accuracy = correct as f64 / IMAGES as f64;
    assert!(accuracy > 0.88, "91.7 % with PyTorch, {accuracy} here");
}

#[test]
fn a_self_supervised_checkpoint_is_imported() {
    let Some(path) = found("weights/cifar10-simclr-resnet20.pth") else { return };
    let device = device::open(Backend::default()).unwrap();
    let spec = spec([0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]);
    let extractor = Extractor::import(spec, &path, &device).unwrap();
    let images = Array4::from_shape_fn((2, 3, 32, 32), |(i, c, y, x)| ((i * 97 + c * 31 + y * 7 + x) % 256) as u8);
    let features = extractor.features(images.view(), &|_| true).unwrap();
    assert!(features.iter().all(|z| z.is_finite()) && features.row(0) != features.row(1));
}
