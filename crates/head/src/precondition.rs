//! A preconditioner for the training objective. With it, training takes about as many steps whatever the scale, offset
//! and correlation of the features.

use std::sync::Arc;

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut2, Axis, Slice, concatenate, s};
use rayon::prelude::*;

use crate::kernel::{held, sum_chunks};
use crate::product::{self, add_moments, multiply};
use crate::samples::{count, subsample};
use crate::{Head, HeadError, Samples, probabilities};
use hemlock_optim::Snapshot;

/// Added to the unit diagonal of the scaled matrix, so that it stays positive definite with constant or repeated
/// columns.
const JITTER: f64 = 1e-10;
/// Rows per chunk of the second moments. It is large because each chunk's sum is as large as the whole matrix `AᵀA`.
const MOMENTS_CHUNK: usize = 2048;
/// The largest number of samples of each block that the Hessian's blocks are estimated on, and the largest number of
/// elements that the Hessian's blocks may have together.
const ROWS: usize = 4096;
const MOST_ELEMENTS: usize = 1 << 24;
/// Rows of a triangular matrix that a gradient is multiplied by at a time. They stay in a core's cache between two
/// products.
const WHITENED: usize = 64;
/// Matrices with at most this many rows are factorised element by element.
const SMALL: usize = 128;

/// An approximate inverse of the training objective's Hessian. The approximation may be rough: a preconditioner for the
/// clean samples also serves every training set that adds a few poisons to them.
#[derive(Debug, Clone, PartialEq)]
pub struct Preconditioner {
    /// Lower triangular matrices `T`, `[d + 1, d + 1]`: either one for each class or one for all. A class's row of a
    /// gradient is multiplied by `TᵀT`.
    whitening: Vec<Array2<f64>>,
}

