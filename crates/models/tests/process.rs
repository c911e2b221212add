//! A child process as an extractor: the script for numpy, compared with finite differences of its own features.

#![allow(clippy::unwrap_used)]

use hemlock_models::{Backend, Extractor, ProcessExtractor, device};
use hemlock_stage::{Cancel, ChildCommand};
use ndarray::Array4;
use std::{path::PathBuf, process::Command, time::Duration};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/process");
const SIDE: usize = 6;
const D: usize = 5;

/// The extractor; `None` without a Python with numpy, which CI does not accept.
fn linear() -> Option<Extractor> {
    let python = std::env::var("HEMLOCK_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    if !Command::new(&python).args(["-c", "import numpy"]).output().is_ok_and(|has| has.status.success()) {
        assert!(std::env::var_os("HEMLOCK_REQUIRE_PYTHON").is_none(), "{python} has no numpy");
        return None;
    }
    let words = [python, "linear.py".to_owned(), SIDE.to_string(), D.to_string()];
    let command = ChildCommand { words: words.into(), timeout: Duration::from_secs(60) };
    let child = ProcessExtractor::open(command, PathBuf::from(SCRIPTS), Cancel::default()).unwrap();
    assert_eq!((child.about().features, child.about().image_size), (D, [SIDE; 2]));
    Some(Extractor::process(child, &device::open(Backend::Flex).unwrap()))
}

fn pixels(n: usize) -> Vec<f32> {
    (0..n * 3 * SIDE * SIDE).map(|i| ((i * 37 + i / 108 * 101) % 256) as f32 / 255.0).collect()
}

#[test]
fn gradients_match_finite_differences() {
    let Some(extractor) = linear() else { return };
    let pixels = pixels(3);
    // The gradient of half the squared norm of the features with respect to the features is the features themselves.
    let gradient = extractor.vjp(&pixels, |_, z| z.to_vec()).unwrap();
    let at = |i: usize, step: f32| {
        let mut moved = pixels.clone();
        moved[i] += step;
        extractor.forward(&moved).unwrap().iter().map(|z| f64::from(z * z) / 2.0).sum::<f64>()
    };
    let largest = gradient.iter().fold(0.0f32, |m, g| m.max(g.abs()));
    for i in [0, 17, 107, 108, 200, 323] {
        let difference = ((at(i, 1e-2) - at(i, -1e-2)) / 2e-2) as f32;
        assert!((gradient[i] - difference).abs() < 2e-3 * largest, "pixel {i}: {} and {difference}", gradient[i]);
    }
}

/// However a gradient is asked for, it is the same.
#[test]
fn kept_passes_give_the_same_gradients() {
    let Some(extractor) = linear() else { return };
    let pixels = pixels(2);
    let expected = extractor.vjp(&pixels, |_, z| z.to_vec()).unwrap();
    let features = extractor.forward(&pixels).unwrap();
    // The script keeps four passes, and says so: there is no fifth until one is given up.
    let mut caches: Vec<_> = (0..4).map(|_| extractor.forward_cached(&pixels).unwrap().unwrap()).collect();
    assert!(extractor.forward_cached(&pixels).unwrap().is_none());
    assert_eq!(extractor.vjp(&pixels, |_, z| z.to_vec()).unwrap(), expected, "without a kept pass");
    let cache = caches.pop().unwrap();
    assert_eq!(cache.features, features);
    assert_eq!(extractor.backward(cache, &pixels, &features).unwrap(), expected);
    drop(caches);
    assert_eq!((0..5).filter(|_| extractor.forward_cached(&pixels).unwrap().is_some()).count(), 5);
    assert_eq!(extractor.cache_room(0, 32), 128);
}

#[test]
fn features_come_in_tiles_and_the_network_is_not_there() {
    let Some(extractor) = linear() else { return };
    let images =
        Array4::from_shape_fn((150, 3, SIDE, SIDE), |(i, c, y, x)| ((i * 37 + c * 101 + y * 17 + x) % 256) as u8);
    let features = extractor.features(images.view(), &|_| true).unwrap();
    let last: Vec<f32> = images.iter().skip(149 * 3 * SIDE * SIDE).map(|p| f32::from(*p) / 255.0).collect();
    let alone = extractor.forward(&last).unwrap();
    let off = features.row(149).iter().zip(&alone).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(features.dim() == (150, D) && off < 1e-5, "{off}");
    assert!(extractor.network().is_err() && extractor.spec().is_err() && extractor.to_safetensors().is_err());
}
