//! What the protocol costs, beside a network's passes.

#![allow(clippy::print_stderr, clippy::unwrap_used)]

use hemlock_process::ProcessExtractor;
use hemlock_stage::{Cancel, ChildCommand};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/process");

/// A child that computes nothing: its features and gradients are zeros.
const NOTHING: &str = r#"
import json, os, struct
header, r, w = struct.Struct("<4sHHQQIQ"), os.fdopen(0, "rb"), os.fdopen(1, "wb")
while len(head := r.read(36)) == 36:
    _, _, kind, request, number, n, length = header.unpack(head)
    payload = bytearray(length)
    r.readinto(payload)
    if kind > 4:
        continue
    about = {"name": "nothing", "features": 384, "image_size": [224, 224], "keep": 8}
    made = json.dumps(about).encode() if kind == 1 else bytes(4 * n * (384 if kind == 2 else 3 * 224 * 224))
    w.write(header.pack(b"HMLK", 1, kind | 0x8000, request, number, n, len(made)))
    w.write(made)
    w.flush()
"#;

/// Seconds of a forward pass, and of one with its gradient: the least of some.
fn seconds(words: &[&str], turns: usize) -> [f64; 2] {
    let python = std::env::var("HEMLOCK_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let words = std::iter::once(python).chain(words.iter().map(|word| (*word).to_owned())).collect();
    let command = ChildCommand { words, timeout: Duration::from_secs(600) };
    let child = ProcessExtractor::open(command, PathBuf::from(SCRIPTS), Cancel::default()).unwrap();
    let pixels: Vec<f32> = (0..32 * 3 * 224 * 224).map(|i| (i % 251) as f32 / 250.0).collect();
    let mut least = [f64::INFINITY; 2];
    for _ in 0..turns {
        let started = Instant::now();
        child.forward(&pixels).unwrap();
        let forward = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let (features, kept) = child.forward_kept(&pixels).unwrap();
        child.backward(kept.unwrap(), &pixels, &features).unwrap();
        let both = started.elapsed().as_secs_f64();
        least = [least[0].min(forward), least[1].min(both)];
    }
    least
}

/// A timing, run by hand, with timm: the protocol's share of passes of a ViT-S/16, for 32 images of 224 pixels.
#[test]
#[ignore = "a timing, which needs timm"]
fn the_protocol_costs_little_beside_a_vit() {
    let (nothing, vit) = (seconds(&["-c", NOTHING], 10), seconds(&["extractor.py"], 3));
    for (what, nothing, vit) in [("forward", nothing[0], vit[0]), ("forward and backward", nothing[1], vit[1])] {
        let share = 100.0 * nothing / vit;
        eprintln!("{what}: {:.1} ms of {:.0} ms, {share:.2} %", 1e3 * nothing, 1e3 * vit);
        assert!(share < 5.0);
    }
}
