//! Imports damaged variants of files of weights and of the files next to them: each is imported, or refused with a
//! short message.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use hemlock_fuzz::{Corpus, error};
use hemlock_models::device::{self, Backend};
use hemlock_models::{Extractor, ExtractorSpec, WeightsChoice};

/// Written by the script of the same name in that folder.
const MOCO: &[u8] = include_bytes!("data/moco_resnet8_w4.pth");

/// Written by `torchscript.py`.
const SCRIPT: &[u8] = include_bytes!("data/torchscript_clip.pt");

/// Markers of the formats of weights.
const WORDS: [&str; 9] = [
    "state_dict",
    "module.",
    "conv1.weight",
    "torch.FloatStorage",
    "cposix\nsystem\n(S'true'\ntR.",
    "((((((",
    "\"F16\"",
    "}",
    "\u{80}\u{2}",
];

fn spec() -> ExtractorSpec {
    ExtractorSpec { arch: "resnet8-w4".parse().unwrap(), image_size: [8, 8], mean: [0.5; 3], std: [0.25; 3] }
}

fn import(path: &Path) -> Result<(), String> {
    let device = device::open(Backend::default()).unwrap();
    Extractor::import(spec(), path, WeightsChoice::default(), &device).map_or_else(|e| error(&e), |_| Ok(()))
}

/// The same weights as a safetensors file.
fn safetensors(folder: &Path) -> Vec<u8> {
    let path = folder.join("good.pth");
    fs::write(&path, MOCO).unwrap();
    let device = device::open(Backend::default()).unwrap();
    let imported = Extractor::import(spec(), &path, WeightsChoice::default(), &device).unwrap();
    imported.extractor.to_safetensors().unwrap()
}

#[test]
fn fuzz_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("variant");
    Corpus::new([MOCO.to_vec(), SCRIPT.to_vec(), safetensors(folder.path())]).words(WORDS).fuzz(|bytes| {
        fs::write(&path, bytes).unwrap();
        import(&path)
    });
}

#[test]
fn fuzz_configurations() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pth");
    fs::write(&path, MOCO).unwrap();
    let samples = [
        r#"{"architecture": "resnet8", "num_features": 16, "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "input_size": [3, 8, 8]}}"#,
        r#"{"model_type": "vit", "num_attention_heads": 12, "hidden_size": 384, "layer_norm_eps": 1e-12, "hidden_act": "gelu"}"#,
    ];
    Corpus::new(samples).words(["[[[[[[[[", "{\"a\":", "1e999", "null", "\u{0}"]).fuzz(|bytes| {
        fs::write(folder.path().join("config.json"), bytes).unwrap();
        import(&path)
    });
}
