//! Exponentials of rows of scores, vectorised.

use pulp::{Arch, Simd, WithSimd};

/// Partial sums. Their number is fixed, so that sums do not depend on the processor's registers.
const LANES: usize = 16;

/// Replaces scores by `exp(score - shift)`, and returns the sum.
pub(crate) fn exponentials(scores: &mut [f64], shift: f64) -> f64 {
    Arch::new().dispatch(Exponentials { scores, shift })
}

/// The largest score; negative infinity if there are none.
pub(crate) fn largest(scores: &[f64]) -> f64 {
    Arch::new().dispatch(Largest(scores))
}

struct Exponentials<'a> {
    scores: &'a mut [f64],
    shift: f64,
}

impl WithSimd for Exponentials<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        let Self { scores, shift } = self;
        let mut sums = [0.0; LANES];
        let (chunks, rest) = scores.as_chunks_mut::<LANES>();
        for chunk in chunks {
            for (x, sum) in chunk.iter_mut().zip(&mut sums) {
                *x = exp(*x - shift);
                *sum += *x;
            }
        }
        for (x, sum) in rest.iter_mut().zip(&mut sums) {
            *x = exp(*x - shift);
            *sum += *x;
        }
        sums.iter().sum()
    }
}

struct Largest<'a>(&'a [f64]);

impl WithSimd for Largest<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        let mut most = [f64::NEG_INFINITY; LANES];
        let (chunks, rest) = self.0.as_chunks::<LANES>();
        let larger = |most: &mut f64, x: &f64| *most = if *x > *most { *x } else { *most };
        chunks.iter().for_each(|chunk| most.iter_mut().zip(chunk).for_each(|(most, x)| larger(most, x)));
        most.iter_mut().zip(rest).for_each(|(most, x)| larger(most, x));
        most.into_iter().fold(f64::NEG_INFINITY, |most, x| if x > most { x } else { most })
    }
}

/// e to the power of x, for x up to 709, to two units in the last place. Below -708, where numbers become subnormal, it
/// is 0.
#[inline(always)]
fn exp(x: f64) -> f64 {
    // Adding this number rounds to a whole number, which is then in the lowest bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    const LN2: [f64; 2] = [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10];
    const LEAST: f64 = -708.0;
    let bounded = if x > LEAST { x } else { LEAST };
    let shifted = bounded.mul_add(std::f64::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2[1], n.mul_add(-LN2[0], bounded));
    let power = f64::from_bits((shifted.to_bits() << 52).wrapping_add(0x3ff0_0000_0000_0000));
    let e = series(r) * power;
    if x >= LEAST {
        e
    } else if x < LEAST {
        0.0
    } else {
        x
    }
}

/// Taylor's series of e^r up to the thirteenth power, for |r| at most ln(2) / 2.
#[inline(always)]
fn series(r: f64) -> f64 {
    const FACTORS: [f64; 14] = {
        let mut factors = [1.0; 14];
        let (mut i, mut factorial) = (1, 1.0);
        while i < factors.len() {
            factorial *= i as f64;
            factors[i] = 1.0 / factorial;
            i += 1;
        }
        factors
    };
    FACTORS.iter().rev().fold(0.0f64, |sum, factor| sum.mul_add(r, *factor))
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
    fn what_is_no_number_stays_none() {
        let mut scores = [f64::NAN, 0.0, f64::NEG_INFINITY];
        exponentials(&mut scores, 0.0);
        assert!(scores[0].is_nan() && scores[1] == 1.0 && scores[2] == 0.0, "{scores:?}");
    }
}