impl Preconditioner {
    /// The inverse Hessian at the zero head, for the samples of all blocks.
    ///
    /// At the zero head, the Hessian multiplies every row of a gradient (whose columns sum to zero over classes) by the
    /// same matrix, `AᵀA / (N K) + λ diag(1, …, 1, 0)` with `A = [Z, 1]`.
    ///
    /// # Errors
    /// Returns an error if there are no samples, if the blocks differ in their features or classes, or if the weight
    /// decay is negative or not finite.
    pub fn new(blocks: &[Samples<'_>], weight_decay: f64) -> Result<Self, HeadError> {
        Self::for_each(blocks, &[weight_decay]).map(|mut one| one.remove(0))
    }

    /// [`Preconditioner::new`] for several weight decays, in their order. The samples are read once.
    ///
    /// # Errors
    /// Returns the errors of [`Preconditioner::new`].
    pub fn for_each(blocks: &[Samples<'_>], weight_decays: &[f64]) -> Result<Vec<Self>, HeadError> {
        weight_decays.iter().try_for_each(|decay| HeadError::check_non_negative("weight_decay", *decay))?;
        let count = count(blocks)?;
        let first = blocks.first().ok_or(HeadError::Empty)?;
        let (dim, classes) = (first.dim(), first.classes());
        Head::zeros(classes, dim)?.check_samples(blocks)?;
        let mut cross_entropy = second_moments(blocks, dim);
        cross_entropy /= (count * classes) as f64;
        let with = |weight_decay: &f64| {
            let mut hessian = cross_entropy.clone();
            add_decay(&mut hessian, *weight_decay);
            Self { whitening: vec![whitening(hessian)] }
        };
        Ok(weight_decays.iter().map(with).collect())
    }

    /// The inverses of the Hessian's diagonal blocks at `head`, one for each class:
    /// `Aᵀ diag(p ∘ (1 - p)) A / N + λ diag(1, …, 1, 0)`, estimated on some thousand samples of each block of samples.
    ///
    /// With many classes this is a much better approximation than [`Preconditioner::new`], but it takes more time and
    /// memory. If the matrices of all classes together are too large, [`Preconditioner::new`] is returned instead.
    ///
    /// # Errors
    /// Returns an error if there are no samples, if the samples do not fit the head, or if the weight decay is negative
    /// or not finite.
    pub fn at(head: &Head, blocks: &[Samples<'_>], weight_decay: f64) -> Result<Self, HeadError> {
        HeadError::check_non_negative("weight_decay", weight_decay)?;
        head.check_samples(blocks)?;
        let (dim, count) = (head.dim(), count(blocks)?);
        if head.classes() * (dim + 1) * (dim + 1) > MOST_ELEMENTS {
            return Self::new(blocks, weight_decay);
        }
        let mut z = Array2::zeros((0, dim));
        // The weight of each drawn sample: the fraction of all samples that it stands for.
        let mut weights = Vec::new();
        for samples in blocks {
            let rows = subsample(samples.len(), ROWS);
            z = concatenate![Axis(0), z, samples.select(&rows)];
            weights.extend(rows.iter().map(|_| samples.len() as f64 / (rows.len() * count) as f64));
        }
        let weights = Array1::from(weights);
        let probabilities = probabilities(head, z.view())?;
        let a = concatenate![Axis(1), z, Array2::ones((weights.len(), 1))];
        let block = |p: ArrayView1<'_, f64>| {
            let deviations = (&p * &(1.0 - &p) * &weights).mapv(f64::sqrt);
            let weighted = &a * &deviations.insert_axis(Axis(1));
            let mut hessian = weighted.t().dot(&weighted);
            add_decay(&mut hessian, weight_decay);
            whitening(hessian)
        };
        let columns: Vec<_> = probabilities.columns().into_iter().collect();
        Ok(Self { whitening: columns.into_par_iter().map(block).collect() })
    }

    /// The matrices, as a state.
    #[must_use]
    pub fn state(&self) -> Snapshot {
        let state = Snapshot::default().with("matrices", self.whitening.len());
        self.whitening.iter().enumerate().fold(state, |state, (i, matrix)| state.with_matrix(&i.to_string(), matrix))
    }

    /// The preconditioner with a state.
    ///
    /// # Errors
    /// Returns what is wrong with the state.
    pub fn from_state(state: &Snapshot) -> Result<Self, String> {
        let matrices: usize = state.get("matrices")?;
        let whitening = (0..matrices).map(|i| state.matrix(&i.to_string())).collect::<Result<Vec<_>, _>>()?;
        let size = whitening.first().map_or(0, Array2::nrows);
        if size < 2 || whitening.iter().any(|matrix| matrix.dim() != (size, size)) {
            return Err("its preconditioner has another shape".to_owned());
        }
        Ok(Self { whitening })
    }

    /// Whether it was made at a head and has a matrix for each class ([`Preconditioner::at`]).
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.whitening.len() > 1
    }

    /// The given preconditioner or, without one, a new one for these samples, which fit the head. Returns an error if
    /// the given one has other classes or features than the head.
    pub(crate) fn given_or_new(
        given: Option<&Arc<Self>>,
        blocks: &[Samples<'_>],
        weight_decay: f64,
        head: &Head,
    ) -> Result<Arc<Self>, HeadError> {
        let Some(given) = given else { return Ok(Arc::new(Self::new(blocks, weight_decay)?)) };
        if given.whitening.len() != 1 && given.whitening.len() != head.classes() {
            return Err(HeadError::ClassCount { expected: head.classes(), found: given.whitening.len() });
        }
        for whitening in &given.whitening {
            head.check_dim(whitening.nrows() - 1)?;
        }
        Ok(Arc::clone(given))
    }

    /// The approximate inverse Hessian times a gradient, `[K, d + 1]`.
    #[must_use]
    pub fn apply(&self, gradient: &Array2<f64>) -> Array2<f64> {
        match &self.whitening[..] {
            [one] => whiten(gradient, one),
            each => {
                let mut product = Array2::zeros(gradient.dim());
                let rows = product.axis_iter_mut(Axis(0)).into_par_iter().zip(gradient.axis_iter(Axis(0))).zip(each);
                rows.for_each(|((mut to, row), whitening)| to.assign(&whitening.t().dot(&whitening.dot(&row))));
                product
            }
        }
    }
}

/// `G TᵀT` for a gradient `G`, `[K, d + 1]`, and a lower triangular `T`. Rows of `T` are read once.
fn whiten(gradient: &Array2<f64>, lower: &Array2<f64>) -> Array2<f64> {
    let (classes, size) = gradient.dim();
    let across = gradient.t().as_standard_layout().into_owned();
    let part = |(i, rows): (usize, ArrayView2<'_, f64>)| product::whiten(rows, i * WHITENED + rows.nrows(), &across);
    let blocks: Vec<_> = lower.axis_chunks_iter(Axis(0), WHITENED).enumerate().collect();
    let mut product = Array2::zeros((size, classes));
    for blocks in blocks.chunks(held(gradient.len())) {
        for some in blocks.par_iter().copied().map(part).collect::<Vec<_>>() {
            let mut rows = product.slice_mut(s![..some.nrows(), ..]);
            rows += &some;
        }
    }
    product.reversed_axes().as_standard_layout().into_owned()
}

/// Adds `λ diag(1, …, 1, 0)` to `hessian`.
fn add_decay(hessian: &mut Array2<f64>, weight_decay: f64) {
    let mut decayed = hessian.diag_mut();
    let dim = decayed.len() - 1;
    decayed.slice_axis_inplace(Axis(0), Slice::from(..dim));
    decayed += weight_decay;
}

/// `AᵀA` with `A = [Z, 1]`, `[d + 1, d + 1]`.
fn second_moments(blocks: &[Samples<'_>], dim: usize) -> Array2<f64> {
    let zero = Array2::zeros((dim, dim + 1));
    let part = |_: ArrayViewMut2<'_, f64>, z: ArrayView2<'_, f64>, _: Samples<'_>| {
        let mut part = Array2::zeros((dim, dim + 1));
        add_moments(z, &mut part);
        part.column_mut(dim).assign(&z.sum_axis(Axis(0)));
        part
    };
    let features = sum_chunks(blocks, (MOMENTS_CHUNK, 0, zero.len()), part, zero, |sum, part| sum + part);
    let count: usize = blocks.iter().map(Samples::len).sum();
    Array2::from_shape_fn((dim + 1, dim + 1), |(row, column)| match (row.min(column), row.max(column)) {
        (low, _) if low == dim => count as f64,
        index => features[index],
    })
}

/// The lower triangular `T` with `TᵀT = M⁻¹`, for a positive semidefinite matrix `M`: the inverse of its Cholesky
/// factor. `M` is scaled to a unit diagonal before it is factorised.
fn whitening(mut matrix: Array2<f64>) -> Array2<f64> {
    let scale = matrix.diag().mapv(|value| if value > 0.0 { value.sqrt().recip() } else { 1.0 });
    matrix *= &scale;
    matrix *= &scale.view().insert_axis(Axis(1));
    let mut inverse = inverse_factor(matrix.view());
    inverse *= &scale;
    inverse
}

/// The inverse of the Cholesky factor. The recursion halves the matrix, so that most of the work is matrix products.
///
/// With `M = [A, Bᵀ; B, C]`, the inverse factor `T` of `A`, and `L = B Tᵀ`, it is `[T, 0; -S L T, S]`, where `S` is the
/// inverse factor of `C - L Lᵀ`.
fn inverse_factor(matrix: ArrayView2<'_, f64>) -> Array2<f64> {
    if matrix.nrows() <= SMALL {
        return invert_lower(cholesky(matrix).view());
    }
    let half = matrix.nrows() / 2;
    let (above, below) = matrix.split_at(Axis(0), half);
    let (b, c) = below.split_at(Axis(1), half);
    let first = inverse_factor(above.split_at(Axis(1), half).0);
    let across = product(b, first.t());
    let second = inverse_factor((&c - &product(across.view(), across.t())).view());
    let mut inverse = Array2::zeros(matrix.dim());
    inverse.slice_mut(s![..half, ..half]).assign(&first);
    inverse.slice_mut(s![half.., half..]).assign(&second);
    inverse.slice_mut(s![half.., ..half]).assign(&-product(second.view(), product(across.view(), first.view()).view()));
    inverse
}

/// The product of two matrices, computed on all threads.
fn product(a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>) -> Array2<f64> {
    let mut product = Array2::zeros((a.nrows(), b.ncols()));
    let chunks = product.axis_chunks_iter_mut(Axis(0), SMALL).into_par_iter();
    chunks.zip(a.axis_chunks_iter(Axis(0), SMALL)).for_each(|(mut to, a)| multiply(a, b, &mut to));
    product
}

/// The Cholesky factor of a matrix whose diagonal is at most 1, after adding [`JITTER`] to the diagonal.
fn cholesky(matrix: ArrayView2<'_, f64>) -> Array2<f64> {
    let mut factor = Array2::zeros(matrix.dim());
    for row in 0..matrix.nrows() {
        // The products take whole rows: the elements that are not computed yet are still zero.
        for column in 0..row {
            let known = factor.row(row).dot(&factor.row(column));
            factor[(row, column)] = (matrix[(row, column)] - known) / factor[(column, column)];
        }
        let known = factor.row(row);
        let pivot: f64 = matrix[(row, row)] + JITTER - known.dot(&known);
        // Rounding may push the pivot of a dependent column below the jitter.
        factor[(row, row)] = pivot.max(JITTER).sqrt();
    }
    factor
}

/// The inverse of a lower triangular matrix with a positive diagonal.
fn invert_lower(factor: ArrayView2<'_, f64>) -> Array2<f64> {
    let mut inverse: Array2<f64> = Array2::zeros(factor.dim());
    for row in 0..factor.nrows() {
        let (above, mut below) = inverse.view_mut().split_at(Axis(0), row);
        let mut solved = below.row_mut(0);
        for (&known, above) in factor.row(row).iter().zip(above.rows()) {
            solved.scaled_add(-known, &above);
        }
        solved[row] = 1.0;
        solved /= factor[(row, row)];
    }
    inverse
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};

    use super::*;
    use crate::loss::add_weight_decay;
    use crate::testing::{GaussianClusters, assert_close, random};
    use crate::{FitOptions, SolveOptions, fit, hessian_vector_sum, solve_hessian};

    #[test]
    fn inverts_the_hessian_of_the_zero_head() {
        let (n, d, classes, decay) = (50, 6, 4, 0.01);
        let data = GaussianClusters::new(n, d, classes, 3);
        let blocks = [data.samples()];
        // A direction that sums to zero over classes, as gradients do.
        let mut direction = random(classes, d + 1, 4);
        direction -= &(direction.sum_axis(Axis(0)) / classes as f64);

        let head = Head::zeros(classes, d).unwrap();
        let mut product = hessian_vector_sum(&head, &blocks, direction.view()).unwrap() / n as f64;
        add_weight_decay(direction.view(), decay, &mut product);
        assert_close(&Preconditioner::new(&blocks, decay).unwrap().apply(&product), &direction, 1e-7);
    }

    #[test]
    fn inverts_the_blocks_at_a_head() {
        let (n, d, classes, decay) = (60, 3, 4, 0.01);
        let data = GaussianClusters::new(n, d, classes, 3);
        let head = Head::from_packed(random(classes, d + 1, 5)).unwrap();
        let preconditioner = Preconditioner::at(&head, &[data.samples()], decay).unwrap();
        for class in 0..classes {
            // A direction in one class, and the row of the product that belongs to this class.
            let mut direction = Array2::zeros((classes, d + 1));
            direction.row_mut(class).assign(&random(1, d + 1, 6).row(0));
            let mut product = hessian_vector_sum(&head, &[data.samples()], direction.view()).unwrap() / n as f64;
            add_weight_decay(direction.view(), decay, &mut product);
            let mut own = Array2::zeros((classes, d + 1));
            own.row_mut(class).assign(&product.row(class));
            assert_close(&preconditioner.apply(&own), &direction, 1e-7);
        }
    }

    #[test]
    fn blocks_count_as_one_set() {
        let (data, more) = (GaussianClusters::new(60, 3, 4, 3), GaussianClusters::new(20, 3, 4, 5));
        let features = ndarray::concatenate![Axis(0), data.samples().to_f64(), more.samples().to_f64()];
        let labels = [data.samples().labels(), more.samples().labels()].concat();
        let both = Samples::new(features.view(), &labels, 4).unwrap();
        let (head, direction) = (Head::from_packed(random(4, 4, 5)).unwrap(), random(4, 4, 6));
        let apply = |blocks: &[Samples<'_>]| Preconditioner::at(&head, blocks, 0.01).unwrap().apply(&direction);
        assert_close(&apply(&[data.samples(), more.samples()]), &apply(&[both]), 1e-9);
    }

    /// Samples far from the others add curvature where the others have none, so the preconditioner has to include them.
    #[test]
    fn it_has_to_know_samples_that_are_far_out() {
        let (data, decay) = (GaussianClusters::new(200, 8, 3, 3), 1e-3);
        let far = random(20, 8, 4) * 100.0;
        let labels: Vec<u32> = (0..20).map(|i| i % 3).collect();
        let blocks = [data.samples(), Samples::new(far.view(), &labels, 3).unwrap()];
        let head = fit(&blocks, &FitOptions::new(decay), &|_, _| true).unwrap().head;
        let iterations = |blocks_known: &[Samples<'_>]| {
            let preconditioner = Arc::new(Preconditioner::at(&head, blocks_known, decay).unwrap());
            let options = SolveOptions { preconditioner: Some(preconditioner), ..SolveOptions::new(decay) };
            solve_hessian(&head, &blocks, random(3, 9, 7).view(), &options).unwrap().iterations
        };
        let (all, near) = (iterations(&blocks), iterations(&blocks[..1]));
        assert!(2 * all < near, "{all} {near}");
    }

    #[test]
    fn survives_zero_constant_and_repeated_columns() {
        let features = Array2::from_shape_fn((9, 4), |(row, column)| [0.0, 7.0, row as f64, row as f64][column]);
        let samples = Samples::new(features.view(), &[0; 9], 2).unwrap();
        let preconditioned = Preconditioner::new(&[samples], 0.0).unwrap().apply(&Array2::ones((2, 5)));
        assert!(preconditioned.iter().all(|value| value.is_finite()), "{preconditioned}");
    }

    #[test]
    fn whitens_by_hand() {
        let matrix = array![[4.0, 2.0], [2.0, 5.0]];
        let inverse = whitening(matrix.clone());
        assert_close(&inverse.dot(&matrix).dot(&inverse.t()), &Array2::eye(2), 1e-9);
        assert_eq!(inverse[(0, 1)], 0.0);
    }

    #[test]
    fn large_matrices_are_factored_like_small_ones() {
        let n = 2 * SMALL + 3;
        let wide = random(n, n + 5, 8);
        let matrix = wide.dot(&wide.t()) / n as f64;
        let by_elements = invert_lower(cholesky(matrix.view()).view());
        assert_close(&inverse_factor(matrix.view()), &by_elements, 1e-8);
    }
}
