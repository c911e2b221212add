//! The certificate of one softmax head, from the strong convexity and the self-concordance of its objective.

use hemlock_head::kernel::probabilities_of;
use hemlock_head::{Head, Preconditioner, loss_and_gradient_sum};
use hemlock_optim::{Limits, minimize, norm};
use hemlock_threat::Constraint;
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, concatenate};
use rayon::prelude::*;

use super::Certificates;
use crate::linalg::{eigen, gram, product, times};
use crate::{DefenceError, TrainingData};

const TOLERANCE: f64 = 1e-9;
const STEPS: usize = 10_000;
/// The ratio between the shares of poisons for which bounds from self-concordance are made.
const SHARES: f64 = 1.25;
/// Largest number of rounds in which such a bound is searched, the share by which a round goes too far, and the
/// movement of logits from which on no curvature is left.
const ROUNDS: usize = 100;
const STEP: f64 = 0.02;
const FARTHEST: f64 = 100.0;
/// Number of bisections that find an eigenvalue.
const HALVINGS: usize = 50;

/// A head with weight decay on all of its parameters, the bias too, and how far poisons can move it.
///
/// The head `w` minimises `F(w) = L(w) + λ/2 |w|²`, with the mean cross-entropy `L` of `n` clean samples. With `m`
/// poisons it minimises `F'`, the same with the mean over `n + m` samples, and `g = ∇F'(w) = θ (ḡ + λ w)` with `θ = m /
/// (n + m)` and the mean gradient `ḡ` of the poisons at `w`. For the new head, `w' - w = -M⁻¹ g`, where `M` is the mean
/// of the Hessian of `F'` between the two. If `A ≼ M`, then `0 ≼ M⁻¹ ≼ A⁻¹`, and for the difference `u = (e_c - e_k)
/// [z, 1]ᵀ` of two logits, with the margin `μ = <u, w> > 0`,
///
/// ```text
/// <u, w'> >= μ - (<u, A⁻¹ g> + |u|_A |g|_A) / 2 >= μ - θ (|u|_A B_A + (λ |u|_A |w|_A + λ <u, A⁻¹ w>) / 2)
/// ```
///
/// with `|x|_A² = <x, A⁻¹ x>`, if no poison's gradient is longer than `B_A`. The first step holds as `M⁻¹ - A⁻¹ / 2`
/// lies between `-A⁻¹ / 2` and `A⁻¹ / 2`. A bound of `θ` below which all margins stay positive follows. There are two
/// choices of `A`, and the better bound counts. What the gradient at `w` still is, because training ends, is added to
/// `g`.
///
/// *Strong convexity*: `A = λ`, whatever the samples are. `B_A = B / √λ` with `B = √2 √(1 + R²)`, if no poison is
/// longer than `R`, as `|g| = |p - e| |[z, 1]|`.
///
/// *Self-concordance* (Bach, 2010, for the logistic loss): a third derivative `D³[u, u, v]` of `log Σ exp` is a third
/// central moment, and so at most `(max v - min v) D²[u, u]`. Along `w + t Δ`, the Hessian of a sample whose logits
/// move by at most `ρ` against each other is therefore at least `exp(-t ρ)` times that at `w`, and its mean over `t` at
/// least `c = (1 - exp(-ρ)) / ρ` times. At `w`, it is at least `κ (I - 11ᵀ / K) ⊗ a aᵀ`, where `a = [z, 1]` and `κ` is
/// the smallest eigenvalue of `diag p - p pᵀ` on what sums to zero. All vectors here sum to zero over classes, so that
///
/// ```text
/// A = I ⊗ C,   C = (1 - θ) c Σ κ a aᵀ / n + λ,   B_A = B / √(smallest eigenvalue of C)
/// ```
///
/// A number `ρ` is large enough if `√2 max |a|_C |g|_A < ρ`, with `|g|_A <= θ (B_A + λ |w|_A)` and the maximum over the
/// clean samples: the head moves continuously with `θ`, logits start with `ρ = 0`, and where they first reached `ρ`,
/// they would be below it. For the same reason, what is enough for `θ` is enough for every smaller one.
///
/// With two classes, `κ = 2 p (1 - p)` is exact, and the second bound certifies about twice as many poisons at small
/// weight decays. With many classes, `κ` is hardly more than the smallest probability, and the bounds are close. Either
/// is loose for a small weight decay: the curve over `λ`, beside the accuracy, is what they are good for.
#[derive(Debug, Clone, PartialEq)]
pub struct StrongConvexity {
    head: Head,
    samples: usize,
    weight_decay: f64,
    /// The L2 norm of the objective's gradient at the head.
    gradient_norm: f64,
    /// `B`: an upper bound of the norm of a poison's gradient.
    largest_gradient: f64,
    /// The eigenvectors of `Σ κ a aᵀ / n`, as columns.
    basis: Array2<f64>,
    /// The head in this basis, `[K, d + 1]`.
    head_in_basis: Array2<f64>,
    bounds: Vec<Bound>,
}

