//! How high the clean loss of a poisoned head can be at all.

use ndarray::{Array1, Array2, s};

use crate::lbfgs::{Limits, minimize};
use crate::loss::{add_weight_decay, loss_and_gradient_sum};
use crate::{Constraint, Head, HeadError, Preconditioner, Samples};

/// How sharply the worst label stands for all: the bound is above the true maximum over labels by at most `ln K` of this.
const SMOOTHING: f64 = 0.05;
/// The share of the clean head that the search starts at: where poisons matter, heads are small.
const START: f64 = 0.25;
/// Steps of the search. Every head gives a bound, so that it may end anywhere.
const STEPS: usize = 100;

/// An upper bound of the mean cross-entropy on the clean samples, of any head that is trained to its minimum on them and on
/// `poisons` more samples, of any labels, that a constraint lets through. `clean_head` is where the search for the bound starts.
///
/// For any head `w`, the trained head's objective is at most that of `w`, and its loss on poisons at least 0 (the argument of
/// Steinhardt, Koh & Liang, 2017):
///
/// ```text
/// L_clean(w*) <= L_clean(w) + m/n max_(z, y) loss(w; z, y) + N/n lambda/2 |W|²,   N = n + m
/// ```
///
/// The maximum is bounded through the constraint's support function, as `ln Σ_k exp max_z (s_k - s_y)`; the right side is convex in `w`,
/// and minimised.
///
/// # Errors
/// No samples, samples that do not fit the head, or a weight decay that is negative or not finite.
pub fn loss_ceiling(
    clean: Samples<'_>,
    constraint: &Constraint,
    poisons: usize,
    weight_decay: f64,
    clean_head: &Head,
) -> Result<f64, HeadError> {
    clean_head.check_samples(&[clean])?;
    let preconditioner = Preconditioner::new(&[clean], weight_decay)?;
    let count = clean.len() as f64;
    let share = poisons as f64 / count;
    // At the zero head every sample costs `ln K`, wherever it lies.
    let zero = (1.0 + share) * (clean.classes() as f64).ln();
    let start = &clean_head.packed() * START;
    if !worst(&start, constraint).0.is_finite() {
        return Ok(zero);
    }
    let bound = |packed: &Array2<f64>| {
        let (loss, mut gradient) = loss_and_gradient_sum(packed.view(), &[clean]);
        gradient /= count;
        let decay = add_weight_decay(packed.view(), (1.0 + share) * weight_decay, &mut gradient);
        let (worst, by_head) = worst(packed, constraint);
        gradient.scaled_add(share, &by_head);
        (loss / count + decay + share * worst, gradient)
    };
    let limits = Limits { gradient_tolerance: 1e-4, max_iterations: STEPS };
    let found = minimize(start, bound, |gradient| preconditioner.apply(gradient), &limits, &|_, _| true);
    Ok(found.value.min(zero))
}

/// An upper bound of a poison's largest loss at a head, and its gradient. Smooth, as the label is a soft maximum.
fn worst(packed: &Array2<f64>, constraint: &Constraint) -> (f64, Array2<f64>) {
    let (weights, bias) = (packed.slice(s![.., ..-1]), packed.column(packed.ncols() - 1));
    let classes = packed.nrows();
    let of_label = |label: usize| {
        // The largest margins of every class over the label, and where they are.
        let reach = |k: usize| {
            let (value, z) = constraint.extreme((&weights.row(k) - &weights.row(label)).view(), label);
            (value + bias[k] - bias[label], z)
        };
        let (margins, points): (Vec<f64>, Vec<Array1<f64>>) = (0..classes).map(reach).unzip();
        let (loss, shares) = soft_maximum(&margins, 1.0);
        let mut gradient = Array2::zeros(packed.dim());
        for (k, (share, z)) in shares.iter().zip(&points).enumerate() {
            for (row, sign) in [(k, *share), (label, -share)] {
                gradient.slice_mut(s![row, ..-1]).scaled_add(sign, z);
                gradient[(row, packed.ncols() - 1)] += sign;
            }
        }
        (loss, gradient)
    };
    let (losses, gradients): (Vec<f64>, Vec<Array2<f64>>) = (0..classes).map(of_label).unzip();
    let (worst, shares) = soft_maximum(&losses, SMOOTHING);
    let gradient = shares.iter().zip(&gradients).fold(Array2::zeros(packed.dim()), |sum, (share, g)| sum + g * *share);
    (worst, gradient)
}

