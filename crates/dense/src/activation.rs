//! Activations of MLPs.

use pulp::{Arch, Simd, WithSimd};

/// An activation, and its derivative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x Φ(x).
    Gelu,
    /// x σ(2 √(2/π) (x + 0.044715 x³)).
    GeluTanh,
    /// x σ(1.702 x).
    QuickGelu,
    /// The gate silu(a) b, for rows `[a, b]` of two halves.
    SwiGlu,
}

impl Activation {
    /// Applies the activation to rows `[rows, from]` and writes `[rows, to]`, where `from` is `2 to` for a gate, and
    /// else equal to it.
    ///
    /// # Panics
    /// If the slices are of other shapes.
    pub fn forward(self, to: usize, x: &[f32], out: &mut [f32]) {
        Arch::new().dispatch(Forward { activation: self, to, x, out });
    }

    /// Turns the gradient with respect to the output, `[rows, to]`, into that with respect to the input `x`,
    /// `[rows, from]`.
    ///
    /// # Panics
    /// If the slices are of other shapes.
    pub fn backward(self, to: usize, x: &[f32], grad: &[f32], out: &mut [f32]) {
        Arch::new().dispatch(Backward { activation: self, to, x, grad, out });
    }
}

/// e to the power of x, to two units in the last place, for x from -87 to 88; beyond, its value at that limit.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding this number rounds to a whole number, which is then in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2[1], n.mul_add(-LN2[0], x));
    // Taylor's series of e^r up to the seventh power, for |r| at most ln(2) / 2.
    let series = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let p = series.into_iter().fold(0.0f32, |p, c| p.mul_add(r, c));
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
}

/// Φ(x) and φ(x), the normal distribution and its density. Φ has an error below 1e-7 (Abramowitz and Stegun, 7.1.26).
#[inline(always)]
fn normal(x: f32) -> [f32; 2] {
    const P: [f32; 5] = [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_72, 0.254_829_6];
    let e = exp(-0.5 * x * x);
    let t = 1.0 / x.abs().mul_add(0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2, 1.0);
    let tail = 0.5 * P.into_iter().fold(0.0f32, |p, c| p.mul_add(t, c)) * t * e;
    let phi = e * (0.5 * std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2);
    [if x < 0.0 { tail } else { 1.0 - tail }, phi]
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// x σ(g(x)) and its derivative, given g(x) and its derivative.
#[inline(always)]
fn gated(x: f32, g: f32, slope: f32) -> [f32; 2] {
    let s = sigmoid(g);
    [x * s, (x * s * (1.0 - s)).mul_add(slope, s)]
}

/// Value and derivative.
#[inline(always)]
fn gelu(x: f32) -> [f32; 2] {
    let [distribution, density] = normal(x);
    [x * distribution, x.mul_add(density, distribution)]
}

#[inline(always)]
fn gelu_tanh(x: f32) -> [f32; 2] {
    const C: f32 = 1.595_769;
    gated(x, C * x * (0.044_715 * x).mul_add(x, 1.0), C * (3.0 * 0.044_715 * x).mul_add(x, 1.0))
}

#[inline(always)]
fn quick_gelu(x: f32) -> [f32; 2] {
    gated(x, 1.702 * x, 1.702)
}

#[inline(always)]
fn silu(x: f32) -> [f32; 2] {
    gated(x, x, 1.0)
}

struct Forward<'a> {
    activation: Activation,
    to: usize,
    x: &'a [f32],
    out: &'a mut [f32],
}

/// Applies a function of two numbers to all.
#[inline(always)]
fn map(x: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out = f(*x));
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { activation, to, x, out } = self;
        match activation {
            Activation::Gelu => map(x, out, |x| gelu(x)[0]),
            Activation::GeluTanh => map(x, out, |x| gelu_tanh(x)[0]),
            Activation::QuickGelu => map(x, out, |x| quick_gelu(x)[0]),
            Activation::SwiGlu => {
                for (row, out) in x.chunks_exact(2 * to).zip(out.chunks_exact_mut(to)) {
                    let (a, b) = row.split_at(to);
                    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                        *out = silu(*a)[0] * b;
                    }
                }
            }
        }
    }
}

struct Backward<'a> {
    activation: Activation,
    to: usize,
    x: &'a [f32],
    grad: &'a [f32],
    out: &'a mut [f32],
}

#[inline(always)]
fn map_grad(x: &[f32], grad: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32) {
    out.iter_mut().zip(x).zip(grad).for_each(|((out, x), grad)| *out = grad * f(*x));
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { activation, to, x, grad, out } = self;
        match activation {
            Activation::Gelu => map_grad(x, grad, out, |x| gelu(x)[1]),
            Activation::GeluTanh => map_grad(x, grad, out, |x| gelu_tanh(x)[1]),
            Activation::QuickGelu => map_grad(x, grad, out, |x| quick_gelu(x)[1]),
            Activation::SwiGlu => {
                let rows = x.chunks_exact(2 * to).zip(grad.chunks_exact(to)).zip(out.chunks_exact_mut(2 * to));
                for ((row, grad), out) in rows {
                    let ((a, b), (grad_a, grad_b)) = (row.split_at(to), out.split_at_mut(to));
                    for i in 0..to {
                        let [value, slope] = silu(a[i]);
                        (grad_a[i], grad_b[i]) = (grad[i] * b[i] * slope, grad[i] * value);
                    }
                }
            }
        }
    }
}