/// A matrix `C` that bounds what up to some poisons do.
#[derive(Debug, Clone, PartialEq)]
struct Bound {
    /// The largest share `θ` of poisons that it holds for.
    share: f64,
    /// The eigenvalues of `C⁻¹`, in the order of the basis.
    inverse: Array1<f64>,
    /// `B_A + λ |w|_A / 2`.
    poisons: f64,
    /// An upper bound of `|ε|_A`, for what is left of the gradient at the head.
    untrained: f64,
}

impl StrongConvexity {
    /// Trains the head on a set that counts as clean. Poisons will lie in `constraint`, with any label.
    ///
    /// # Errors
    /// Returns an error if the weight decay is not positive, if the constraint does not bound poisons of some class, or
    /// if training does not reach its minimum.
    pub fn train(set: &TrainingData<'_>, constraint: &Constraint) -> Result<Self, DefenceError> {
        let weight_decay = set.weight_decay();
        DefenceError::check_positive("weight_decay", weight_decay)?;
        let norms: Vec<f64> = (0..set.classes()).map(|class| constraint.largest_norm(class)).collect();
        if let Some(class) = norms.iter().position(|norm| !norm.is_finite()) {
            return Err(DefenceError::Unbounded { class });
        }
        let longest = norms.into_iter().fold(0.0, f64::max);
        let preconditioner = Preconditioner::new(set.blocks(), weight_decay)?;
        let count = set.len() as f64;
        let found = minimize(
            Array2::zeros((set.classes(), set.dim() + 1)),
            |packed| {
                let (loss, mut gradient) = loss_and_gradient_sum(packed.view(), set.blocks());
                gradient /= count;
                gradient.scaled_add(weight_decay, packed);
                (loss / count + 0.5 * weight_decay * norm(packed).powi(2), gradient)
            },
            |gradient| preconditioner.apply(gradient),
            &Limits { gradient_tolerance: TOLERANCE, max_iterations: STEPS },
            &|_, _| true,
        );
        // Rounding may end the training a little before the tolerance; what remains is part of the bound.
        if found.gradient_norm > TOLERANCE.sqrt() {
            let gradient_norm = found.gradient_norm;
            return Err(DefenceError::NotConverged { defence: "strong convexity", gradient_norm });
        }
        let head = Head::from_packed(found.at)?;
        let (values, basis) = eigen(&curvature(&head, set))?;
        let mut certificate = Self {
            samples: set.len(),
            weight_decay,
            gradient_norm: found.gradient_norm,
            largest_gradient: 2f64.sqrt() * (1.0 + longest * longest).sqrt(),
            head_in_basis: head.packed().dot(&basis),
            head,
            basis,
            bounds: Vec::new(),
        };
        certificate.bounds.push(certificate.bound(1.0, Array1::from_elem(set.dim() + 1, weight_decay.recip())));
        let bounds = certificate.self_concordant(set, &values);
        certificate.bounds.extend(bounds);
        Ok(certificate)
    }

    fn bound(&self, share: f64, inverse: Array1<f64>) -> Bound {
        let longest = inverse.fold(0.0, |most: f64, value| most.max(*value)).sqrt();
        let poisons = self.largest_gradient * longest + 0.5 * self.weight_decay * self.length_of_head(&inverse);
        Bound { share, poisons, untrained: self.gradient_norm * longest, inverse }
    }

