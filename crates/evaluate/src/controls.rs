//! Controls: what adding as many samples does without an attack.

use hemlock_head::Samples;
use ndarray::{Array2, Axis};
use rand::{RngExt, SeedableRng, seq::index};
use rand_chacha::ChaCha8Rng;

/// `m` different clean samples, drawn uniformly.
fn draw(clean: Samples, m: usize, rng: &mut ChaCha8Rng) -> (Array2<f64>, Vec<u32>) {
    let mut rows = index::sample(rng, clean.len(), m.min(clean.len())).into_vec();
    rows.sort_unstable();
    let labels = rows.iter().map(|i| clean.labels()[*i]).collect();
    (clean.features().select(Axis(0), &rows), labels)
}

/// `m` clean samples again, each with a label drawn uniformly from the other classes: features `[m, d]` and labels.
#[must_use]
pub fn random_flips(clean: Samples, m: usize, seed: u64) -> (Array2<f64>, Vec<u32>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (features, mut labels) = draw(clean, m, &mut rng);
    let classes = clean.classes() as u32;
    for label in &mut labels {
        *label = (*label + rng.random_range(1..classes)) % classes;
    }
    (features, labels)
}

/// `m` clean samples a second time: features `[m, d]` and labels.
#[must_use]
pub fn duplicates(clean: Samples, m: usize, seed: u64) -> (Array2<f64>, Vec<u32>) {
    draw(clean, m, &mut ChaCha8Rng::seed_from_u64(seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flips_differ_from_duplicates_in_every_label_and_nothing_else() {
        let z = Array2::from_shape_fn((50, 2), |(i, j)| (i * 2 + j) as f64);
        let labels: Vec<u32> = (0..50).map(|i| i % 5).collect();
        let clean = Samples::new(z.view(), &labels, 5).unwrap();
        let (features, flipped) = random_flips(clean, 20, 3);
        let (same, kept) = duplicates(clean, 20, 3);
        assert_eq!(features, same);
        assert!(flipped.iter().zip(&kept).all(|(a, b)| a != b && *a < 5));
        for (row, label) in same.rows().into_iter().zip(&kept) {
            assert_eq!(labels[(row[0] / 2.0) as usize], *label);
        }
        assert!(flipped.iter().collect::<std::collections::BTreeSet<_>>().len() > 2);
    }
}
