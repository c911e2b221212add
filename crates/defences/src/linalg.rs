//! Decompositions of symmetric matrices, and products of tall ones.

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::linalg::solvers::DenseSolveCore;
use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::traits::ComplexField;
use faer::{Accum, Mat, MatMut, MatRef, Par, Side};
use hemlock_optim::{inner, norm};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, CowArray, Ix2, LinalgScalar};
use rayon::prelude::*;

use crate::DefenceError;

/// Rows per chunk of `ZᵀZ`. It is large because each chunk's sum is as large as the whole matrix.
const ROWS: usize = 2048;
/// Number of chunks whose sums wait to be added.
const WAITING: usize = 8;

/// `ZᵀZ`, `[d, d]`, of a tall matrix `[n, d]`.
pub(crate) fn gram(z: ArrayView2<'_, f64>) -> Array2<f64> {
    let chunks: Vec<_> = z.axis_chunks_iter(Axis(0), ROWS).collect();
    chunks.chunks(WAITING).fold(Array2::zeros((z.ncols(), z.ncols())), |sum, some| {
        let parts: Vec<_> = some.par_iter().map(|z| gram_of(*z)).collect();
        parts.into_iter().fold(sum, |sum, part| sum + part)
    })
}

/// `ZᵀZ` on one thread.
fn gram_of(z: ArrayView2<'_, f64>) -> Array2<f64> {
    let z = z.as_standard_layout();
    let mut out = Array2::zeros((z.ncols(), z.ncols()));
    let (left, right) = (faer_of(&z).transpose(), faer_of(&z));
    use BlockStructure::{Rectangular, TriangularLower};
    let half = (TriangularLower, Rectangular, Rectangular);
    triangular::matmul(faer_mut(&mut out), half.0, Accum::Replace, left, half.1, right, half.2, 1.0, Par::Seq);
    for row in 0..z.ncols() {
        for column in 0..row {
            out[(column, row)] = out[(row, column)];
        }
    }
    out
}

/// `A B`, on one thread.
pub(crate) fn times(a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>) -> Array2<f64> {
    let (a, b) = (a.as_standard_layout(), b.as_standard_layout());
    let mut out = Array2::zeros((a.nrows(), b.ncols()));
    matmul(faer_mut(&mut out), Accum::Replace, faer_of(&a), faer_of(&b), 1.0, Par::Seq);
    out
}

/// `A Bᵀ`, on one thread.
pub(crate) fn times_transposed<F>(a: ArrayView2<'_, F>, b: ArrayView2<'_, F>) -> Array2<F>
where
    F: LinalgScalar + ComplexField,
{
    let (a, b) = (a.as_standard_layout(), b.as_standard_layout());
    let mut out = Array2::zeros((a.nrows(), b.nrows()));
    matmul(faer_mut(&mut out), Accum::Replace, faer_of(&a), faer_of(&b).transpose(), F::one(), Par::Seq);
    out
}

/// `A Lᵀ`, on one thread, for a lower triangular matrix `L`.
fn times_transposed_lower(a: ArrayView2<'_, f64>, lower: ArrayView2<'_, f64>) -> Array2<f64> {
    let (a, lower) = (a.as_standard_layout(), lower.as_standard_layout());
    let mut out = Array2::zeros((a.nrows(), lower.nrows()));
    use BlockStructure::{Rectangular, TriangularUpper};
    let (left, right) = (faer_of(&a), faer_of(&lower).transpose());
    let to = faer_mut(&mut out);
    triangular::matmul(to, Rectangular, Accum::Replace, left, Rectangular, right, TriangularUpper, 1.0, Par::Seq);
    out
}

/// A matrix in standard layout, as the library reads it.
fn faer_of<'a, F>(matrix: &'a CowArray<'_, F, Ix2>) -> MatRef<'a, F> {
    let slice = matrix.as_slice().expect("a matrix in standard layout is contiguous");
    MatRef::from_row_major_slice(slice, matrix.nrows(), matrix.ncols())
}

fn faer_mut<F>(matrix: &mut Array2<F>) -> MatMut<'_, F> {
    let (rows, columns) = matrix.dim();
    let slice = matrix.as_slice_mut().expect("a new matrix is contiguous");
    MatMut::from_row_major_slice_mut(slice, rows, columns)
}

