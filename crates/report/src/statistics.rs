//! Means over extractors, training data, attacks and test images, with confidence intervals and tests.
//!
//! A measured value, such as a drop, belongs to one extractor, one draw of training data, one run of the attack and one
//! set of test images. Seeds share some of these, so that results are no independent sample. Five seeds with one
//! extractor and the same test images say nothing about other extractors, and their spread says nothing about other
//! images. So values are modelled with crossed random effects:
//!
//! ```text
//! y(e, d, i) = mean + E(e) + D(d) + A(e, d) + I(i) + EI(e, i) + DI(d, i) + rest(e, d, i)
//! ```
//!
//! with extractors `e`, training data `d` and test images `i`. An attack is run once for each `e` and `d`, so the
//! randomness of the attack is part of `A`.
//!
//! The variance of the mean is estimated by the method of moments (Searle, Casella and McCulloch, 1992), and tested
//! with Student's t and Satterthwaite's degrees of freedom (1946): see [`infer`]. `docs/findings.md` says how well this
//! holds in simulations.

mod images;
mod infer;

#[cfg(test)]
mod calibration;

pub use images::{ImageDeviations, TestImages};
pub use infer::{Observation, infer};

use crate::words;
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

/// A mean, and its error as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Sample standard deviation of the values (with n - 1 in the denominator); 0 for one value.
    pub std: f64,
    /// Number of values.
    pub n: usize,
    /// The error of the mean, or the reason why it is not known.
    pub inference: Result<Inference, Lack>,
}

/// The error of a mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Inference {
    /// The variance of the mean.
    pub variance: f64,
    /// The parts of this variance, by source.
    pub components: Components,
    /// What the mean is taken over.
    pub scope: InferenceScope,
    /// The degrees of freedom: the square root of the numerator of Satterthwaite's formula, its denominator, and a
    /// lower bound.
    freedom: (f64, f64, f64),
}

/// The parts of the variance of a mean, by source.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Components {
    /// The part of test images that all values share.
    pub images: f64,
    /// The part of extractors.
    pub extractors: f64,
    /// The part of draws of training data.
    pub draws: f64,
    /// The remaining part: attacks, interactions, and test images that values do not share.
    pub rest: f64,
}

/// What a mean is taken over, and so what it generalises to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct InferenceScope {
    /// Number of extractors; if it is 1, the mean holds for this extractor.
    pub extractors: usize,
    /// Number of draws of training data; if it is 1, the mean holds for these data.
    pub draws: usize,
    /// Largest number of runs of an attack with the same extractor and data.
    pub attacks: usize,
    /// Whether extractors and training data are nested: every extractor has training data of its own, or every draw has
    /// extractors of its own.
    pub nested: bool,
    /// Mean share of training images that two draws have in common, in `[0, 1]`.
    pub overlap: f64,
    /// Which test images the values were measured on.
    pub images: ImageSharing,
    /// Number of values that were left out because others with the same extractor or training data are missing.
    pub left_out: usize,
    /// Whether the two sides of a difference have different extractors.
    pub sides: bool,
    /// Whether all extractors were pre-trained on the same images, so that they differ by their training alone.
    pub same_pretraining: bool,
}

/// How the values of a mean share test images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ImageSharing {
    /// The value is no mean over test images, or the test images are not known.
    #[default]
    Unknown,
    /// All values have the same test images; their number.
    Same(usize),
    /// Some values share some of their test images, but not all share all.
    Partly,
    /// Every draw of training data has test images of its own.
    Apart,
}

/// The reason why the error of a mean is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// There is only one value.
    One,
    /// All values are equal, and have the same extractor and training data.
    Equal,
    /// All values are equal, although extractors or training data differ.
    NoSpread,
    /// The sides of a difference have no seed in common.
    NoPairs,
    /// Too many combinations of extractor and training data have no result.
    Incomplete,
}

impl Lack {
    /// The reason in words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::One => "there is one seed, and a test needs at least two",
            Self::Equal => {
                "all seeds give the same result, because they draw nothing anew that matters; with \
                 `[dataset.downstream] seed = \"run\"` every seed has training images of its own"
            }
            Self::NoSpread => {
                "all seeds give the same result, although extractors or training data differ, so there is no spread \
                 to estimate an error from"
            }
            Self::NoPairs => "the two sides have no seed in common",
            Self::Incomplete => "too many combinations of extractor and training data have no result",
        }
    }
}

