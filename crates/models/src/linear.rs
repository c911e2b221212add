//! Linear maps and layer norms of frozen networks, on the processor.

use hemlock_dense::{Addend, Left, Packed, normalise, normalise_backward, product};

/// A linear map and its transpose.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    pub(crate) forward: Packed,
    pub(crate) backward: Packed,
    bias: Vec<f32>,
}

/// Normalised rows, and their inverse standard deviations.
#[derive(Debug, Default)]
pub(crate) struct Normalised {
    pub(crate) rows: Vec<f32>,
    scales: Vec<f32>,
}

/// The first `length` numbers of a buffer, whatever they are.
pub(crate) fn sized(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
    &mut buffer[..length]
}

impl Normalised {
    /// Normalises rows of a width, with an epsilon.
    pub(crate) fn forward(&mut self, (width, eps): (usize, f32), x: &[f32]) {
        self.rows.resize(x.len(), 0.0);
        self.scales.resize(x.len() / width, 0.0);
        normalise(width, eps, x, &mut self.rows, &mut self.scales);
    }

    /// Adds the gradient with respect to the input to `out`.
    pub(crate) fn backward(&self, width: usize, grad: &[f32], out: &mut [f32]) {
        normalise_backward(width, &self.rows, &self.scales, grad, out);
    }
}

impl Linear {
    /// The map `x -> after * (weight (before * x + shift) + bias)` with a `weight` of `[outputs, inputs]`, where
    /// `before` and `shift` are those of a layer norm.
    pub(crate) fn new(weight: &[f32], bias: &[f32], norm: Option<[&[f32]; 2]>, after: impl Fn(usize) -> f32) -> Self {
        let outputs = bias.len();
        let inputs = weight.len() / outputs;
        let mut rows = weight.to_vec();
        let mut all = bias.to_vec();
        for (o, row) in rows.chunks_exact_mut(inputs).enumerate() {
            if let Some([scale, shift]) = norm {
                let shifted = row.iter().zip(shift).map(|(w, s)| f64::from(*w) * f64::from(*s)).sum::<f64>();
                all[o] += shifted as f32;
                row.iter_mut().zip(scale).for_each(|(w, s)| *w *= s);
            }
            let after = after(o);
            row.iter_mut().for_each(|w| *w *= after);
            all[o] *= after;
        }
        Self {
            forward: Packed::transpose([inputs, outputs], |o| &rows[o * inputs..]),
            backward: Packed::new([outputs, inputs], |o| &rows[o * inputs..]),
            bias: all,
        }
    }

    /// Writes the map of rows that begin `from` values apart to rows that begin `to` values apart.
    pub(crate) fn apply(&self, rows: usize, x: &[f32], from: usize, out: &mut [f32], to: usize) {
        product(rows, Left::rows(x, from), &self.forward, out, to, Addend::Bias(&self.bias));
    }

    /// Adds the map of rows to rows.
    pub(crate) fn add(&self, rows: usize, x: &[f32], out: &mut [f32]) {
        let (inputs, outputs) = (self.backward.columns(), self.forward.columns());
        product(rows, Left::rows(x, inputs), &self.forward, out, outputs, Addend::ResultAndBias(&self.bias));
    }

    /// Writes the transposed map of rows that begin `from` values apart to rows, or adds it to them.
    pub(crate) fn transposed(&self, rows: usize, grad: &[f32], from: usize, out: &mut [f32], start: Addend<'_>) {
        product(rows, Left::rows(grad, from), &self.backward, out, self.backward.columns(), start);
    }

    /// Number of inputs.
    pub(crate) fn inputs(&self) -> usize {
        self.backward.columns()
    }
}
