//! The two precisions that sums over samples are computed in.

use std::ops::{AddAssign, MulAssign, SubAssign};

use faer::traits::ComplexField;
use ndarray::{Array2, ArrayView2, LinalgScalar};
use pulp::{Arch, Simd, WithSimd};

use crate::Samples;

/// Partial sums. Their number is fixed, so that sums do not depend on the processor's registers.
const LANES: usize = 16;

/// A floating-point number of single or double precision.
pub(crate) trait Float:
    ComplexField + LinalgScalar + PartialOrd + AddAssign + SubAssign + MulAssign + Into<f64> + Send + Sync
{
    /// Negative infinity.
    const LEAST: Self;

    /// The nearest number of this precision.
    fn of(x: f64) -> Self;

    /// The features of a chunk, `[n, d]`: a view if they are stored in this precision, and of the first rows of
    /// `scratch` otherwise.
    fn read<'s, 'a: 's>(chunk: &Samples<'a>, scratch: &'s mut Array2<Self>) -> ArrayView2<'s, Self>;

    /// e to the power of a number that is not above 0. Where it would be subnormal, it is 0.
    fn exp(self) -> Self;
}

impl Float for f64 {
    const LEAST: Self = Self::NEG_INFINITY;

    fn of(x: f64) -> Self {
        x
    }

    fn read<'s, 'a: 's>(chunk: &Samples<'a>, scratch: &'s mut Array2<Self>) -> ArrayView2<'s, Self> {
        chunk.read(scratch)
    }

    /// To two units in the last place, for numbers up to 709.
    #[inline(always)]
    fn exp(self) -> Self {
        // Adding this number rounds to a whole number, which is then in the lowest bits.
        const ROUND: f64 = 6_755_399_441_055_744.0;
        const LN2: [f64; 2] = [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10];
        const LEAST: f64 = -708.0;
        const SERIES: [f64; 14] = factors();
        let x = self;
        let bounded = if x > LEAST { x } else { LEAST };
        let shifted = bounded.mul_add(std::f64::consts::LOG2_E, ROUND);
        let n = shifted - ROUND;
        let r = n.mul_add(-LN2[1], n.mul_add(-LN2[0], bounded));
        let power = f64::from_bits((shifted.to_bits() << 52).wrapping_add(0x3ff0_0000_0000_0000));
        let e = SERIES.iter().rev().fold(0.0f64, |sum, factor| sum.mul_add(r, *factor)) * power;
        if x >= LEAST {
            e
        } else if x < LEAST {
            0.0
        } else {
            x
        }
    }
}

impl Float for f32 {
    const LEAST: Self = Self::NEG_INFINITY;

    fn of(x: f64) -> Self {
        x as f32
    }

    fn read<'s, 'a: 's>(chunk: &Samples<'a>, scratch: &'s mut Array2<Self>) -> ArrayView2<'s, Self> {
        chunk.read_single(scratch)
    }

    /// To two units in the last place, for numbers up to 88.
    #[inline(always)]
    fn exp(self) -> Self {
        const ROUND: f32 = 12_582_912.0;
        const LN2: [f32; 2] = [6.931_457_5e-1, 1.428_606_8e-6];
        const LEAST: f32 = -87.0;
        const SERIES: [f64; 8] = factors();
        let x = self;
        let bounded = if x > LEAST { x } else { LEAST };
        let shifted = bounded.mul_add(std::f32::consts::LOG2_E, ROUND);
        let n = shifted - ROUND;
        let r = n.mul_add(-LN2[1], n.mul_add(-LN2[0], bounded));
        let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
        let e = SERIES.iter().rev().fold(0.0f32, |sum, factor| sum.mul_add(r, *factor as f32)) * power;
        if x >= LEAST {
            e
        } else if x < LEAST {
            0.0
        } else {
            x
        }
    }
}

/// The factors `1 / n!` of Taylor's series of `e^r`. For |r| at most ln(2) / 2 the terms that are left out are below
/// half a unit in the last place.
const fn factors<const N: usize>() -> [f64; N] {
    let mut factors = [1.0; N];
    let (mut i, mut factorial) = (1, 1.0);
    while i < N {
        factorial *= i as f64;
        factors[i] = 1.0 / factorial;
        i += 1;
    }
    factors
}