impl Estimate {
    /// The mean of independent values; `None` if there are none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let observations = values.iter().map(|value| Observation { value: *value, ..Observation::default() }).collect();
        Self::over(observations, &|_, _| 0.0)
    }

    /// The mean over observations; `None` if there are none. `overlap(a, b)` is the share of training images that two
    /// draws have in common.
    #[must_use]
    pub fn over(observations: Vec<Observation>, overlap: &dyn Fn(usize, usize) -> f64) -> Option<Self> {
        let values: Vec<f64> = observations.iter().map(|cell| cell.value).collect();
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let (mean, inference) = match infer(observations, overlap) {
            Ok((mean, inference)) => (mean, Ok(inference)),
            Err(lack) => (mean, Err(lack)),
        };
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n as f64 - 1.0).max(1.0);
        let equal = matches!(inference, Err(Lack::Equal | Lack::NoSpread));
        let std = if equal { 0.0 } else { variance.sqrt() };
        Some(Self { mean, std, n, inference })
    }

    /// The difference of two independent means (Welch, 1947). If they have something in common, such as test images,
    /// the true variance is smaller than this one.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let inference = match (self.inference, other.inference) {
            (Ok(a), Ok(b)) => Ok(a.beside(&b)),
            (Err(lack), _) | (_, Err(lack)) => Err(lack),
        };
        let std = self.std.hypot(other.std);
        Self { mean: self.mean - other.mean, std, n: self.n.min(other.n), inference }
    }

    /// Half the width of the 95 % confidence interval; `None` if the error is not known.
    #[must_use]
    pub fn half_width(&self) -> Option<f64> {
        let inference = self.inference.ok()?;
        Some(inference.quantile(0.975) * inference.variance.sqrt())
    }

    /// The one-sided p-value of the null hypothesis that the mean is at most 0; `None` if the error is not known.
    #[must_use]
    pub fn p_above(&self) -> Option<f64> {
        let inference = self.inference.ok()?;
        Some(inference.above(self.mean))
    }
}

impl Inference {
    /// The degrees of freedom; infinite if test images are the only source of variance.
    #[must_use]
    pub fn freedom(&self) -> f64 {
        let (root, denominator, least) = self.freedom;
        if denominator > 0.0 { (root * root / denominator).max(least) } else { f64::INFINITY }
    }

    /// Student's t distribution; `None` if there are so many degrees of freedom that it is normal.
    fn t(&self) -> Option<StudentsT> {
        StudentsT::new(0.0, 1.0, self.freedom()).ok().filter(|_| self.freedom() < 1e6)
    }

    fn quantile(&self, p: f64) -> f64 {
        self.t().map_or_else(|| Normal::standard().inverse_cdf(p), |t| t.inverse_cdf(p))
    }

    fn above(&self, mean: f64) -> f64 {
        let t = mean / self.variance.sqrt();
        self.t().map_or_else(|| Normal::standard().sf(t), |of| of.sf(t))
    }

    fn beside(&self, other: &Self) -> Self {
        let (a, b) = (&self.components, &other.components);
        let (x, y) = (&self.scope, &other.scope);
        Self {
            variance: self.variance + other.variance,
            components: Components {
                images: a.images + b.images,
                extractors: a.extractors + b.extractors,
                draws: a.draws + b.draws,
                rest: a.rest + b.rest,
            },
            scope: InferenceScope {
                extractors: x.extractors.min(y.extractors),
                draws: x.draws.min(y.draws),
                attacks: x.attacks.min(y.attacks),
                nested: x.nested || y.nested,
                overlap: x.overlap.max(y.overlap),
                images: x.images.beside(y.images),
                left_out: x.left_out + y.left_out,
                sides: x.sides || y.sides,
                same_pretraining: x.same_pretraining && y.same_pretraining,
            },
            freedom: (
                self.freedom.0 + other.freedom.0,
                self.freedom.1 + other.freedom.1,
                self.freedom.2.min(other.freedom.2),
            ),
        }
    }
}

impl ImageSharing {
    /// How the values of two means share test images, each mean with its own.
    fn beside(self, other: Self) -> Self {
        match (self, other) {
            (Self::Same(a), Self::Same(b)) => Self::Same(a + b),
            (a, b) if a == b => a,
            _ => Self::Unknown,
        }
    }
}

impl InferenceScope {
    /// What a mean generalises to, in words: `for this extractor, over 5 draws of training data, on the same 4000 test
    /// images in every seed`.
    #[must_use]
    pub fn words(&self) -> String {
        let this = if self.sides { "these extractors" } else { "this extractor" };
        let two = if self.draws > 1 { "two" } else { "two draws" };
        let share = match (100.0 * self.overlap).round() {
            share if share > 0.0 => format!(" ({two} share {share:.0} % of their images)"),
            _ => String::new(),
        };
        let pretrained = if self.same_pretraining { " (pre-trained on the same images)" } else { "" };
        let draws = format!("{} draws of training data{share}", self.draws);
        let mut words = match (self.extractors, self.draws) {
            (0 | 1, 0 | 1) => {
                format!(
                    "for {this} and these training data{share}, over {} of the attack",
                    words::count(self.attacks, "run")
                )
            }
            (0 | 1, _) => format!("for {this}, over {draws}"),
            (e, 0 | 1) => format!("over {e} extractors{pretrained}, for these training data{share}"),
            (e, _) if self.nested => format!("over {e} extractors{pretrained} and {draws}, which are nested"),
            (e, _) => format!("over {e} extractors{pretrained} and {draws}"),
        };
        match self.images {
            ImageSharing::Unknown => {}
            ImageSharing::Same(n) => words += &format!(", on the same {n} test images in every seed"),
            ImageSharing::Partly => words += ", on test images that seeds share in part",
            ImageSharing::Apart => words += ", on other test images with other training data",
        }
        if self.left_out > 0 {
            let results = words::count(self.left_out, "result");
            words +=
                &format!("; without {results}, because others with the same extractor or training data are missing");
        }
        // The simulations of `calibration`: the interval covers in 92 % of the cases.
        let two = [(self.extractors, "extractors"), (self.draws, "draws")].into_iter().find(|(count, _)| *count == 2);
        if let Some((_, what)) = two {
            words += &format!("; two {what} are few, so the interval is somewhat too short");
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-6, "{a} is not {b}");
    }

