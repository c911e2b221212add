//! An upper bound of the clean loss of a poisoned head.

use std::borrow::Cow;

use ndarray::{Array1, Array2, s};

use crate::Constraint;
use hemlock_head::kernel::softmax;
use hemlock_head::{Head, HeadError, LossAndGradient, Passes, Preconditioner, SamplePass, Samples, add_weight_decay};
use hemlock_optim::Limits;

/// Temperature of the smooth maximum over labels. The smooth maximum exceeds the true one by at most `ln K` times this.
const SMOOTHING: f64 = 0.05;
/// Shares of a smooth maximum up to this are left out of its gradient.
const NEGLIGIBLE: f64 = 1e-20;
/// The search starts at this fraction of the clean head, because poisons that matter make heads small.
const START: f64 = 0.25;
/// Largest number of steps of the search. Every head gives a valid bound, so the search may stop anywhere.
const STEPS: usize = 100;

/// Where the search for a bound starts. Neither decides whether the bound is valid, only how sharp it is.
#[derive(Clone, Copy)]
pub struct LossBoundStart<'a> {
    /// A head that is trained on the clean samples.
    pub head: &'a Head,
    /// A preconditioner for the clean samples; `None` makes one.
    pub preconditioner: Option<&'a Preconditioner>,
}

/// An upper bound of the mean cross-entropy on the clean samples, in nats, for every head that is trained to its
/// minimum on them and on `poisons` further samples. The further samples may have any features within the constraint,
/// and any labels.
///
/// For any head `w`, the objective of the trained head is at most that of `w`, and its loss on the poisons is at least
/// 0 (the argument of Steinhardt, Koh & Liang, 2017). Hence
///
/// ```text
/// L_clean(w*) <= L_clean(w) + m/n max_(z, y) loss(w; z, y) + N/n lambda/2 |W|²,   N = n + m
/// ```
///
/// - The maximum is bounded by the constraint's support function, as `ln Σ_k exp max_z (s_k - s_y)`.
/// - The right side is minimised over `w` by descent, starting from a fraction of the given head. It is convex if the
///   constraint is one convex set.
/// - If the constraint is unbounded, only the biases are optimised and the weights are zero.
///
/// The first steps of the descent are rough passes, and the last ones, which decide what the bound is, are exact.
/// `keep_going` is called before every step of the descent with the number of steps taken and the gradient norm. If it
/// returns false, the search stops with a bound that is valid, but less sharp.
///
/// # Errors
/// Returns an error if there are no samples, if the samples do not fit the head, or if the weight decay is negative or
/// not finite.
pub fn loss_bound(
    clean: &Passes<'_, '_>,
    constraint: &Constraint,
    poisons: usize,
    weight_decay: f64,
    start: LossBoundStart<'_>,
    keep_going: &dyn Fn(usize, f64) -> bool,
) -> Result<f64, HeadError> {
    let LossBoundStart { head: clean_head, preconditioner } = start;
    clean_head.check_samples(clean.blocks())?;
    let preconditioner = match preconditioner {
        Some(given) => Cow::Borrowed(given),
        None => Cow::Owned(Preconditioner::new(clean.blocks(), weight_decay)?),
    };
    let count = clean.blocks().iter().map(Samples::len).sum::<usize>() as f64;
    let share = poisons as f64 / count;
    // At the zero head, the loss of every sample is `ln K`, wherever it lies.
    let zero = (1.0 + share) * (clean_head.classes() as f64).ln();
    let mut start = &clean_head.packed() * START;
    let endless = !worst(&start, constraint).0.is_finite();
    // With an unbounded set, weights other than zero would make the bound infinite.
    let held = |mut head: Array2<f64>| {
        if endless {
            head.slice_mut(s![.., ..-1]).fill(0.0);
        }
        head
    };
    start = held(start);
    let bound = |packed: &Array2<f64>, pass: &SamplePass<'_>| {
        let LossAndGradient { loss, mut gradient, .. } = pass(packed.view());
        gradient /= count;
        let decay = add_weight_decay(packed.view(), (1.0 + share) * weight_decay, &mut gradient);
        let (worst, by_head) = worst(packed, constraint);
        gradient.scaled_add(share, &by_head);
        (loss / count + decay + share * worst, held(gradient))
    };
    let limits = Limits { gradient_tolerance: 1e-4, max_iterations: STEPS };
    let step = |gradient: &Array2<f64>| held(preconditioner.apply(gradient));
    let found = clean.minimize(start, bound, step, &limits, keep_going);
    Ok(found.value.min(zero))
}