/// `Z V`, `[n, k]`, of a tall matrix `[n, d]` and a small one.
pub(crate) fn product(z: ArrayView2<'_, f64>, v: ArrayView2<'_, f64>) -> Array2<f64> {
    let mut out = Array2::zeros((z.nrows(), v.ncols()));
    let chunks = out.axis_chunks_iter_mut(Axis(0), 256).into_par_iter();
    chunks.zip(z.axis_chunks_iter(Axis(0), 256)).for_each(|(mut out, z)| out.assign(&times(z, v)));
    out
}

/// The eigenvalues of a symmetric matrix, largest first, and its eigenvectors as columns in the same order.
pub(crate) fn eigen(matrix: &Array2<f64>) -> Result<(Array1<f64>, Array2<f64>), DefenceError> {
    let n = matrix.nrows();
    let singular = |_| DefenceError::Singular { what: "a matrix of second moments" };
    let found = to_faer(matrix).self_adjoint_eigen(Side::Lower).map_err(singular)?;
    let (values, vectors) = (found.S().column_vector(), found.U());
    // The library sorts them in ascending order.
    let values = Array1::from_shape_fn(n, |i| values[n - 1 - i]);
    Ok((values, Array2::from_shape_fn((n, n), |(row, i)| vectors[(row, n - 1 - i)])))
}

/// The inverse of a symmetric positive definite matrix. `what` names it in errors.
pub(crate) fn inverse(matrix: &Array2<f64>, what: &'static str) -> Result<Array2<f64>, DefenceError> {
    let (scaled, scale) = unit_diagonal(matrix);
    let factor = scaled.llt(Side::Lower).map_err(|_| DefenceError::Singular { what })?;
    let inverse = factor.inverse();
    finite(Array2::from_shape_fn(matrix.dim(), |(i, j)| inverse[(i, j)] * scale[i] * scale[j]), what)
}

/// The inverse `T` of the Cholesky factor of a symmetric positive definite matrix, so that `xᵀ M⁻¹ x = |T x|²`. It is
/// lower triangular. `what` names the matrix in errors.
pub(crate) fn whitening(matrix: &Array2<f64>, what: &'static str) -> Result<Array2<f64>, DefenceError> {
    let (scaled, scale) = unit_diagonal(matrix);
    let factor = scaled.llt(Side::Lower).map_err(|_| DefenceError::Singular { what })?;
    let mut inverse = Mat::zeros(matrix.nrows(), matrix.ncols());
    invert_lower_triangular(inverse.as_mut(), factor.L(), Par::Seq);
    finite(Array2::from_shape_fn(matrix.dim(), |(i, j)| if j > i { 0.0 } else { inverse[(i, j)] * scale[j] }), what)
}

/// The squared norms `|T a|²`, `[n]`, of the rows `a` of a matrix `[n, d]`, with the result of [`whitening`]. On one
/// thread.
pub(crate) fn whitened_squares(a: ArrayView2<'_, f64>, whitening: ArrayView2<'_, f64>) -> Vec<f64> {
    let of = |a: ArrayView2<'_, f64>| {
        let rows = times_transposed_lower(a, whitening);
        rows.rows().into_iter().map(squared).collect::<Vec<_>>()
    };
    a.axis_chunks_iter(Axis(0), 256).flat_map(of).collect()
}

/// A symmetric matrix scaled to a unit diagonal, which makes a factorisation independent of the units of the features;
/// and the factors of its rows and columns.
fn unit_diagonal(matrix: &Array2<f64>) -> (Mat<f64>, Array1<f64>) {
    let scale: Array1<f64> = matrix.diag().mapv(|value| if value > 0.0 { value.sqrt().recip() } else { 1.0 });
    (Mat::from_fn(matrix.nrows(), matrix.ncols(), |i, j| matrix[(i, j)] * scale[i] * scale[j]), scale)
}

fn finite(inverse: Array2<f64>, what: &'static str) -> Result<Array2<f64>, DefenceError> {
    if inverse.iter().all(|value| value.is_finite()) { Ok(inverse) } else { Err(DefenceError::Singular { what }) }
}

fn to_faer(matrix: &Array2<f64>) -> Mat<f64> {
    Mat::from_fn(matrix.nrows(), matrix.ncols(), |i, j| matrix[(i, j)])
}

/// Largest number of products of [`largest_eigenvector`].
const PRODUCTS: usize = 100;