/// `t ln Σ exp(x / t)`, at least the largest value, and its gradient, which sums to 1.
fn soft_maximum(values: &[f64], t: f64) -> (f64, Vec<f64>) {
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = values.iter().map(|x| ((x - largest) / t).exp()).collect();
    let sum: f64 = powers.iter().sum();
    (largest + t * sum.ln(), powers.iter().map(|p| p / sum).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Data, random};
    use crate::{FitOptions, fit, mean_loss};

    const DECAY: f64 = 1e-2;

    fn trained(blocks: &[Samples<'_>]) -> Head {
        fit(blocks, &FitOptions::new(DECAY), &|_, _| true).unwrap().head
    }

    /// The clean loss of a head that is trained on poisons as well, which lie at random at the border of their set.
    fn poisoned_loss(clean: Samples<'_>, constraint: &Constraint, seed: u32) -> f64 {
        let classes = clean.classes();
        let mut z = random(9, 3, seed.into()) * 40.0;
        let labels: Vec<u32> = (0..9).map(|i| (i + seed) % classes as u32).collect();
        constraint.project(&mut z, &labels);
        let poisons = Samples::new(z.view(), &labels, classes).unwrap();
        mean_loss(&trained(&[clean.reborrow(), poisons]), &[clean]).unwrap()
    }

    fn setting(classes: usize, kinds: &str) -> (Data, Constraint) {
        let data = Data::new(90, 3, classes, 7);
        let constraint = Constraint::new(&kinds.parse().unwrap(), data.samples(), 0.9, 2).unwrap();
        (data, constraint)
    }

    #[test]
    fn no_poisons_in_the_set_push_the_clean_loss_above_it() {
        for (classes, kinds) in [(2, "ball"), (3, "ball"), (3, "box"), (3, "sphere+slab"), (3, "knn"), (4, "none")] {
            let (data, constraint) = setting(classes, kinds);
            let clean = data.samples();
            let head = trained(&[clean]);
            let ceiling = loss_ceiling(clean, &constraint, 9, DECAY, &head).unwrap();
            let highest = (0..20).map(|seed| poisoned_loss(clean, &constraint, seed)).fold(0.0, f64::max);
            let least = mean_loss(&head, &[clean]).unwrap();
            assert!(ceiling >= highest && highest > least, "{kinds} {classes}: {ceiling} {highest} {least}");
            assert!(ceiling <= 1.1 * (classes as f64).ln() + 1e-9, "{kinds} {classes}: {ceiling}");
        }
    }

    #[test]
    fn without_poisons_it_is_the_least_objective() {
        let (data, constraint) = setting(3, "ball");
        let head = trained(&[data.samples()]);
        let ceiling = loss_ceiling(data.samples(), &constraint, 0, DECAY, &head).unwrap();
        let (objective, _) = crate::loss_and_gradient(&head, &[data.samples()], DECAY).unwrap();
        assert!((ceiling - objective).abs() < 1e-5, "{ceiling} {objective}");
    }

    #[test]
    fn it_grows_with_the_number_of_poisons_and_with_the_set() {
        let (data, _) = setting(3, "ball");
        let head = trained(&[data.samples()]);
        let ceiling =
            |radius, poisons| loss_ceiling(data.samples(), &Constraint::ball(radius), poisons, DECAY, &head).unwrap();
        assert!(ceiling(1.0, 3) < ceiling(1.0, 9) && ceiling(1.0, 9) < ceiling(2.0, 9));
    }

    #[test]
    fn the_gradient_of_the_worst_loss_is_its_slope() {
        let (_, constraint) = setting(3, "sphere");
        let packed = random(3, 4, 5);
        let gradient = worst(&packed, &constraint).1;
        for index in [(0, 0), (1, 2), (2, 3)] {
            let moved = |by: f64| {
                let mut packed = packed.clone();
                packed[index] += by;
                worst(&packed, &constraint).0
            };
            let slope = (moved(1e-6) - moved(-1e-6)) / 2e-6;
            assert!((slope - gradient[index]).abs() < 1e-5 * (1.0 + slope.abs()), "{slope} {}", gradient[index]);
        }
    }
}
