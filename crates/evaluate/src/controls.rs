//! Controls: what adding as many samples does without an attack.

use hemlock_head::{Head, HeadError, Samples, SolveOptions, logits, probabilities, smoothed_error, solve_hessian};
use hemlock_streams::Purpose;
use rand::{RngExt, seq::index};

/// Clean samples by their numbers, with labels that may be others than theirs.
#[derive(Debug, PartialEq)]
pub(crate) struct Control {
    pub(crate) rows: Vec<usize>,
    pub(crate) labels: Vec<u32>,
}

/// `m` different clean samples, as they are, drawn uniformly.
pub(crate) fn duplicates(clean: Samples, m: usize, seed: u64) -> Control {
    let mut rows = index::sample(&mut Purpose::ControlSamples.of(seed), clean.len(), m.min(clean.len())).into_vec();
    rows.sort_unstable();
    let labels = rows.iter().map(|i| clean.labels()[*i]).collect();
    Control { rows, labels }
}

/// The samples of [`duplicates`], each with a label drawn uniformly from the other classes.
pub(crate) fn random_flips(clean: Samples, m: usize, seed: u64) -> Control {
    let mut rng = Purpose::ControlLabels.of(seed);
    let mut control = duplicates(clean, m, seed);
    let classes = clean.classes() as u32;
    for label in &mut control.labels {
        *label = (*label + rng.random_range(1..classes)) % classes;
    }
    control
}