    /// `|w|_A`.
    fn length_of_head(&self, inverse: &Array1<f64>) -> f64 {
        self.head_in_basis.rows().into_iter().map(|row| (&row * &row).dot(inverse)).sum::<f64>().sqrt()
    }

    /// The bounds from self-concordance, for shares from that of one poison on, as long as there are any.
    fn self_concordant(&self, set: &TrainingData<'_>, values: &Array1<f64>) -> Vec<Bound> {
        // What rounding may have added to an eigenvalue is taken away.
        let rounding = 1e-12 * values.fold(0.0, |most: f64, value| most.max(*value));
        let values = values.mapv(|value| (value - rounding).max(0.0));
        let squares = set.map_chunks(|_, z| times(augmented(z).view(), self.basis.view()).mapv(|a| a * a));
        let squares: Vec<Array2<f64>> = squares.collect();
        let mut bounds = Vec::new();
        let (mut share, mut moved) = (1.0 / (self.samples + 1) as f64, 0.0);
        while share < 1.0 {
            let Some((bound, found)) = self.bound_for(share, &values, &squares, moved) else { break };
            bounds.push(bound);
            moved = found;
            share *= SHARES;
        }
        bounds
    }

    /// The bound for a share of poisons, and its `ρ`, if there is one. `start` is not too large.
    fn bound_for(&self, share: f64, values: &Array1<f64>, squares: &[Array2<f64>], start: f64) -> Option<(Bound, f64)> {
        let mut moved = start;
        for _ in 0..ROUNDS {
            let slack = if moved > 0.0 { -(-moved).exp_m1() / moved } else { 1.0 };
            let inverse = values.mapv(|value| ((1.0 - share) * slack * value + self.weight_decay).recip());
            let bound = self.bound(share, inverse);
            let head = 0.5 * self.weight_decay * self.length_of_head(&bound.inverse);
            let gradient = share * (bound.poisons + head) + bound.untrained;
            let largest =
                |squares: &Array2<f64>| squares.dot(&bound.inverse).fold(0.0, |most: f64, one| most.max(*one));
            let longest = squares.par_iter().map(largest).reduce(|| 0.0, f64::max);
            let next = (2.0 * longest).sqrt() * gradient;
            if next < moved {
                return Some((bound, moved));
            }
            if next > FARTHEST {
                return None;
            }
            moved = next * (1.0 + STEP);
        }
        None
    }

    /// The head.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// An upper bound of `|w' - w|` with `poisons` poisons: `(θ (B + λ |w|) + what is left of the gradient) / λ`.
    #[must_use]
    pub fn largest_change(&self, poisons: usize) -> f64 {
        let share = poisons as f64 / (self.samples + poisons) as f64;
        let gradient = share * (self.largest_gradient + self.weight_decay * self.head.norm());
        (gradient + self.gradient_norm) / self.weight_decay
    }

    /// The predictions for features `[n, d]`, and the numbers of added poisons that they withstand.
    ///
    /// # Errors
    /// Returns an error if the features have another number of columns than the head.
    pub fn certify(&self, features: ArrayView2<'_, f64>) -> Result<Certificates, DefenceError> {
        let logits = hemlock_head::logits(&self.head, features)?;
        let predictions = hemlock_head::predict(&self.head, features)?;
        let in_basis = product(augmented(features).view(), self.basis.view());
        let radius = |row: usize| self.radius(logits.row(row), in_basis.row(row), predictions[row] as usize);
        let radii: Vec<usize> = (0..predictions.len()).into_par_iter().map(radius).collect();
        Ok(Certificates { predictions, radii })
    }

    fn radius(&self, logits: ArrayView1<'_, f64>, a: ArrayView1<'_, f64>, class: usize) -> usize {
        let share = self.bounds.iter().map(|bound| self.share(bound, logits, a, class)).fold(0.0, f64::max);
        // `m / (n + m) < share`; the share is below 1, because the margin is at most `λ |u|_A |w|_A` with `A = λ`.
        let poisons = self.samples as f64 * share / (1.0 - share);
        if share > 0.0 { (poisons.ceil() - 1.0) as usize } else { 0 }
    }

