//! Time to train a head to a gradient norm of 1e-6, on synthetic features whose variances fall off like those of real ones.
//!
//!     cargo run --release -p hemlock-head --example fit_speed -- 50000 512 10

#![allow(clippy::print_stdout, missing_docs)]

use hemlock_head::{FitOptions, Head, HeadError, Samples, accuracy, fit, predict};
use ndarray::Array2;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use std::time::Instant;

fn main() -> Result<(), HeadError> {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let &[n, d, classes] = &sizes[..] else {
        println!("usage: fit_speed SAMPLES FEATURES CLASSES");
        return Ok(());
    };
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut normal = |rows, columns| Array2::from_shape_fn((rows, columns), |_| StandardNormal.sample(&mut rng));
    // Correlated coordinates: a rotation of independent ones with a power-law spectrum.
    let mut latent: Array2<f64> = normal(n, d);
    for (i, mut column) in latent.columns_mut().into_iter().enumerate() {
        column /= ((i + 1) as f64).sqrt();
    }
    let mut z = latent.dot(&normal(d, d));
    for mut column in z.columns_mut() {
        let variance: f64 = column.iter().map(|z| z * z).sum::<f64>() / n as f64;
        column /= variance.sqrt();
    }
    // Labels of a noisy teacher, which no head can fit.
    let teacher = Head::from_packed(normal(classes, d + 1))?;
    let noisy = &z + &(normal(n, d) * 0.5);
    let labels = predict(&teacher, noisy.view())?;
    let samples = Samples::new(z.view(), &labels, classes)?;
    let started = Instant::now();
    let found = fit(&[samples], &FitOptions::new(1e-4), &|_, _| true)?;
    println!(
        "{n} x {d}, {classes} classes: {:.1} s, {} steps, gradient norm {:.1e}, training accuracy {:.3}",
        started.elapsed().as_secs_f64(),
        found.iterations,
        found.gradient_norm,
        accuracy(&found.head, samples)?
    );
    Ok(())
}