/// `m` different clean samples, with the wrong labels, that raise the error on `validation` most by their influence on the
/// clean head (Koh & Liang, 2017): adding a sample (z, y) to n others raises it to first order by
/// `-1/n <U, G(z, y)> = 1/n ((U [z, 1])_y - <p, U [z, 1]>)`, with `U` the inverse Hessian times the gradient of the
/// [smoothed error](smoothed_error). Where a flipped sample stands in the place of itself, its own label's share is gone, which leaves
/// `1/n ((U [z, 1])_y - (U [z, 1])_own)`.
///
/// # Errors
/// Samples that do not fit the head, or no validation samples.
pub(crate) fn aligned_flips(
    clean: Samples,
    validation: Samples,
    head: &Head,
    weight_decay: f64,
    m: usize,
    replaces: bool,
) -> Result<Control, HeadError> {
    let (_, gradient) = smoothed_error(head, &[validation], 1.0)?;
    // Enough to rank samples by.
    let options = SolveOptions { tolerance: 1e-4, ..SolveOptions::new(weight_decay) };
    let solved = solve_hessian(head, &[clean.reborrow()], gradient.view(), &options)?;
    let influence = Head::from_packed(solved.solution)?;
    // The gain in error, the row, and the label of the best flip of every sample.
    let mut flips: Vec<(f64, usize, u32)> = Vec::with_capacity(clean.len());
    for chunk in clean.chunks() {
        let z = chunk.to_f64();
        let (scores, probabilities) = (logits(&influence, z.view())?, probabilities(head, z.view())?);
        for ((u, p), own) in scores.rows().into_iter().zip(probabilities.rows()).zip(chunk.labels()) {
            let wrong = (0u32..).zip(u).filter(|(label, _)| label != own);
            let best = wrong.max_by(|a, b| a.1.total_cmp(b.1));
            let row = flips.len();
            let without = if replaces { u[*own as usize] } else { u.dot(&p) };
            flips.extend(best.map(|(label, score)| (score - without, row, label)));
        }
    }
    flips.sort_by(|a, b| b.0.total_cmp(&a.0));
    flips.truncate(m);
    let (rows, labels) = flips.into_iter().map(|(_, row, label)| (row, label)).unzip();
    Ok(Control { rows, labels })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_head::{FitOptions, fit};
    use ndarray::Array2;

    #[test]
    fn flips_differ_from_duplicates_in_every_label_and_nothing_else() {
        let z = Array2::from_shape_fn((50, 2), |(i, j)| (i * 2 + j) as f64);
        let labels: Vec<u32> = (0..50).map(|i| i % 5).collect();
        let clean = Samples::new(z.view(), &labels, 5).unwrap();
        let flipped = random_flips(clean, 20, 3);
        let same = duplicates(clean, 20, 3);
        assert_eq!(flipped.rows, same.rows);
        assert!(flipped.labels.iter().zip(&same.labels).all(|(a, b)| a != b && *a < 5));
        assert!(same.rows.iter().zip(&same.labels).all(|(row, label)| labels[*row] == *label));
        assert!(flipped.labels.iter().collect::<std::collections::BTreeSet<_>>().len() > 2);
    }

    /// A feature in which two classes overlap.
    fn overlapping(n: usize, seed: u64) -> (Array2<f64>, Vec<u32>) {
        let mut rng = Purpose::Test.of(seed);
        let labels: Vec<u32> = (0..n).map(|i| (i % 2) as u32).collect();
        let z = Array2::from_shape_fn((n, 2), |(i, _)| (i % 2) as f64 + rng.random_range(-1.0..1.0));
        (z, labels)
    }

    #[test]
    fn aligned_flips_cost_more_than_random_ones() {
        let (z, labels) = overlapping(400, 1);
        let (z_validation, labels_validation) = overlapping(200, 2);
        let clean = Samples::new(z.view(), &labels, 2).unwrap();
        let validation = Samples::new(z_validation.view(), &labels_validation, 2).unwrap();
        let options = FitOptions::new(1e-3);
        let head = fit(&[clean], &options, &|_, _| true).unwrap().head;
        let error = |control: Control| {
            let z = clean.select(&control.rows);
            let added = Samples::new(z.view(), &control.labels, 2).unwrap();
            let victim = fit(&[clean.reborrow(), added], &options, &|_, _| true).unwrap().head;
            smoothed_error(&victim, &[validation.reborrow()], 1.0).unwrap().0
        };
        let aligned = aligned_flips(clean, validation, &head, 1e-3, 20, false).unwrap();
        assert!(aligned.rows.iter().zip(&aligned.labels).all(|(row, label)| labels[*row] != *label));
        let (clean_error, aligned) = (smoothed_error(&head, &[validation], 1.0).unwrap().0, error(aligned));
        for seed in 0..3 {
            let random = error(random_flips(clean, 20, seed));
            assert!(aligned - clean_error > 1.5 * (random - clean_error), "{clean_error} {random} {aligned}");
        }
    }

    /// Flips in place are those of the largest gain by trial, which flips beside the samples are not.
    #[test]
    fn flips_in_place_are_ranked_by_what_they_replace() {
        let (z, labels) = overlapping(60, 1);
        let (z_validation, labels_validation) = overlapping(200, 2);
        let clean = Samples::new(z.view(), &labels, 2).unwrap();
        let validation = Samples::new(z_validation.view(), &labels_validation, 2).unwrap();
        let options = FitOptions { gradient_tolerance: 1e-10, ..FitOptions::new(1e-2) };
        let head = fit(&[clean], &options, &|_, _| true).unwrap().head;
        let error = |flipped: usize| {
            let mut labels = labels.clone();
            labels[flipped] = 1 - labels[flipped];
            let victim = fit(&[Samples::new(z.view(), &labels, 2).unwrap()], &options, &|_, _| true).unwrap().head;
            smoothed_error(&victim, &[validation.reborrow()], 1.0).unwrap().0
        };
        let mut by_trial: Vec<usize> = (0..60).collect();
        by_trial.sort_by(|a, b| error(*b).total_cmp(&error(*a)));
        let flips = |replaces| aligned_flips(clean, validation, &head, 1e-2, 20, replaces).unwrap().rows;
        let agree = |rows: Vec<usize>| rows.iter().filter(|row| by_trial[..20].contains(row)).count();
        let (in_place, beside) = (agree(flips(true)), agree(flips(false)));
        assert!(in_place >= 18 && in_place > beside, "{in_place} of those in place, {beside} of those beside, of 20");
    }
}
