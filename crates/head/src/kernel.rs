//! Inner loops: matrix products and softmax on one chunk of rows, and the iteration over chunks.

use std::ops::AddAssign;

use ndarray::{Array2, ArrayView2, ArrayViewMut1, ArrayViewMut2, Axis, Slice};
use rayon::prelude::*;

use crate::float::{Float, exponentials, largest};
use crate::parameters::{unpack, unpack_mut};
pub use crate::product::weight_products;
use crate::product::{add_scores, add_sums};
use crate::{Head, Samples};

/// Largest number of rows per chunk.
pub(crate) const CHUNK: usize = 256;
/// Largest number of features in a chunk of a sum. They have to stay in a core's cache between two products.
const CHUNK_ELEMENTS: usize = 1 << 17;
/// A sum with more elements does not stay in a core's cache, so that several chunks are added to it one after the
/// other.
const SMALL_SUM: usize = 1 << 17;
/// The number of these chunks.
const GROUP: usize = 16;

/// Rows per chunk where nothing is summed over rows. It is small, because poisons are few. Results do not depend on it.
pub const ROWS: usize = 64;

/// Calls `part` in parallel on chunks of at most `size` rows, and returns its results in row order. `part` is called
/// with a scratch matrix `[rows, columns]` of unspecified content, the chunk's features in f64, and the chunk.
pub(crate) fn map_chunks<'a, T: Send>(
    blocks: &[Samples<'a>],
    size: usize,
    columns: usize,
    part: impl Fn(ArrayViewMut2<'_, f64>, ArrayView2<'_, f64>, Samples<'a>) -> T + Sync,
) -> Vec<T> {
    let chunks: Vec<_> = blocks.iter().flat_map(|block| block.chunks_of(size)).collect();
    chunks
        .into_par_iter()
        .map_init(
            || (Array2::zeros((size, columns)), Array2::zeros((0, 0))),
            |(scratch, converted), chunk| {
                let scratch = scratch.slice_axis_mut(Axis(0), Slice::from(..chunk.len()));
                part(scratch, chunk.read(converted), chunk)
            },
        )
        .collect()
}

/// Largest number of elements of all partial sums that wait to be added. Heads with many classes have large partial
/// sums.
const MOST_ELEMENTS: usize = 1 << 23;

/// Adds up the results of `part` for all chunks, in row order. `part` is called as in [`map_chunks`]; `zero` is the
/// empty sum, and `elements` is the number of elements of one result.
pub(crate) fn sum_chunks<'a, T: Send>(
    blocks: &[Samples<'a>],
    (size, columns, elements): (usize, usize, usize),
    part: impl Fn(ArrayViewMut2<'_, f64>, ArrayView2<'_, f64>, Samples<'a>) -> T + Sync,
    zero: T,
    add: impl Fn(T, T) -> T,
) -> T {
    let chunks: Vec<_> = blocks.iter().flat_map(|block| block.chunks_of(size)).collect();
    chunks
        .chunks(held(elements))
        .fold(zero, |sum, some| map_chunks(some, size, columns, &part).into_iter().fold(sum, &add))
}

/// The sum of `cᵀ [Z, 1]` over all samples, `[K, d + 1]`, and the sum of what `coefficients` returns. For each chunk of
/// samples it is called with the number of rows before it, with a matrix `[rows, K]` of unspecified content to which it
/// writes `c`, with the chunk's features, and with the chunk.
///
/// How sums are grouped depends on the shapes alone, and not on the number of threads.
pub(crate) fn sum_outer<'a, T: Float, A: AddAssign + Default + Send>(
    blocks: &[Samples<'a>],
    (classes, columns): (usize, usize),
    coefficients: impl Fn(usize, &mut ArrayViewMut2<'_, T>, ArrayView2<'_, T>, Samples<'a>) -> A + Sync,
) -> (A, Array2<f64>) {
    let size = (1 << (CHUNK_ELEMENTS / columns.max(2) + 1).ilog2()).clamp(ROWS, CHUNK);
    let mut before = 0;
    let mut chunks = Vec::new();
    for chunk in blocks.iter().flat_map(|block| block.chunks_of(size)) {
        chunks.push((before, chunk));
        before += chunk.len();
    }
    let of_group = |(c, converted): &mut (Array2<T>, Array2<T>), group: &[(usize, Samples<'a>)]| {
        let mut sum = (A::default(), Array2::<T>::zeros((classes, columns)));
        for (before, chunk) in group {
            let features = T::read(chunk, converted);
            let mut c = c.slice_axis_mut(Axis(0), Slice::from(..chunk.len()));
            sum.0 += coefficients(*before, &mut c, features, *chunk);
            add_outer(&c.view(), features, &mut sum.1);
        }
        sum
    };
    let elements = classes * columns;
    let groups: Vec<_> = chunks.chunks(if elements > SMALL_SUM { GROUP } else { 1 }).collect();
    let mut sum = (A::default(), Array2::<f64>::zeros((classes, columns)));
    for some in groups.chunks(held(elements)) {
        let scratch = || (Array2::zeros((size, classes)), Array2::zeros((0, 0)));
        let parts: Vec<_> = some.par_iter().map_init(scratch, |scratch, group| of_group(scratch, group)).collect();
        for (value, part) in parts {
            sum.0 += value;
            sum.1.zip_mut_with(&part, |sum, part| *sum += (*part).into());
        }
    }
    sum
}

/// How many partial sums of `elements` elements may wait at the same time. Sums do not depend on it.
#[must_use]
pub fn held(elements: usize) -> usize {
    (MOST_ELEMENTS / elements.max(1)).max(8)
}

/// `out = [Z, 1] vᵀ`: the scores `[n, K]` of features `[n, d]` for packed parameters `v`.
pub fn scores(packed: ArrayView2<'_, f64>, features: ArrayView2<'_, f64>, out: &mut ArrayViewMut2<'_, f64>) {
    scores_in(packed, features, out);
}

/// [`scores`] in either precision.
pub(crate) fn scores_in<T: Float>(
    packed: ArrayView2<'_, T>,
    features: ArrayView2<'_, T>,
    out: &mut ArrayViewMut2<'_, T>,
) {
    out.assign(&unpack(packed).1);
    add_scores(features, packed, out);
}

/// `out += cᵀ [Z, 1]`, packed: coefficients `c`, `[n, K]`, times features `[n, d]`.
pub(crate) fn add_outer<T: Float>(coefficients: &ArrayView2<'_, T>, features: ArrayView2<'_, T>, out: &mut Array2<T>) {
    add_sums(*coefficients, features, out);
    let (_, mut bias) = unpack_mut(out);
    bias.zip_mut_with(&coefficients.sum_axis(Axis(0)), |sum, more| *sum += *more);
}

/// Replaces logits by probabilities and returns `log Σ exp(logit)`. Logits are shifted by the largest one, which
/// prevents overflow. The row has to lie in memory without gaps.
pub fn softmax(mut logits: ArrayViewMut1<'_, f64>) -> f64 {
    let scores = logits.as_slice_mut().expect("a row of logits lies in memory without gaps");
    let max = largest(scores);
    normalise(scores, max)
}

/// [`softmax`] of logits whose largest is `max`.
fn normalise<T: Float>(logits: &mut [T], max: T) -> f64 {
    let sum = exponentials(logits, max);
    let scale = T::of(1.0) / sum;
    logits.iter_mut().for_each(|p| *p *= scale);
    max.into() + sum.into().ln()
}

/// The probabilities `[n, K]` of a chunk's features `[n, d]`.
#[must_use]
pub fn probabilities_of(head: &Head, features: ArrayView2<'_, f64>) -> Array2<f64> {
    let mut probabilities = Array2::zeros((features.nrows(), head.classes()));
    fill_probabilities(head, features, &mut probabilities.view_mut());
    probabilities
}

/// [`probabilities_of`] that writes to `out`.
pub(crate) fn fill_probabilities(head: &Head, features: ArrayView2<'_, f64>, out: &mut ArrayViewMut2<'_, f64>) {
    scores(head.packed(), features, out);
    for row in out.rows_mut() {
        softmax(row);
    }
}

/// The summed cross-entropy, and the number of samples that are classified correctly.
#[derive(Default)]
pub(crate) struct Losses {
    pub(crate) sum: f64,
    pub(crate) correct: usize,
}

impl AddAssign for Losses {
    fn add_assign(&mut self, more: Self) {
        self.sum += more.sum;
        self.correct += more.correct;
    }
}

/// Replaces logits `[n, K]` by `P - E`.
pub(crate) fn residuals<T: Float>(logits: &mut ArrayViewMut2<'_, T>, labels: &[u32]) -> Losses {
    let mut losses = Losses::default();
    for (mut row, &label) in logits.rows_mut().into_iter().zip(labels) {
        let label = label as usize;
        let row = row.as_slice_mut().expect("a row of logits lies in memory without gaps");
        let (logit, max) = (row[label], largest(row));
        // Of equal logits, the first counts as predicted.
        let before = row[..label].iter().fold(false, |any, other| any | (*other == max));
        losses.correct += usize::from(logit == max && !before);
        losses.sum += normalise(row, max) - logit.into();
        row[label] -= T::of(1.0);
    }
    losses
}

/// Replaces probabilities `[n, K]` by `P - E`.
pub fn subtract_labels(probabilities: &mut ArrayViewMut2<'_, f64>, labels: &[u32]) {
    for (mut row, &label) in probabilities.rows_mut().into_iter().zip(labels) {
        row[label as usize] -= 1.0;
    }
}

/// Replaces scores `u` `[n, K]` by `(diag p - p pᵀ) u = p ∘ (u - ⟨p, u⟩)`, row by row.
pub fn apply_softmax_jacobian(probabilities: &ArrayView2<'_, f64>, scores: &mut ArrayViewMut2<'_, f64>) {
    for (p, mut u) in probabilities.rows().into_iter().zip(scores.rows_mut()) {
        let mean = p.dot(&u);
        u.zip_mut_with(&p, |u, &p| *u = p * (*u - mean));
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn softmax_survives_saturation() {
        let mut row = array![1e4, -1e4, 1e4];
        let log_sum = softmax(row.view_mut());
        assert_eq!(row, array![0.5, 0.0, 0.5]);
        assert!((log_sum - (1e4 + 2f64.ln())).abs() < 1e-11);
    }

    #[test]
    fn chunks_cover_every_row_once_and_in_order() {
        let features = Array2::from_shape_fn((2 * CHUNK + 3, 1), |(row, _)| row as f64);
        let labels = vec![0; features.nrows()];
        let block = Samples::new(features.view(), &labels, 2).unwrap();
        let seen: Vec<_> =
            map_chunks(&[block.rows(0..2), block.rows(2..block.len())], CHUNK, 2, |scratch, z, chunk| {
                assert_eq!((scratch.nrows(), z.nrows()), (chunk.len(), chunk.len()));
                z.column(0).to_vec()
            })
            .concat();
        assert_eq!(seen, features.column(0).to_vec());
    }

    #[test]
    fn sums_do_not_depend_on_how_many_parts_wait() {
        let features = Array2::from_shape_fn((20 * CHUNK + 3, 1), |(row, _)| (row as f64).sin());
        let labels = vec![0; features.nrows()];
        let block = Samples::new(features.view(), &labels, 2).unwrap();
        let sum = |elements| {
            let part = |_: ArrayViewMut2<'_, f64>, z: ArrayView2<'_, f64>, _: Samples<'_>| z.sum();
            sum_chunks(&[block], (CHUNK, 0, elements), part, 0.0, |sum, part| sum + part)
        };
        assert!(held(MOST_ELEMENTS) == 8 && held(1) > 21);
        assert_eq!(sum(MOST_ELEMENTS).to_bits(), sum(1).to_bits());
        assert!((sum(1) - features.sum()).abs() < 1e-9);
    }
}
