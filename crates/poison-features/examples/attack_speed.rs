//! Time of Gradient Canceling and of the bilevel attack, 300 poisons in a ball, on synthetic features whose variances fall off like
//! those of real ones.
//!
//!     cargo run --release -p hemlock-poison-features --example attack_speed -- 10000 64 10

#![allow(clippy::print_stdout, missing_docs)]

use hemlock_head::{Constraint, FitOptions, Head, HeadError, Samples, fit, predict};
use hemlock_poison_features::{Bilevel, Canceling, Descent, Objective, descend};
use ndarray::{Array2, Axis, Slice};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use std::time::Instant;

const DECAY: f64 = 1e-4;
const POISONS: usize = 300;

fn main() -> Result<(), HeadError> {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let &[n, d, classes] = &sizes[..] else {
        println!("usage: attack_speed SAMPLES FEATURES CLASSES");
        return Ok(());
    };
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut normal = |rows, columns| Array2::from_shape_fn((rows, columns), |_| StandardNormal.sample(&mut rng));
    let count = n + n / 2;
    let mut latent: Array2<f64> = normal(count, d);
    for (i, mut column) in latent.columns_mut().into_iter().enumerate() {
        column /= ((i + 1) as f64).sqrt();
    }
    let mut z = latent.dot(&normal(d, d));
    for mut column in z.columns_mut() {
        let variance: f64 = column.iter().map(|z| z * z).sum::<f64>() / count as f64;
        column /= variance.sqrt();
    }
    let teacher = Head::from_packed(normal(classes, d + 1))?;
    let labels = predict(&teacher, (&z + &(normal(count, d) * 0.5)).view())?;
    let (train, held_out) = z.view().split_at(Axis(0), n);
    let clean = Samples::new(train, &labels[..n], classes)?;
    let raised = vec![Samples::new(held_out, &labels[n..], classes)?];
    let head = fit(&[clean], &FitOptions::new(DECAY), &|_, _| true)?.head;

    let start = train.slice_axis(Axis(0), Slice::from(..POISONS)).to_owned();
    let ball = Constraint::ball(1.5 * (d as f64).sqrt());
    let run = |name, objective: &mut dyn Objective, steps| -> Result<(), HeadError> {
        let descent = Descent { steps, step: 0.1, ..Descent::default() };
        let started = Instant::now();
        let mut first = None;
        let found = descend(objective, start.clone(), labels[..POISONS].to_vec(), &ball, &descent, |_, value| {
            first.get_or_insert(value);
            Ok::<_, HeadError>(())
        })?;
        let seconds = started.elapsed().as_secs_f64();
        let (first, last) = (first.unwrap_or_default(), objective.shown(found.value));
        println!("{name}: {seconds:.2} s for {steps} steps; objective {first:.4} to {last:.4}");
        Ok(())
    };
    let target = Head::from_packed(&head.packed() * 0.8)?;
    run("Gradient Canceling", &mut Canceling::new(&target, clean, DECAY)?, 2000)?;
    run("bilevel", &mut Bilevel::new(clean, raised, head, DECAY, 1.0)?, 40)
}
