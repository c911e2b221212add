//! Scaled dot-product attention of one image, head by head, so that its weights stay in the cache.

use pulp::{Arch, Simd, WithSimd};

use crate::activation::exp;
use crate::product::{Addend, Left, Packed, product};

/// The shape of queries, keys and values: rows of `[3, heads, channels]`, a row for each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Number of heads.
    pub count: usize,
    /// Channels of a head.
    pub channels: usize,
    /// Tokens of an image.
    pub tokens: usize,
    /// How many of the tokens, the first ones, are queries.
    pub queries: usize,
}

impl Heads {
    /// Channels of all heads.
    #[must_use]
    pub fn width(self) -> usize {
        self.count * self.channels
    }
}

/// Memory for the attention of one image, to be reused.
#[derive(Debug, Clone, Default)]
pub struct Attention {
    weights: Vec<f32>,
    grads: Vec<f32>,
    along: Vec<f32>,
    right: Packed,
}

impl Attention {
    /// The mean of the values, weighted by the softmax of queries times keys, for every query: `out`,
    /// `[queries, width]`. The logarithms of the softmax's denominators go to `logs`, `[heads, queries]`. The scale of
    /// the products is expected to be in the queries.
    ///
    /// # Panics
    /// If the slices are of other shapes.
    pub fn forward(&mut self, heads: Heads, qkv: &[f32], out: &mut [f32], logs: &mut [f32]) {
        let Heads { count, channels, tokens, queries: rows } = heads;
        let (width, stride) = (heads.width(), 3 * heads.width());
        self.weights.resize(rows * tokens, 0.0);
        for head in 0..count {
            let [queries, keys, values] = [0, 1, 2].map(|part| part * width + head * channels);
            self.right.set_transposed([channels, tokens], |i| &qkv[i * stride + keys..]);
            product(rows, Left::rows(&qkv[queries..], stride), &self.right, &mut self.weights, tokens, Addend::Zero);
            let logs = &mut logs[head * rows..][..rows];
            Arch::new().dispatch(Softmax { tokens, weights: &mut self.weights, logs });
            self.right.set([tokens, channels], |i| &qkv[i * stride + values..]);
            let out = &mut out[head * channels..];
            product(rows, Left::rows(&self.weights, tokens), &self.right, out, width, Addend::Zero);
        }
    }

    /// The gradient with respect to queries, keys and values, written to `grad_qkv`, given that with respect to the
    /// output, `grad`, and what [`forward`](Self::forward) wrote. Tokens that are no queries keep what `grad_qkv` has
    /// there for queries.
    ///
    /// # Panics
    /// If the slices are of other shapes.
    pub fn backward(
        &mut self,
        heads: Heads,
        qkv: &[f32],
        out: &[f32],
        logs: &[f32],
        grad: &[f32],
        grad_qkv: &mut [f32],
    ) {
        let Heads { count, channels, tokens, queries: rows } = heads;
        let (width, stride) = (heads.width(), 3 * heads.width());
        self.weights.resize(rows * tokens, 0.0);
        self.grads.resize(rows * tokens, 0.0);
        for head in 0..count {
            let own = head * channels;
            let [queries, keys, values] = [0, 1, 2].map(|part| part * width + own);
            let Self { weights, grads, along, right } = self;
            right.set_transposed([channels, tokens], |i| &qkv[i * stride + keys..]);
            product(rows, Left::rows(&qkv[queries..], stride), right, weights, tokens, Addend::Zero);
            right.set_transposed([channels, tokens], |i| &qkv[i * stride + values..]);
            product(rows, Left::rows(&grad[own..], width), right, grads, tokens, Addend::Zero);
            // The derivative of a softmax subtracts the mean gradient, which is the output times its gradient.
            along.clear();
            along.extend((0..rows).map(|i| {
                let [out, grad] = [out, grad].map(|rows| &rows[i * width + own..][..channels]);
                out.iter().zip(grad).map(|(o, g)| o * g).sum::<f32>()
            }));
            let logs = &logs[head * rows..][..rows];
            Arch::new().dispatch(SoftmaxBackward { tokens, weights, grads, logs, along });
            right.set([rows, channels], |i| &grad[i * width + own..]);
            product(tokens, Left::columns(weights, tokens), right, &mut grad_qkv[values..], stride, Addend::Zero);
            right.set([tokens, channels], |i| &qkv[i * stride + keys..]);
            product(rows, Left::rows(grads, tokens), right, &mut grad_qkv[queries..], stride, Addend::Zero);
            right.set([rows, channels], |i| &qkv[i * stride + queries..]);
            product(tokens, Left::columns(grads, tokens), right, &mut grad_qkv[keys..], stride, Addend::Zero);
        }
    }
}

/// Turns products into weights, row by row.
struct Softmax<'a> {
    tokens: usize,
    weights: &'a mut [f32],
    logs: &'a mut [f32],
}

/// Numbers that are folded side by side.
const LANES: usize = 16;

/// Folds numbers in an order that depends on their count alone.
#[inline(always)]
fn folded(row: &[f32], first: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [first; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane = f(*lane, *v);
        }
    }
    lanes.iter().chain(rest).fold(first, |a, b| f(a, *b))
}

impl WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (row, log) in self.weights.chunks_exact_mut(self.tokens).zip(self.logs) {
            let most = folded(row, f32::NEG_INFINITY, |a, b| if a > b { a } else { b });
            row.iter_mut().for_each(|v| *v = exp(*v - most));
            let sum = folded(row, 0.0, |a, b| a + b);
            row.iter_mut().for_each(|v| *v /= sum);
            *log = most + sum.ln();
        }
    }
}

/// Turns products into weights, and gradients with respect to weights into gradients with respect to products.
struct SoftmaxBackward<'a> {
    tokens: usize,
    weights: &'a mut [f32],
    grads: &'a mut [f32],
    logs: &'a [f32],
    along: &'a [f32],
}

impl WithSimd for SoftmaxBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let rows = self.weights.chunks_exact_mut(self.tokens).zip(self.grads.chunks_exact_mut(self.tokens));
        for ((weights, grads), (log, along)) in rows.zip(self.logs.iter().zip(self.along)) {
            for (weight, grad) in weights.iter_mut().zip(grads) {
                *weight = exp(*weight - log);
                *grad = *weight * (*grad - along);
            }
        }
    }
}
