//! Times the defences on 50,000 samples with 512 features and 10 classes, 3 % of them with wrong labels, in
//! multiples of a training of the head; certificates on 64 features. The times are processor times.
//!
//! `cargo run --release -p hemlock-defences --example cost [WORD]` times those whose name contains the word.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "an example prints, and fails by panicking")]

use std::time::Instant;

use hemlock_defences::certificates::{Certificates, Ensemble, RidgeHead, StrongConvexity};
use hemlock_defences::filters::{FILTERS, FilterOptions};
use hemlock_defences::metrics::detection;
use hemlock_defences::weight_decay::{Criterion, Trial, choose};
use hemlock_defences::{TrainingData, repair, robust};
use hemlock_head::testing::{GaussianClusters, random};
use hemlock_head::{FitOptions, Samples, fit};
use hemlock_threat::Constraint;
use ndarray::Array2;

const DECAY: f64 = 1e-4;
const GRID: [f64; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];

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

/// Runs and times what it is given, if its name contains the word of the command line.
struct Timer {
    word: String,
    /// Seconds of one training.
    training: f64,
}

impl Timer {
    fn run(&self, name: &str, run: impl FnOnce() -> String) {
        if name.contains(&self.word) {
            let (seconds, result) = timed(run);
            println!("{name:28} {seconds:7.2} s  {:5.2} trainings  {result}", seconds / self.training);
        }
    }
}

/// The processor time of a call in seconds, which other programs hardly change; where the system does not tell, the
/// time on the clock.
fn timed<T>(run: impl FnOnce() -> T) -> (f64, T) {
    let (clock, before) = (Instant::now(), processor_time());
    let result = run();
    let seconds = before.zip(processor_time()).map(|(before, after)| after - before);
    (seconds.unwrap_or_else(|| clock.elapsed().as_secs_f64()), result)
}

/// The processor time of all threads of this process in seconds, as Linux tells it in hundredths.
fn processor_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let hundredths = |field: usize| fields.get(field)?.parse::<f64>().ok();
    Some((hundredths(11)? + hundredths(12)?) / 100.0)
}

fn main() {
    let (features, labels, poison) = clusters(512);
    let samples = Samples::from_f32(features.view(), &labels, 10).unwrap();
    let set = TrainingData::new(&[samples], DECAY, 0).unwrap();
    let (training, steps) = timed(|| fit(&[samples], &FitOptions::new(DECAY), &|_, _| true).unwrap().iterations);
    let timer = Timer { word: std::env::args().nth(1).unwrap_or_default(), training };
    println!("{:28} {training:7.2} s  {:5.2} trainings  {steps} steps", format!("training at {DECAY:e}"), 1.0);
    for filter in FILTERS {
        timer.run(&format!("filter {}", filter.name), || {
            let found = filter.apply(&set, &FilterOptions::share(0.05)).unwrap();
            let found = detection(&found, &poison).unwrap();
            format!("recall {:.2}, AUROC {:.2}", found.recall.unwrap(), found.auroc.unwrap())
        });
    }
    for (name, trial) in [("held-out", Trial::HeldOut(0.2)), ("5 folds", Trial::Folds(5))] {
        timer.run(&format!("weight decay, {name}"), || {
            format!("{:?}", choose(&set, &GRID, trial, Criterion::Loss).unwrap().best)
        });
    }
    robust_heads(&timer, &set);
    repairs(&timer, &set, &poison);
    certificates(&timer);
}

fn robust_heads(timer: &Timer, set: &TrainingData<'_>) {
    timer.run("robust truncated", || format!("{} rounds", robust::truncated_loss(set, 2.0).unwrap().rounds));
    timer.run("robust median of means", || format!("norm {:.2}", robust::median_of_means(set, 20).unwrap().norm()));
    timer.run("robust hinge", || {
        let found = robust::hinge(set).unwrap();
        format!("{} steps, converged: {}", found.iterations, found.converged)
    });
}

fn repairs(timer: &Timer, set: &TrainingData<'_>, poison: &[bool]) {
    let clean: Vec<bool> = poison.iter().map(|poison| !poison).collect();
    let (kept, gone) = (set.filter(&clean).unwrap(), set.filter(poison).unwrap());
    let head = fit(set.blocks(), &FitOptions::new(DECAY), &|_, _| true).unwrap().head;
    timer.run("repair refit", || {
        format!("{} steps", repair::refit(&head, &[kept.samples()], DECAY).unwrap().iterations)
    });
    timer.run("repair newton", || {
        format!("norm {:.2}", repair::newton_step(&head, &[kept.samples()], DECAY).unwrap().norm())
    });
    let steps = repair::GradientSteps { weight_decay: DECAY, count: 100, rate: 1.0 };
    timer.run("repair gradient ascent", || {
        let found = repair::gradient_ascent(&head, &[kept.samples()], &[gone.samples()], 0.01, &steps).unwrap();
        format!("norm {:.2}", found.norm())
    });
    timer.run("repair fine-tune", || {
        format!("norm {:.2}", repair::fine_tune(&head, &[kept.samples()], &steps).unwrap().norm())
    });
}

fn certificates(timer: &Timer) {
    let (features, labels, _) = clusters(64);
    let samples = Samples::from_f32(features.view(), &labels, 10).unwrap();
    let set = TrainingData::new(&[samples], 1e-2, 0).unwrap();
    let test = features.slice(ndarray::s![..2_000, ..]).mapv(f64::from);
    let accuracy = |of: &Certificates, budget| of.certified_accuracy(&labels[..2_000], budget).unwrap();
    for spread in [1, 4] {
        timer.run(&format!("certificate {spread} of 250"), || {
            let ensemble = Ensemble::train(&set, 250, spread).unwrap();
            let (one, two) = (ensemble.plurality(test.view()).unwrap(), ensemble.run_off(test.view()).unwrap());
            let at = |budget| format!("{:.2}/{:.2}", accuracy(&one, budget), accuracy(&two, budget));
            format!("accuracy {}, at 10: {}, at 40: {}", at(0), at(10), at(40))
        });
    }
    timer.run("certificate convexity", || {
        let found = StrongConvexity::train(&set, &Constraint::ball(10.0)).unwrap().certify(test.view()).unwrap();
        format!("accuracy {:.2}, largest radius {}", accuracy(&found, 0), found.radii.iter().max().unwrap())
    });
    timer.run("certificate labels", || {
        let found = RidgeHead::train(&set).unwrap().certify(test.view()).unwrap();
        format!("accuracy {:.2}, at 500: {:.2}", accuracy(&found, 0), accuracy(&found, 500))
    });
}
