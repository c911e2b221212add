//! A checkpoint trained with PyTorch must keep its accuracy here: the whole architecture, its
//! names, its normalisation and its numbers at once.
//!
//! The checkpoint (akamaster/pytorch_resnet_cifar10, resnet20-12fca82f.th) and CIFAR-10 are not
//! part of this project; the test looks for them in the directory `HEMLOCK_REFERENCE` (by default
//! `../shared` beside the workspace) and says so when it finds none.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use burn::store::ModuleStore;
use burn::store::pytorch::PytorchStore;
use burn::tensor::{Device, TensorData};
use ndarray::{Array1, Array2, Array4};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::device::{self, Backend};
use crate::extractor::{Extractor, ExtractorSpec};
use crate::resnet::ResNet;
use crate::weights::{Weight, Weights};

const IMAGES: usize = 1000;
const PIXELS: usize = 3 * 32 * 32;

fn reference() -> PathBuf {
    std::env::var_os("HEMLOCK_REFERENCE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from)
}

/// The tensors of a PyTorch checkpoint, without its counters.
fn checkpoint(path: &Path) -> Weights {
    let mut store = PytorchStore::from_file(path).with_top_level_key("state_dict").with_key_remapping(r"^module\.", "");
    let mut weights = BTreeMap::new();
    for (name, tensor) in store.get_all_tensors().unwrap() {
        if !name.ends_with("num_batches_tracked") {
            let bytes = tensor.to_bytes().unwrap();
            let data = TensorData::from_bytes(bytes, tensor.shape.clone(), tensor.dtype);
            let weight = Weight { shape: data.shape().to_vec(), values: data.iter::<f32>().collect() };
            weights.insert(name.clone(), weight);
        }
    }
    Weights(weights)
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

/// The extractor and its linear classifier W `[10, 64]`, b `[10]`.
fn supervised_resnet20(path: &Path, device: &Device) -> (Extractor, Array2<f32>, Array1<f32>) {
    let mut weights = checkpoint(path);
    let w = weights.0.remove("linear.weight").unwrap().values;
    let b = weights.0.remove("linear.bias").unwrap().values;
    let spec = ExtractorSpec {
        arch: "resnet20".parse().unwrap(),
        image_size: [32, 32],
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    };
    let net = ResNet::new(spec.arch, &mut ChaCha8Rng::seed_from_u64(0), device);
    let net = weights.load(net).unwrap();
    let w = Array2::from_shape_vec((10, 64), w).unwrap();
    (Extractor::new(spec, &net, device), w, Array1::from(b))
}

#[test]
#[allow(clippy::print_stderr)]
fn a_pytorch_checkpoint_keeps_its_accuracy() {
    let weights = reference().join("weights/cifar10-supervised-resnet20.th");
    let archive = reference().join("datasets/cifar-10-binary.tar.gz");
    if !weights.exists() || !archive.exists() {
        eprintln!("SKIPPED: no reference checkpoint in {}", reference().display());
        return;
    }
    let device = device::open(Backend::default()).unwrap();
    let (extractor, w, b) = supervised_resnet20(&weights, &device);
    let (images, labels) = test_images(&archive);
    let features = extractor.features(images.view(), &|_| true).unwrap();
    let logits = features.dot(&w.t()) + &b;
    let correct =
        (logits.rows().into_iter().zip(labels)).filter(|(row, label)| row.iter().all(|v| *v <= row[*label])).count();
    let accuracy = correct as f64 / IMAGES as f64;
    assert!(accuracy > 0.88, "91.7 % with PyTorch, {accuracy} here");
}
