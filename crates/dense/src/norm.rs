//! Layer norms without scale and shift, which belong to the linear map that follows.

use pulp::{Arch, Simd, WithSimd};

/// Sums that are held side by side.
const LANES: usize = 16;

/// Writes `(x - mean) / sqrt(variance + eps)` of each row of `[rows, width]` to `out`, and the inverse standard
/// deviations `[rows]` to `scales`.
///
/// # Panics
/// If the slices are of other shapes.
pub fn normalise(width: usize, eps: f32, x: &[f32], out: &mut [f32], scales: &mut [f32]) {
    Arch::new().dispatch(Forward { width, eps, x, out, scales });
}

/// Adds the gradient with respect to the input of [`normalise`] to `out`, `[rows, width]`, given that with respect to
/// its output, and what it wrote.
///
/// # Panics
/// If the slices are of other shapes.
pub fn normalise_backward(width: usize, normalised: &[f32], scales: &[f32], grad: &[f32], out: &mut [f32]) {
    Arch::new().dispatch(Backward { width, normalised, scales, grad, out });
}

/// The sum of a function of each number.
#[inline(always)]
fn sum(row: &[f32], f: impl Fn(usize, f32) -> f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for (c, chunk) in chunks.iter().enumerate() {
        for i in 0..LANES {
            sums[i] += f(c * LANES + i, chunk[i]);
        }
    }
    let from = chunks.len() * LANES;
    let rest: f32 = rest.iter().enumerate().map(|(i, v)| f(from + i, *v)).sum();
    sums.iter().sum::<f32>() + rest
}

struct Forward<'a> {
    width: usize,
    eps: f32,
    x: &'a [f32],
    out: &'a mut [f32],
    scales: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { width, eps, x, out, scales } = self;
        let rows = x.chunks_exact(width).zip(out.chunks_exact_mut(width)).zip(scales);
        for ((row, out), scale) in rows {
            let mean = sum(row, |_, v| v) / width as f32;
            let variance = sum(row, |_, v| (v - mean) * (v - mean)) / width as f32;
            *scale = 1.0 / (variance + eps).sqrt();
            for (out, v) in out.iter_mut().zip(row) {
                *out = (v - mean) * *scale;
            }
        }
    }
}

struct Backward<'a> {
    width: usize,
    normalised: &'a [f32],
    scales: &'a [f32],
    grad: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { width, normalised, scales, grad, out } = self;
        let rows = normalised.chunks_exact(width).zip(scales).zip(grad.chunks_exact(width));
        for (((normalised, scale), grad), out) in rows.zip(out.chunks_exact_mut(width)) {
            let mean = sum(grad, |_, g| g) / width as f32;
            let along = sum(&grad[..normalised.len()], |i, g| g * normalised[i]) / width as f32;
            for ((out, g), x) in out.iter_mut().zip(grad).zip(normalised) {
                *out += scale * (g - mean - x * along);
            }
        }
    }
}