    /// The share of poisons below which a bound keeps the class.
    fn share(&self, bound: &Bound, logits: ArrayView1<'_, f64>, a: ArrayView1<'_, f64>, class: usize) -> f64 {
        let through = &a * &bound.inverse;
        let length = (2.0 * a.dot(&through)).sqrt();
        let along: Array1<f64> = self.head_in_basis.dot(&through);
        let of = |other: usize| {
            let left = logits[class] - logits[other] - length * bound.untrained;
            left / (length * bound.poisons + 0.5 * self.weight_decay * (along[class] - along[other]))
        };
        (0..logits.len()).filter(|other| *other != class).map(of).fold(bound.share, f64::min)
    }
}

/// The rows `[z, 1]`.
fn augmented(z: ArrayView2<'_, f64>) -> Array2<f64> {
    concatenate![Axis(1), z, Array2::ones((z.nrows(), 1))]
}

/// `Σ κ a aᵀ / n` at a head, `[d + 1, d + 1]`.
fn curvature(head: &Head, set: &TrainingData<'_>) -> Array2<f64> {
    let parts = set.map_chunks(|_, z| {
        let mut a = augmented(z);
        let probabilities = probabilities_of(head, z);
        a.rows_mut().into_iter().zip(probabilities.rows()).for_each(|(mut a, p)| a *= least_curvature(p).sqrt());
        gram(a.view())
    });
    let zero = Array2::zeros((set.dim() + 1, set.dim() + 1));
    parts.fold(zero, |sum, part| sum + part) / set.len() as f64
}

/// A lower bound of the smallest eigenvalue of `diag p - p pᵀ` on what sums to zero: the zero of `Σ p / (p - κ)`
/// between the two smallest probabilities.
fn least_curvature(p: ArrayView1<'_, f64>) -> f64 {
    let (mut low, mut high) = (f64::INFINITY, f64::INFINITY);
    for p in p {
        (low, high) = if *p < low { (*p, low) } else { (low, high.min(*p)) };
    }
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        // It rises from minus to plus infinity between the two.
        if p.iter().map(|p| p / (p - middle)).sum::<f64>() < 0.0 {
            low = middle;
        } else {
            high = middle;
        }
    }
    low * (1.0 - 1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_head::hessian_vector_sum;
    use hemlock_head::testing::{GaussianClusters, random};
    use hemlock_optim::inner;
    use ndarray::array;

    #[test]
    fn the_least_curvature_is_an_eigenvalue() {
        let two = least_curvature(array![0.2, 0.8].view());
        assert!((two - 0.32).abs() < 1e-8, "{two}");
        let p = array![[0.05, 0.6, 0.15, 0.2]];
        let (values, _) = eigen(&(Array2::from_diag(&p.row(0)) - p.t().dot(&p))).unwrap();
        // The smallest one of the four is zero, and belongs to the constant vector.
        let found = least_curvature(p.row(0));
        assert!(found <= values[2] && found > values[2] - 1e-8, "{found} {values}");
        let equal = least_curvature(array![0.25, 0.25, 0.25, 0.25].view());
        assert!((equal - 0.25).abs() < 1e-8, "{equal}");
    }

    /// The curvature along a direction is at least `exp(-ρ)` times that at another head.
    #[test]
    fn curvature_shrinks_as_self_concordance_allows() {
        for seed in 0..200 {
            let data = GaussianClusters::new(1, 3, 4, seed);
            let (at, step) = (random(4, 4, seed + 1000) * 0.7, random(4, 4, seed + 2000));
            let direction = random(4, 4, seed + 3000);
            let along = |packed: Array2<f64>| {
                let head = Head::from_packed(packed).unwrap();
                inner(&hessian_vector_sum(&head, &[data.samples()], direction.view()).unwrap(), &direction)
            };
            let moved = step.dot(&augmented(data.features.view()).row(0));
            let ends = moved.iter().fold((f64::MAX, f64::MIN), |(low, high), one| (low.min(*one), high.max(*one)));
            let (before, after) = (along(at.clone()), along(&at + &step));
            assert!(after >= before * (ends.0 - ends.1).exp() * (1.0 - 1e-9), "{seed}: {before} {after}");
        }
    }
}
