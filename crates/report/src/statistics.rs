//! Tests over seeds: Student's paired t test, Welch's, and ranks.

use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

/// Values of which a mean is to be told: one per seed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Standard deviation (n - 1 in the denominator); 0 for one value.
    pub std: f64,
    /// Number of values.
    pub n: usize,
}

impl Estimate {
    /// The mean of values, if there are any.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n as f64 - 1.0).max(1.0);
        // Of values that are equal but for rounding, so is the mean, and a test would find them far from 0.
        let largest = values.iter().fold(0.0f64, |most, v| most.max(v.abs()));
        let std = variance.sqrt();
        Some(Self { mean, std: if std > 1e-12 * largest { std } else { 0.0 }, n })
    }

    fn error(&self) -> f64 {
        self.std / (self.n as f64).sqrt()
    }

    /// Half the width of the 95 % confidence interval of the mean, by Student's t; `None` where nothing varies: of one value, or of
    /// equal ones (an attack that draws nothing gives every seed the same).
    #[must_use]
    pub fn half_width(&self) -> Option<f64> {
        if self.std == 0.0 {
            return None;
        }
        let t = StudentsT::new(0.0, 1.0, self.n.checked_sub(1)? as f64).ok()?;
        Some(t.inverse_cdf(0.975) * self.error())
    }

    /// The one-sided p-value of the mean being at most 0: small where it is above. `None` where nothing varies.
    #[must_use]
    pub fn p_above(&self) -> Option<f64> {
        p_above(self.mean, self.error(), self.n.checked_sub(1)? as f64)
    }
}

/// Of two independent samples: the difference of their means, half the width of its 95 % confidence interval, and the one-sided
/// p-value of it being at most 0 (Welch, 1947). `None` where one has fewer than two values, or neither varies.
#[must_use]
pub fn welch(a: &Estimate, b: &Estimate) -> Option<(f64, f64, f64)> {
    if a.n < 2 || b.n < 2 {
        return None;
    }
    let (va, vb) = (a.error().powi(2), b.error().powi(2));
    let (difference, error) = (a.mean - b.mean, (va + vb).sqrt());
    let freedom = (va + vb).powi(2) / (va.powi(2) / (a.n - 1) as f64 + vb.powi(2) / (b.n - 1) as f64);
    let t = StudentsT::new(0.0, 1.0, freedom).ok()?;
    Some((difference, t.inverse_cdf(0.975) * error, p_above(difference, error, freedom)?))
}

fn p_above(mean: f64, error: f64, freedom: f64) -> Option<f64> {
    let t = StudentsT::new(0.0, 1.0, freedom).ok()?;
    (error > 0.0).then(|| t.sf(mean / error))
}

/// Page's trend test (1963): the one-sided p-value of no trend, given the mean over `blocks` of Spearman's correlation of `levels`
/// ordered levels with what was measured at them. By its normal approximation; `None` for fewer than two blocks.
#[must_use]
pub fn page(correlation: f64, blocks: usize, levels: usize) -> Option<f64> {
    let z = correlation * ((blocks * levels.saturating_sub(1)) as f64).sqrt();
    (blocks > 1).then(|| Normal::standard().sf(z))
}

/// Spearman's rank correlation, with mean ranks for ties; `None` for fewer than two pairs, or where one side is constant.
#[must_use]
pub fn spearman(pairs: &[(f64, f64)]) -> Option<f64> {
    let x = ranks(&pairs.iter().map(|p| p.0).collect::<Vec<_>>());
    let y = ranks(&pairs.iter().map(|p| p.1).collect::<Vec<_>>());
    let mean = (pairs.len() as f64 + 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>();
    let scale = (product(&x, &x) * product(&y, &y)).sqrt();
    (scale > 0.0).then(|| product(&x, &y) / scale)
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let below = |v: f64| values.iter().filter(|w| **w < v).count() as f64;
    let equal = |v: f64| values.iter().filter(|w| **w == v).count() as f64;
    values.iter().map(|v| below(*v) + (equal(*v) + 1.0) / 2.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-6, "{a} is not {b}");
    }

    /// Against `scipy.stats`: `ttest_1samp`, `t.interval`, `ttest_ind(equal_var=False)`, `spearmanr`.
    #[test]
    fn agrees_with_scipy() {
        let a = Estimate::of(&[1.0, 2.0, 4.0, 4.5]).unwrap();
        close(a.p_above().unwrap(), 0.020_019_090_4);
        close(a.half_width().unwrap(), 2.628_730_828_6);
        let b = Estimate::of(&[0.5, 0.7, 2.0]).unwrap();
        let (difference, half, p) = welch(&a, &b).unwrap();
        close(difference, 1.808_333_333_3);
        close(half, 2.518_949_811_8);
        close(p, 0.060_641_402_0);
        close(spearman(&[(0.0, 1.0), (1.0, 2.0), (2.0, 2.0), (3.0, 0.5)]).unwrap(), -0.316_227_766_0);
    }

    #[test]
    fn what_does_not_vary_tells_nothing_of_chance() {
        let one = Estimate::of(&[3.0]).unwrap();
        assert_eq!((one.mean, one.std, one.half_width(), one.p_above()), (3.0, 0.0, None, None));
        assert!(Estimate::of(&[]).is_none());
        let equal = Estimate::of(&[3.0, 3.0]).unwrap();
        assert_eq!((equal.half_width(), equal.p_above()), (None, None));
        assert_eq!(welch(&equal, &equal), None);
        assert_eq!(spearman(&[(1.0, 2.0), (2.0, 2.0)]), None);
    }

    /// The statistic by its definition: L, the sum over levels of their number times the ranks there, standardised (Page, 1963).
    #[test]
    fn page_is_a_mean_of_rank_correlations() {
        let blocks = [[1.0, 2.0, 4.0, 3.0], [1.0, 3.0, 2.0, 4.0], [2.0, 1.0, 3.0, 4.0]];
        let (n, k) = (3.0, 4.0);
        let l: f64 = blocks.iter().flat_map(|b| b.iter().enumerate().map(|(j, r)| (j as f64 + 1.0) * r)).sum();
        let z = (12.0 * l - 3.0 * n * k * (k + 1f64).powi(2)) / (n * k * k * (k * k - 1.0) * (k + 1.0)).sqrt();
        let correlation = |b: &[f64; 4]| spearman(&[0, 1, 2, 3].map(|j| (j as f64, b[j]))).unwrap();
        let mean = blocks.iter().map(correlation).sum::<f64>() / n;
        close(page(mean, 3, 4).unwrap(), Normal::standard().sf(z));
        assert_eq!(page(1.0, 1, 4), None);
    }

    /// The mean of three tenths is off by rounding.
    #[test]
    fn equal_values_vary_by_nothing() {
        for n in 2..20 {
            for value in [0.1, 0.502_25, -0.003] {
                let e = Estimate::of(&vec![value; n]).unwrap();
                assert_eq!((e.std, e.p_above(), e.half_width()), (0.0, None, None), "{n} of {value}");
            }
        }
    }
}