/// The eigenvector, of norm 1, of the largest eigenvalue of a positive semidefinite operator on matrices: the method of
/// Lanczos, with full orthogonalisation. It stops when the norm of the residual, relative to the eigenvalue, is at most
/// `tolerance`. `start` may be near the eigenvector.
pub(crate) fn largest_eigenvector(
    times: impl Fn(&Array2<f64>) -> Array2<f64>,
    shape: (usize, usize),
    start: Option<Array2<f64>>,
    tolerance: f64,
) -> Result<Array2<f64>, DefenceError> {
    // An irregular vector: it has a part in every direction, and so finds what `start` may lack.
    let irregular = Array2::from_shape_fn(shape, |(i, j)| (1.0 + (i * shape.1 + j) as f64).powf(1.5).sin());
    let irregular = &irregular / norm(&irregular);
    let first = match start {
        Some(start) => start + irregular * 1e-3,
        None => irregular,
    };
    let mut basis = vec![&first / norm(&first)];
    let (mut diagonal, mut beside) = (Vec::new(), Vec::new());
    loop {
        let last = &basis[basis.len() - 1];
        let mut next = times(last);
        diagonal.push(inner(&next, last));
        // Twice, because one pass leaves rounding errors of the size of what it removes.
        for _ in 0..2 {
            for one in &basis {
                let along = inner(&next, one);
                next.scaled_add(-along, one);
            }
        }
        let rest = norm(&next);
        let n = diagonal.len();
        let tridiagonal = Array2::from_shape_fn((n, n), |(i, j)| match i.abs_diff(j) {
            0 => diagonal[i],
            1 => beside[i.min(j)],
            _ => 0.0,
        });
        let (values, vectors) = eigen(&tridiagonal)?;
        let residual = rest * vectors[(n - 1, 0)].abs();
        if residual <= tolerance * values[0].abs() || n == PRODUCTS.min(shape.0 * shape.1) {
            let zero = Array2::zeros(shape);
            let vector = basis.iter().zip(vectors.column(0)).fold(zero, |sum, (one, share)| sum + one * *share);
            let size = norm(&vector);
            return Ok(vector / size);
        }
        beside.push(rest);
        basis.push(next / rest);
    }
}

/// The mean of the rows, `[d]`. There is at least one.
pub(crate) fn mean(z: ArrayView2<'_, f64>) -> Array1<f64> {
    z.sum_axis(Axis(0)) / z.nrows() as f64
}

/// Subtracts the mean of the rows from every row.
pub(crate) fn centre(z: &mut Array2<f64>) {
    let mean = mean(z.view());
    *z -= &mean;
}

pub(crate) fn squared(z: ArrayView1<'_, f64>) -> f64 {
    z.dot(&z)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_head::testing::{assert_close, random};

    #[test]
    fn eigenvectors_diagonalise_and_inverses_invert() {
        let z = random(50, 7, 1);
        let moments = gram(z.view());
        assert_close(&moments, &z.t().dot(&z), 1e-12);
        let (values, vectors) = eigen(&moments).unwrap();
        assert!(values.iter().zip(values.iter().skip(1)).all(|(a, b)| a >= b));
        assert_close(&vectors.t().dot(&moments).dot(&vectors), &Array2::from_diag(&values), 1e-10);
        assert_close(&moments.dot(&inverse(&moments, "it").unwrap()), &Array2::eye(7), 1e-10);
        assert_close(&product(z.view(), vectors.view()), &z.dot(&vectors), 1e-12);
        let (wide, other) = (random(9, 7, 2), random(5, 7, 3));
        assert_close(&times_transposed(wide.view(), other.view()), &wide.dot(&other.t()), 1e-12);
        assert_close(&times(wide.view(), other.t()), &wide.dot(&other.t()), 1e-12);
        let whitening = whitening(&moments, "it").unwrap();
        assert_close(&whitening.t().dot(&whitening).dot(&moments), &Array2::eye(7), 1e-10);
        let solved = z.dot(&inverse(&moments, "it").unwrap());
        for ((square, z), solved) in
            whitened_squares(z.view(), whitening.view()).iter().zip(z.rows()).zip(solved.rows())
        {
            assert!((square - z.dot(&solved)).abs() < 1e-12);
        }
        let top = largest_eigenvector(|v| v.dot(&moments), (1, 7), None, 1e-8).unwrap();
        let expected = vectors.slice(ndarray::s![.., ..1]);
        assert_close(&(&top * top.dot(&expected)), &expected.t().to_owned(), 1e-5);
        let flat = Array2::ones((3, 3));
        assert_eq!(inverse(&flat, "it"), Err(DefenceError::Singular { what: "it" }));
        assert_eq!(super::whitening(&flat, "it"), Err(DefenceError::Singular { what: "it" }));
    }
}
