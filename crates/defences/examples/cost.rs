//! Times the defences on 50,000 samples with 512 features and 10 classes, 3 % of them with wrong labels, next to a
//! training of the head; certificates on 64 features.
//!
//! `cargo run --release -p hemlock-defences --example cost [WORD]` times those whose name contains the word.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "an example prints, and fails by panicking")]

use std::time::Instant;

use hemlock_defences::certificates::{Ensemble, RidgeHead, StrongConvexity};
use hemlock_defences::filters::{FILTERS, FilterOptions};
use hemlock_defences::metrics::detection;
use hemlock_defences::weight_decay::{Criterion, Trial, choose};
use hemlock_defences::{SuspectSet, repair, robust};
use hemlock_head::testing::{GaussianClusters, random};
use hemlock_head::{FitOptions, Samples, fit};
use hemlock_threat::Constraint;
use ndarray::Array2;

const DECAY: f64 = 1e-4;
const GRID: [f64; 6] = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];

fn clusters(d: usize) -> (Array2<f32>, Vec<u32>, Vec<bool>) {
    let (n, classes) = (50_000, 10);
    let data = GaussianClusters::new(n, d, classes, 1);
    // Less far apart, so that classes overlap as those of real features do.
    let mut noise = random(1, d, 2).row(0).to_owned();
    noise.mapv_inplace(|value| 1.0 + value.abs());
    let features = (&data.features * 0.3 * (4.0 / (d as f64).sqrt()) * &noise).mapv(|value| value as f32);
    let poison: Vec<bool> = (0..n).map(|row| row % 33 == 0).collect();
    let labels = data.samples().labels().iter().zip(&poison);
    let labels = labels.map(|(label, poison)| if *poison { (label + 1) % classes as u32 } else { *label }).collect();
    (features, labels, poison)
}

fn main() {
    let word = std::env::args().nth(1).unwrap_or_default();
    let timed = |name: &str, run: &mut dyn FnMut() -> String| {
        if name.contains(&word) || name == "one training" {
            let start = Instant::now();
            let result = run();
            println!("{name:24} {:7.2} s  {result}", start.elapsed().as_secs_f64());
        }
    };
    let (features, labels, poison) = clusters(512);
    let samples = Samples::from_f32(features.view(), &labels, 10).unwrap();
    let set = SuspectSet::new(&[samples], DECAY, 0).unwrap();
    let mut head = None;
    timed("one training", &mut || {
        let found = fit(&[samples], &FitOptions::new(DECAY), &|_, _| true).unwrap();
        let steps = format!("{} steps", found.iterations);
        head = Some(found.head);
        steps
    });
    for filter in FILTERS {
        timed(&format!("filter {}", filter.name), &mut || {
            let found = filter.apply(&set, &FilterOptions::share(0.05)).unwrap();
            let found = detection(&found, &poison).unwrap();
            format!("recall {:.2}, AUROC {:.2}", found.recall.unwrap(), found.auroc.unwrap())
        });
    }
    for (name, trial) in [("held-out", Trial::HeldOut(0.2)), ("5 folds", Trial::Folds(5))] {
        timed(&format!("weight decay {name}"), &mut || {
            format!("{:?}", choose(&set, &GRID, trial, Criterion::Loss).unwrap().best)
        });
    }
    timed("robust truncated", &mut || format!("{} rounds", robust::truncated_loss(&set, 2.0).unwrap().rounds));
    timed("robust median", &mut || format!("norm {:.2}", robust::median_of_means(&set, 20).unwrap().norm()));
    timed("robust hinge", &mut || {
        let found = robust::hinge(&set).unwrap();
        format!("{} steps, converged: {}", found.iterations, found.converged)
    });
    let clean: Vec<bool> = poison.iter().map(|poison| !poison).collect();
    let (kept, gone) = (set.filter(&clean).unwrap(), set.filter(&poison).unwrap());
    let head = head.unwrap();
    timed("repair refit", &mut || {
        format!("{} steps", repair::refit(&head, &[kept.samples()], DECAY).unwrap().iterations)
    });
    timed("repair newton", &mut || {
        format!("norm {:.2}", repair::newton_step(&head, &[kept.samples()], DECAY).unwrap().norm())
    });
    let descent = repair::Descent { weight_decay: DECAY, steps: 50, rate: 1.0 };
    timed("repair gradient ascent", &mut || {
        let found = repair::gradient_ascent(&head, &[kept.samples()], &[gone.samples()], 0.01, &descent).unwrap();
        format!("norm {:.2}", found.norm())
    });

    let (features, labels, _) = clusters(64);
    let samples = Samples::from_f32(features.view(), &labels, 10).unwrap();
    let set = SuspectSet::new(&[samples], 1e-2, 0).unwrap();
    let test = features.slice(ndarray::s![..2_000, ..]).mapv(f64::from);
    for spread in [1, 4] {
        timed(&format!("certificate {spread} of 250"), &mut || {
            let ensemble = Ensemble::train(&set, 250, spread).unwrap();
            let (plurality, run_off) =
                (ensemble.plurality(test.view()).unwrap(), ensemble.run_off(test.view()).unwrap());
            let at = |budget| {
                let of = |one: &hemlock_defences::certificates::Certificates| {
                    one.certified_accuracy(&labels[..2_000], budget).unwrap()
                };
                format!("{:.2}/{:.2}", of(&plurality), of(&run_off))
            };
            format!("accuracy {}, at 10: {}, at 40: {}", at(0), at(10), at(40))
        });
    }
    timed("certificate convexity", &mut || {
        let found = StrongConvexity::train(&set, &Constraint::ball(10.0)).unwrap().certify(test.view()).unwrap();
        format!("largest radius {}", found.radii.iter().max().unwrap())
    });
    timed("certificate labels", &mut || {
        let found = RidgeHead::train(&set).unwrap().certify(test.view()).unwrap();
        format!("accuracy at 500: {:.2}", found.certified_accuracy(&labels[..2_000], 500).unwrap())
    });
}
