//! The multi-class hinge loss.

use hemlock_head::kernel::scores;
use hemlock_head::{Fit, Head, Preconditioner, add_weight_decay};
use hemlock_optim::{Limits, minimize};
use ndarray::{Array2, Axis, s};

use crate::losses::log_sum_exp;
use crate::{DefenceError, TrainingData};

/// Temperatures of the smooth maximum, each started from the minimum before it.
const TEMPERATURES: [f64; 5] = [1.0, 0.3, 0.1, 0.03, 0.01];
const TOLERANCE: f64 = 1e-5;
const STEPS: usize = 5_000;

/// Minimises `mean max_k (s_k + [k ≠ y] - s_y) + λ/2 |W|²` for the scores `s = W z + b`: the multi-class support vector
/// machine of Crammer & Singer. Unlike theirs, the bias is not decayed, as in all of Hemlock's heads.
///
/// The maximum is replaced by `t ln Σ_k exp(· / t)`, which exceeds it by at most `t ln K`, with a temperature `t` that
/// falls to 0.01. The objective of the result, which is computed without smoothing, is therefore at most `0.01 ln K`
/// above the minimum. The gradient norm of the result is that of the smooth objective.
///
/// # Errors
/// Returns an error if a head cannot be trained.
pub fn hinge(set: &TrainingData<'_>) -> Result<Fit, DefenceError> {
    let preconditioner = Preconditioner::new(set.blocks(), set.weight_decay())?;
    let mut at = Array2::zeros((set.classes(), set.dim() + 1));
    let (mut gradient_norm, mut converged, mut iterations) = (0.0, false, 0);
    for temperature in TEMPERATURES {
        let limits = Limits { gradient_tolerance: TOLERANCE, max_iterations: STEPS };
        let smooth = |packed: &Array2<f64>| smoothed(packed, set, temperature);
        let found = minimize(at, smooth, |gradient| preconditioner.apply(gradient), &limits, &|_, _| true);
        at = found.at;
        (gradient_norm, converged, iterations) = (found.gradient_norm, found.converged, iterations + found.iterations);
    }
    let objective = exact(&at, set);
    Ok(Fit { head: Head::from_packed(at)?, iterations, gradient_norm, objective, converged })
}

/// The smooth objective and its gradient, `[K, d + 1]`.
fn smoothed(packed: &Array2<f64>, set: &TrainingData<'_>, temperature: f64) -> (f64, Array2<f64>) {
    let (classes, dim) = (set.classes(), set.dim());
    let parts = set.map_chunks(|chunk, z| {
        let mut margins = Array2::zeros((z.nrows(), classes));
        scores(packed.view(), z, &mut margins.view_mut());
        let mut loss = 0.0;
        for (mut row, label) in margins.rows_mut().into_iter().zip(chunk.labels()) {
            let label = *label as usize;
            let own = row[label];
            row += 1.0 - own;
            row[label] = 0.0;
            row /= temperature;
            let log_sum = log_sum_exp(row.view());
            loss += temperature * log_sum;
            row.mapv_inplace(|value| (value - log_sum).exp());
            row[label] -= 1.0;
        }
        let mut gradient = Array2::zeros((classes, dim + 1));
        gradient.slice_mut(s![.., ..dim]).assign(&margins.t().dot(&z));
        gradient.column_mut(dim).assign(&margins.sum_axis(Axis(0)));
        (loss, gradient)
    });
    let zero = (0.0, Array2::zeros((classes, dim + 1)));
    let (loss, mut gradient) = parts.fold(zero, |(loss, sum), (more, part)| (loss + more, sum + part));
    gradient /= set.len() as f64;
    let decay = add_weight_decay(packed.view(), set.weight_decay(), &mut gradient);
    (loss / set.len() as f64 + decay, gradient)
}

/// The objective without smoothing.
fn exact(packed: &Array2<f64>, set: &TrainingData<'_>) -> f64 {
    let parts = set.map_chunks(|chunk, z| {
        let mut all = Array2::zeros((z.nrows(), set.classes()));
        scores(packed.view(), z, &mut all.view_mut());
        let one = |(row, label): (ndarray::ArrayView1<'_, f64>, &u32)| {
            let label = *label as usize;
            let others = row.iter().enumerate().filter(|(class, _)| *class != label);
            others.map(|(_, score)| score + 1.0 - row[label]).fold(0.0, f64::max)
        };
        all.rows().into_iter().zip(chunk.labels()).map(one).sum::<f64>()
    });
    let mut ignored = Array2::zeros(packed.dim());
    parts.sum::<f64>() / set.len() as f64 + add_weight_decay(packed.view(), set.weight_decay(), &mut ignored)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_head::Samples;
    use hemlock_head::testing::{GaussianClusters, assert_close, derivative, random};
    use ndarray::array;

    #[test]
    fn the_gradient_is_the_derivative() {
        let data = GaussianClusters::new(30, 3, 4, 1);
        let blocks = [data.samples()];
        let set = TrainingData::new(&blocks, 0.1, 0).unwrap();
        let packed = random(4, 4, 2);
        for temperature in [1.0, 0.1] {
            let (value, gradient) = smoothed(&packed, &set, temperature);
            assert_close(&gradient, &derivative(|at| smoothed(at, &set, temperature).0, &packed), 1e-6);
            let exact = exact(&packed, &set);
            assert!(value >= exact && value <= exact + temperature * 4f64.ln());
        }
    }

    /// Samples at -1 and 1: with weights (-w, w), the margin is 2 w. The objective is `1 - 2w + λ w²` for `w <= 1/2`,
    /// with the minimum at 1/λ or, for `λ < 2`, at 1/2.
    #[test]
    fn two_classes_by_hand() {
        let z = array![[-1.0], [1.0]];
        let blocks = [Samples::new(z.view(), &[0, 1], 2).unwrap()];
        let found = hinge(&TrainingData::new(&blocks, 0.5, 0).unwrap()).unwrap();
        assert!(found.converged && (found.objective - 0.125).abs() < 0.01 * 2f64.ln(), "{found:?}");
        let found = hinge(&TrainingData::new(&blocks, 4.0, 0).unwrap()).unwrap();
        assert!((found.head.packed()[(1, 0)] - 0.25).abs() < 1e-3, "{found:?}");
    }

    #[test]
    fn no_other_head_is_much_better() {
        let data = GaussianClusters::new(200, 3, 3, 5);
        let blocks = [data.samples()];
        let set = TrainingData::new(&blocks, 0.01, 0).unwrap();
        let found = hinge(&set).unwrap();
        for seed in 0..50 {
            let near = found.head.packed().to_owned() + random(3, 4, seed) * 0.1;
            assert!(exact(&near, &set) > found.objective - 0.01 * 3f64.ln());
        }
    }
}