/// Replaces scores by `exp(score - shift)`, and returns the sum.
pub(crate) fn exponentials<T: Float>(scores: &mut [T], shift: T) -> T {
    Arch::new().dispatch(Exponentials { scores, shift })
}

/// The largest score; negative infinity if there are none.
pub(crate) fn largest<T: Float>(scores: &[T]) -> T {
    Arch::new().dispatch(Largest(scores))
}

/// Copies numbers to another precision.
pub(crate) fn convert<A: Float, B: Float>(from: &[A], to: &mut [B]) {
    Arch::new().dispatch(Converted { from, to });
}

struct Exponentials<'a, T> {
    scores: &'a mut [T],
    shift: T,
}

impl<T: Float> WithSimd for Exponentials<'_, T> {
    type Output = T;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> T {
        let Self { scores, shift } = self;
        let mut sums = [T::of(0.0); LANES];
        let (chunks, rest) = scores.as_chunks_mut::<LANES>();
        for chunk in chunks {
            for (x, sum) in chunk.iter_mut().zip(&mut sums) {
                *x = (*x - shift).exp();
                *sum += *x;
            }
        }
        for (x, sum) in rest.iter_mut().zip(&mut sums) {
            *x = (*x - shift).exp();
            *sum += *x;
        }
        sums.into_iter().fold(T::of(0.0), |all, sum| all + sum)
    }
}

struct Largest<'a, T>(&'a [T]);

impl<T: Float> WithSimd for Largest<'_, T> {
    type Output = T;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> T {
        let mut most = [T::LEAST; LANES];
        let (chunks, rest) = self.0.as_chunks::<LANES>();
        let larger = |most: &mut T, x: &T| *most = if *x > *most { *x } else { *most };
        chunks.iter().for_each(|chunk| most.iter_mut().zip(chunk).for_each(|(most, x)| larger(most, x)));
        most.iter_mut().zip(rest).for_each(|(most, x)| larger(most, x));
        most.into_iter().fold(T::LEAST, |most, x| if x > most { x } else { most })
    }
}

struct Converted<'a, A, B> {
    from: &'a [A],
    to: &'a mut [B],
}

impl<A: Float, B: Float> WithSimd for Converted<'_, A, B> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        self.from.iter().zip(self.to).for_each(|(from, to)| *to = B::of((*from).into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_those_of_the_library() {
        let scores: Vec<f64> = (0..200_003).map(|i| f64::from(i) * -0.00361 + 10.0).collect();
        let mut found = scores.clone();
        let sum = exponentials(&mut found, 3.0);
        for (x, e) in scores.iter().map(|x| x - 3.0).zip(&found) {
            let exact = if x < -708.0 { 0.0 } else { x.exp() };
            assert!((e - exact).abs() <= 4.5e-16 * exact, "{x}: {e} {exact}");
        }
        assert!((sum - found.iter().sum::<f64>()).abs() <= 1e-12 * sum);
        assert_eq!(largest(&scores), 10.0);
        assert_eq!(largest(&scores[5..7]), scores[5]);
    }

    #[test]
    fn single_exponentials_are_those_of_the_library() {
        let scores: Vec<f32> = (0..30_003).map(|i| i as f32 * -0.00361 + 3.0).collect();
        let mut found = scores.clone();
        let sum = exponentials(&mut found, 3.0);
        for (x, e) in scores.iter().map(|x| f64::from(x - 3.0)).zip(&found) {
            let exact = if x < -87.0 { 0.0 } else { x.exp() };
            assert!((f64::from(*e) - exact).abs() <= 2.4e-7 * exact, "{x}: {e} {exact}");
        }
        let exact = found.iter().map(|e| f64::from(*e)).sum::<f64>();
        assert!((f64::from(sum) - exact).abs() <= 1e-5 * exact);
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let mut scores = [f64::NAN, 0.0, f64::NEG_INFINITY];
        exponentials(&mut scores, 0.0);
        assert!(scores[0].is_nan() && scores[1] == 1.0 && scores[2] == 0.0, "{scores:?}");
        let mut scores = [f32::NAN, 0.0, f32::NEG_INFINITY];
        exponentials(&mut scores, 0.0);
        assert!(scores[0].is_nan() && scores[1] == 1.0 && scores[2] == 0.0, "{scores:?}");
    }
}