/// An upper bound of the largest loss of a poison at a head, and its gradient `[K, d + 1]`. The maximum over labels is
/// smooth.
fn worst(packed: &Array2<f64>, constraint: &Constraint) -> (f64, Array2<f64>) {
    let bias = packed.column(packed.ncols() - 1);
    // The largest margins that a poison of a label can have.
    let margins = |label: usize, bounds: &[f64]| -> Array1<f64> {
        bounds.iter().zip(bias).map(|(bound, bias_k)| bound + bias_k - bias[label]).collect()
    };
    let all: Vec<usize> = (0..packed.nrows()).collect();
    let of_label = |label: usize, bounds: &[f64]| softmax(margins(label, bounds).view_mut());
    let losses = constraint.map_differences(packed.view(), &all, of_label);
    let (worst, weight_of) = soft_maximum(&losses, SMOOTHING);
    let labels: Vec<usize> = all.into_iter().filter(|label| weight_of[*label] > NEGLIGIBLE).collect();
    let gradient = constraint.sum_extremes(packed.view(), &labels, |label, bounds| {
        let mut shares = margins(label, bounds);
        softmax(shares.view_mut());
        (shares * weight_of[label]).to_vec()
    });
    (worst, gradient)
}

/// The smooth maximum `t ln Σ exp(x / t)`, which is at least the largest value, and its gradient, which sums to 1.
fn soft_maximum(values: &[f64], t: f64) -> (f64, Vec<f64>) {
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = values.iter().map(|x| ((x - largest) / t).exp()).collect();
    let sum: f64 = powers.iter().sum();
    (largest + t * sum.ln(), powers.iter().map(|p| p / sum).collect())
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use hemlock_head::testing::{GaussianClusters, random};
    use hemlock_head::{FitOptions, fit, mean_loss};

    const DECAY: f64 = 1e-2;

    fn trained(blocks: &[Samples<'_>]) -> Head {
        fit(blocks, &FitOptions::new(DECAY), &|_, _| true).unwrap().head
    }

    /// The clean loss of a head that is trained on the clean samples and on random poisons at the border of the
    /// constraint.
    fn poisoned_loss(clean: Samples<'_>, constraint: &Constraint, seed: u32) -> f64 {
        let classes = clean.classes();
        let mut z = random(9, 3, seed.into()) * 40.0;
        let labels: Vec<u32> = (0..9).map(|i| (i + seed) % classes as u32).collect();
        constraint.project(&mut z, &labels);
        let poisons = Samples::new(z.view(), &labels, classes).unwrap();
        mean_loss(&trained(&[clean.reborrow(), poisons]), &[clean]).unwrap()
    }

    fn setting(classes: usize, kinds: &str) -> (GaussianClusters, Constraint) {
        let data = GaussianClusters::new(90, 3, classes, 7);
        let constraint = Constraint::new(&kinds.parse().unwrap(), data.samples(), 0.9, 2).unwrap();
        (data, constraint)
    }

    fn bound(data: &GaussianClusters, constraint: &Constraint, poisons: usize) -> f64 {
        let head = trained(&[data.samples()]);
        let start = LossBoundStart { head: &head, preconditioner: None };
        loss_bound(&Passes::new(&[data.samples()]), constraint, poisons, DECAY, start, &|_, _| true).unwrap()
    }

    #[test]
    fn no_poisons_in_the_set_push_the_clean_loss_above_it() {
        for (classes, kinds) in [(2, "ball"), (3, "ball"), (3, "box"), (3, "sphere+slab"), (3, "knn"), (4, "none")] {
            let (data, constraint) = setting(classes, kinds);
            let loss_bound = bound(&data, &constraint, 9);
            let highest = (0..20).map(|seed| poisoned_loss(data.samples(), &constraint, seed)).fold(0.0, f64::max);
            let least = mean_loss(&trained(&[data.samples()]), &[data.samples()]).unwrap();
            assert!(loss_bound >= highest && highest > least, "{kinds} {classes}: {loss_bound} {highest} {least}");
        }
    }

    /// With two classes and a ball, the largest loss is known: it is at the point where the wrong class leads most.
    #[test]
    fn the_worst_loss_is_that_of_the_farthest_point() {
        let packed = array![[1.0, -2.0, 0.5], [-1.0, 1.0, 0.2]];
        let margin = 3.0 * (4.0f64 + 9.0).sqrt() + 0.3;
        let expected = (1.0 + margin.exp()).ln();
        let found = worst(&packed, &Constraint::ball(3.0)).0;
        assert!(found >= expected && found <= expected + SMOOTHING * 2f64.ln(), "{found} {expected}");
    }

    #[test]
    fn no_point_of_the_set_costs_more_than_the_worst() {
        for kinds in ["ball", "box", "sphere", "knn", "ball+box"] {
            let (_, constraint) = setting(3, kinds);
            let packed = random(3, 4, 8) * 2.0;
            let (bound, head) = (worst(&packed, &constraint).0, Head::from_packed(packed.clone()).unwrap());
            let mut largest: f64 = 0.0;
            for label in 0..3 {
                let mut z = random(300, 3, 9) * 40.0;
                let labels = [label; 300];
                constraint.project(&mut z, &labels);
                for i in 0..300 {
                    let one = Samples::new(z.slice(s![i..=i, ..]), &labels[..1], 3).unwrap();
                    largest = largest.max(mean_loss(&head, &[one]).unwrap());
                }
            }
            assert!(largest <= bound && largest > 0.5 * bound, "{kinds}: {largest} {bound}");
        }
    }

    /// The only feature is always zero, so only the biases matter, and the bound is a function of one number.
    #[test]
    fn of_biases_alone_it_is_known() {
        let labels: Vec<u32> = (0..40).map(|i| u32::from(i % 10 == 0)).collect();
        let z = Array2::zeros((40, 1));
        let clean = Samples::new(z.view(), &labels, 2).unwrap();
        let head = trained(&[clean]);
        let start = LossBoundStart { head: &head, preconditioner: None };
        let found = loss_bound(&Passes::new(&[clean]), &Constraint::default(), 4, DECAY, start, &|_, _| true).unwrap();
        // The bias b of the class with nine tenths of the samples, against poisons of the other class.
        let bound = |b: f64| 0.9 * (1.0 + (-b).exp()).ln() + (0.1 + 0.1) * (1.0 + b.exp()).ln();
        let expected = (0..4000).map(|i| bound(f64::from(i) / 1000.0)).fold(f64::INFINITY, f64::min);
        assert!((found - expected).abs() < 5e-3, "{found} {expected}");
        assert!(found >= expected - 1e-9 && found < 1.1 * 2f64.ln());
    }

    /// Two classes lie at 1 and -1, and poisons have norms up to 2. By symmetry, the weights are w/2 and -w/2, and the
    /// bound is a function of w.
    #[test]
    fn of_two_points_it_is_known() {
        let decay = 0.5;
        let labels: Vec<u32> = (0..20).map(|i| i % 2).collect();
        let z = Array2::from_shape_fn((20, 1), |(i, _)| if i % 2 == 0 { 1.0 } else { -1.0 });
        let clean = Samples::new(z.view(), &labels, 2).unwrap();
        let head = fit(&[clean], &FitOptions::new(decay), &|_, _| true).unwrap().head;
        let start = LossBoundStart { head: &head, preconditioner: None };
        let found = loss_bound(&Passes::new(&[clean]), &Constraint::ball(2.0), 4, decay, start, &|_, _| true).unwrap();
        let cross_entropy = |margin: f64| (1.0 + (-margin).exp()).ln();
        let bound = |w: f64| {
            // Both labels are equally bad, so the smooth maximum exceeds the true one by as much as it can.
            let worst = cross_entropy(-2.0 * w) + SMOOTHING * 2f64.ln();
            cross_entropy(w) + 0.2 * worst + 1.2 * decay / 2.0 * (w * w / 2.0)
        };
        let expected = (0..2000).map(|i| bound(f64::from(i) / 1000.0)).fold(f64::INFINITY, f64::min);
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }

    #[test]
    fn without_poisons_it_is_the_least_objective() {
        let (data, constraint) = setting(3, "ball");
        let (objective, _) =
            hemlock_head::loss_and_gradient(&trained(&[data.samples()]), &[data.samples()], DECAY).unwrap();
        let loss_bound = bound(&data, &constraint, 0);
        assert!((loss_bound - objective).abs() < 1e-5, "{loss_bound} {objective}");
    }

    #[test]
    fn first_steps_in_single_precision_give_the_same_bound() {
        let (data, constraint) = setting(3, "sphere");
        let head = trained(&[data.samples()]);
        let start = LossBoundStart { head: &head, preconditioner: None };
        let bound = |passes: &Passes| loss_bound(passes, &constraint, 9, DECAY, start, &|_, _| true).unwrap();
        let samples = [data.samples()];
        let (single, double) = (bound(&Passes::in_single(&samples)), bound(&Passes::new(&samples)));
        assert!((single - double).abs() < 1e-6, "{single} {double}");
    }

    #[test]
    fn it_grows_with_the_number_of_poisons_and_with_the_set() {
        let (data, _) = setting(3, "ball");
        let of = |radius, poisons| bound(&data, &Constraint::ball(radius), poisons);
        assert!(of(1.0, 3) < of(1.0, 9) && of(1.0, 9) < of(2.0, 9));
    }

    #[test]
    fn the_gradient_of_the_worst_loss_is_its_slope() {
        for kinds in ["ball", "box", "sphere", "knn", "ball+sphere", "box+ball", "sphere+slab"] {
            let (_, constraint) = setting(3, kinds);
            let packed = random(3, 4, 5);
            let gradient = worst(&packed, &constraint).1;
            for index in [(0, 0), (1, 2), (2, 3)] {
                let moved = |by: f64| {
                    let mut packed = packed.clone();
                    packed[index] += by;
                    worst(&packed, &constraint).0
                };
                let (slope, found) = ((moved(1e-6) - moved(-1e-6)) / 2e-6, gradient[index]);
                assert!((slope - found).abs() < 1e-5 * (1.0 + slope.abs()), "{kinds}: {slope} {found}");
            }
        }
    }
}