    /// Reference values of `scipy.stats`: `ttest_1samp`, `t.interval`, `ttest_ind(equal_var=False)`.
    #[test]
    fn values_without_images_are_tested_as_by_student() {
        let a = Estimate::of(&[1.0, 2.0, 4.0, 4.5]).unwrap();
        close(a.p_above().unwrap(), 0.020_019_090_4);
        close(a.half_width().unwrap(), 2.628_730_828_6);
        let b = Estimate::of(&[0.5, 0.7, 2.0]).unwrap();
        let difference = a.minus(&b);
        close(difference.mean, 1.808_333_333_3);
        let variance = difference.inference.unwrap().variance;
        close(variance, a.inference.unwrap().variance + b.inference.unwrap().variance);
        // Half of Welch's interval is 2.519 wide; this module's degrees of freedom are slightly different.
        let half = difference.half_width().unwrap();
        assert!((half - 2.518_949_811_8).abs() < 0.05, "{half}");
    }

    #[test]
    fn what_does_not_vary_tells_nothing_of_chance() {
        let one = Estimate::of(&[3.0]).unwrap();
        assert_eq!((one.mean, one.std, one.half_width(), one.p_above()), (3.0, 0.0, None, None));
        assert_eq!(one.inference, Err(Lack::One));
        assert!(Estimate::of(&[]).is_none());
        let equal = Estimate::of(&[3.0, 3.0]).unwrap();
        assert_eq!((equal.half_width(), equal.p_above(), equal.inference), (None, None, Err(Lack::Equal)));
        assert_eq!(equal.minus(&one).inference, Err(Lack::Equal));
    }

    /// The mean of equal values may differ from them by a rounding error.
    #[test]
    fn equal_values_vary_by_nothing() {
        for n in 2..20 {
            for value in [0.1, 0.502_25, -0.003] {
                let e = Estimate::of(&vec![value; n]).unwrap();
                assert_eq!((e.std, e.p_above(), e.half_width()), (0.0, None, None), "{n} of {value}");
            }
        }
    }

    #[test]
    fn scopes_say_what_they_are_of() {
        let scope = InferenceScope {
            extractors: 1,
            draws: 5,
            attacks: 1,
            images: ImageSharing::Same(4000),
            ..InferenceScope::default()
        };
        let said = "for this extractor, over 5 draws of training data, on the same 4000 test images in every seed";
        assert_eq!(scope.words(), said);
        let shared = InferenceScope { overlap: 0.4, extractors: 5, draws: 3, images: ImageSharing::Apart, ..scope };
        let said = "over 5 extractors and 3 draws of training data (two share 40 % of their images), on other test \
                    images with other training data";
        assert_eq!(shared.words(), said);
        let trained = InferenceScope { same_pretraining: true, overlap: 0.0, ..shared };
        let said = "over 5 extractors (pre-trained on the same images) and 3 draws of training data, on other test \
                    images with other training data";
        assert_eq!(trained.words(), said);
        let alike = InferenceScope { draws: 1, attacks: 3, overlap: 0.99, ..scope };
        let said = "for this extractor and these training data (two draws share 99 % of their images), over 3 runs of \
                    the attack, on the same 4000 test images in every seed";
        assert_eq!(alike.words(), said);
        let alone = InferenceScope { draws: 1, attacks: 3, images: ImageSharing::Unknown, sides: true, ..scope };
        assert_eq!(alone.words(), "for these extractors and these training data, over 3 runs of the attack");
        let few = InferenceScope { draws: 2, images: ImageSharing::Unknown, ..scope };
        let said = "for this extractor, over 2 draws of training data; two draws are few, so the interval is somewhat too \
                    short";
        assert_eq!(few.words(), said);
        let of = |n: usize| ImageSharing::Same(n);
        assert_eq!(of(4000).beside(of(1000)), of(5000));
        assert_eq!(ImageSharing::Apart.beside(ImageSharing::Apart), ImageSharing::Apart);
        assert_eq!(ImageSharing::Apart.beside(of(4000)), ImageSharing::Unknown);
    }
}
