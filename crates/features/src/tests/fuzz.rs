//! Variants of good files: each is either read, or refused with a short message.

use super::{Entry, Place, f4, good, i8, npy, npz, read, safetensors, with};
use hemlock_fuzz::{Corpus, message};
use std::fs;

/// Words that have a meaning in the formats of arrays.
const WORDS: [&str; 9] = ["<f8", ">f4", "|b1", "|O", "True", "'shape': (", "\"F64\"", "data_offsets", "__metadata__"];

fn several() -> [Vec<Entry>; 2] {
    let validation =
        [("validation", "<f4", vec![2, 3], f4([0.5; 6])), ("validation_labels", "<i8", vec![2], i8([0, 1]))];
    [good(), good().into_iter().chain(validation).collect()]
}

#[test]
fn fuzz_npz() {
    let place = Place::new();
    let of_extremes = with(("train", "<f4", vec![8, 3], f4([f32::MAX; 24])));
    let samples = several().into_iter().chain([of_extremes]).map(|entries| npz(&entries));
    Corpus::new(samples)
        .words(WORDS)
        .fuzz(|bytes| place.read("x.npz", bytes).map_or_else(|e| message(&e.1), |_| Ok(())));
}

#[test]
fn fuzz_safetensors() {
    let place = Place::new();
    let samples = Corpus::new(several().map(|entries| safetensors(&entries))).words(WORDS);
    samples.fuzz(|bytes| place.read("x.safetensors", bytes).map_or_else(|e| message(&e.1), |_| Ok(())));
}

#[test]
fn fuzz_npy() {
    let place = Place::new();
    let folder = place.0.path().join("features");
    fs::create_dir(&folder).unwrap();
    for (name, descr, shape, bytes) in good() {
        fs::write(folder.join(format!("{name}.npy")), npy(descr, &shape, &bytes)).unwrap();
    }
    let samples = good().into_iter().take(1).map(|(_, descr, shape, bytes)| npy(descr, &shape, &bytes));
    Corpus::new(samples).words(WORDS).fuzz(|bytes| {
        fs::write(folder.join("train.npy"), bytes).unwrap();
        read(&folder).map_or_else(|e| message(&e.1), |_| Ok(()))
    });
}
