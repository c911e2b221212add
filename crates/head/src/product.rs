//! Products of matrices on one thread.

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, MatMut, MatRef, Par};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, s};

use crate::float::Float;

/// A matrix that lies in memory without gaps, row by row or column by column.
fn dense<T>(matrix: ArrayView2<'_, T>) -> Option<MatRef<'_, T>> {
    let (rows, columns) = matrix.dim();
    match matrix.to_slice() {
        Some(slice) => Some(MatRef::from_row_major_slice(slice, rows, columns)),
        None => matrix.reversed_axes().to_slice().map(|slice| MatRef::from_column_major_slice(slice, rows, columns)),
    }
}

/// `out += Z Wᵀ`, for features `[n, d]`, packed parameters `[K, d + 1]` and scores `[n, K]`.
pub(crate) fn add_scores<T: Float>(
    features: ArrayView2<'_, T>,
    packed: ArrayView2<'_, T>,
    out: &mut ArrayViewMut2<'_, T>,
) {
    let (n, dim) = features.dim();
    if let (Some(z), Some(w), Some(to)) = (dense(features), dense(packed), out.as_slice_mut()) {
        let to = MatMut::from_row_major_slice_mut(to, n, packed.nrows());
        matmul(to, Accum::Add, z, w.subcols(0, dim).transpose(), T::of(1.0), Par::Seq);
    } else {
        general_mat_mul(T::of(1.0), &features, &packed.slice(s![.., ..dim]).t(), T::of(1.0), out);
    }
}

/// `V Wᵀ`, the products `[r, K]` of the weights of packed parameters `[r, d + 1]` and `[K, d + 1]`.
#[must_use]
pub fn weight_products(rows: ArrayView2<'_, f64>, packed: ArrayView2<'_, f64>) -> Array2<f64> {
    let dim = packed.ncols() - 1;
    let mut out = Array2::zeros((rows.nrows(), packed.nrows()));
    if let (Some(v), Some(w), Some(to)) = (dense(rows), dense(packed), out.as_slice_mut()) {
        let to = MatMut::from_row_major_slice_mut(to, rows.nrows(), packed.nrows());
        matmul(to, Accum::Replace, v.subcols(0, dim), w.subcols(0, dim).transpose(), 1.0, Par::Seq);
    } else {
        general_mat_mul(1.0, &rows.slice(s![.., ..dim]), &packed.slice(s![.., ..dim]).t(), 0.0, &mut out);
    }
    out
}

/// `out[.., ..d] += cᵀ Z`, for coefficients `[n, K]`, features `[n, d]` and packed sums `[K, d + 1]`.
pub(crate) fn add_sums<T: Float>(coefficients: ArrayView2<'_, T>, features: ArrayView2<'_, T>, out: &mut Array2<T>) {
    let ((classes, columns), dim) = (out.dim(), features.ncols());
    if let (Some(c), Some(z), Some(to)) = (dense(coefficients), dense(features), out.as_slice_mut()) {
        let to = MatMut::from_row_major_slice_mut(to, classes, columns).subcols_mut(0, dim);
        matmul(to, Accum::Add, c.transpose(), z, T::of(1.0), Par::Seq);
    } else {
        let mut out = out.slice_mut(s![.., ..dim]);
        general_mat_mul(T::of(1.0), &coefficients.t(), &features, T::of(1.0), &mut out);
    }
}

/// `out += C W`, for coefficients `[n, K]`, packed parameters `[K, d + 1]` and an output `[n, d]`.
pub(crate) fn add_weighted(c: ArrayView2<'_, f64>, packed: ArrayView2<'_, f64>, out: &mut ArrayViewMut2<'_, f64>) {
    let (n, dim) = out.dim();
    if let (Some(c), Some(w), Some(to)) = (dense(c), dense(packed), out.as_slice_mut()) {
        matmul(MatMut::from_row_major_slice_mut(to, n, dim), Accum::Add, c, w.subcols(0, dim), 1.0, Par::Seq);
    } else {
        general_mat_mul(1.0, &c, &packed.slice(s![.., ..dim]), 1.0, out);
    }
}

/// The upper triangle of `out[.., ..d] += Zᵀ Z`, for features `[n, d]` and an output `[d, d + 1]`.
pub(crate) fn add_moments(features: ArrayView2<'_, f64>, out: &mut Array2<f64>) {
    let (dim, columns) = out.dim();
    if let (Some(z), Some(to)) = (dense(features), out.as_slice_mut()) {
        let to = MatMut::from_row_major_slice_mut(to, dim, columns).subcols_mut(0, dim);
        let whole = BlockStructure::Rectangular;
        triangular::matmul(
            to,
            BlockStructure::TriangularUpper,
            Accum::Add,
            z.transpose(),
            whole,
            z,
            whole,
            1.0,
            Par::Seq,
        );
    } else {
        general_mat_mul(1.0, &features.t(), &features, 1.0, &mut out.slice_mut(s![.., ..dim]));
    }
}

/// `TᵀT G` for some rows of a lower triangular `T`, `[rows, D]`, of which only the first `columns` columns are not
/// zero, and `G`, `[D, K]`. The result has `columns` rows.
pub(crate) fn whiten(lower: ArrayView2<'_, f64>, columns: usize, across: &Array2<f64>) -> Array2<f64> {
    let (rows, classes) = (lower.nrows(), across.ncols());
    let (mut white, mut out) = (Mat::<f64>::zeros(rows, classes), Array2::zeros((columns, classes)));
    let t = dense(lower).expect("a triangular matrix lies in memory row by row").subcols(0, columns);
    let g = dense(across.view()).expect("a gradient lies in memory row by row").subrows(0, columns);
    let to = out.as_slice_mut().expect("a new matrix lies in memory row by row");
    matmul(white.as_mut(), Accum::Replace, t, g, 1.0, Par::Seq);
    let to = MatMut::from_row_major_slice_mut(to, columns, classes);
    matmul(to, Accum::Replace, t.transpose(), white.as_ref(), 1.0, Par::Seq);
    out
}

/// `out = a b`.
pub(crate) fn multiply(a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>, out: &mut ArrayViewMut2<'_, f64>) {
    let (rows, columns) = out.dim();
    if let (Some(left), Some(right), Some(to)) = (dense(a), dense(b), out.as_slice_mut()) {
        matmul(MatMut::from_row_major_slice_mut(to, rows, columns), Accum::Replace, left, right, 1.0, Par::Seq);
    } else {
        general_mat_mul(1.0, &a, &b, 0.0, out);
    }
}
